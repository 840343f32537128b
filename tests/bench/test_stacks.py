"""Samples of perf fall into the categories of the table, those of py-spy to our functions."""

from __future__ import annotations

import pytest

from tests.bench import functions
from tests.bench.stacks import INTERPRETER, KERNEL, OTHER_KERNEL, Frame, category, parse, shares

#: As `perf script` prints it: a sample each of two processes, one of them in the kernel.
SCRIPT = """\
python   483/504   
\tffffffff81b6ccb0 _copy_to_iter ([kernel.kallsyms])
\tffffffff816badaa vfs_read ([kernel.kallsyms])
\tffffffff816bbc23 __x64_sys_pread64 ([kernel.kallsyms])
\tffffffff821ef691 do_syscall_64 ([kernel.kallsyms])
\t          1ab3c2 pread64 (/usr/lib/x86_64-linux-gnu/libc.so.6)

a thread of ours   498/498   
\t           fc38f _PyEval_EvalFrameDefault (/usr/lib/libpython3.11.so.1.0)
\t    7fa1a2e56240 [unknown] ([unknown])

python   483/483   
\t           11111 operator new(unsigned long) (/usr/lib/libstdc++.so.6)

python   483/483   
\t          22222 __memmove_avx512_unaligned_erms (/usr/lib/libc.so.6)
"""  # noqa: W291


def kernel(*symbols: str) -> tuple[Frame, ...]:
    return tuple(Frame(symbol, KERNEL) for symbol in symbols)


def user(symbol: str, file: str) -> tuple[Frame, ...]:
    return (Frame(symbol, f"/usr/lib/{file}"), Frame("[unknown]", "[unknown]"))


def test_what_perf_prints_is_read_sample_by_sample() -> None:
    """Heads with blanks in the name, symbols with blanks and brackets, no empty line at the end."""
    found = list(parse(SCRIPT.splitlines()))

    assert [483, 498, 483, 483] == [sample.pid for sample in found]
    assert [5, 2, 1, 1] == [len(sample.frames) for sample in found]
    assert Frame("operator new(unsigned long)", "/usr/lib/libstdc++.so.6") == found[2].frames[0]


def test_shares_are_told_apart_by_process() -> None:
    """And add up to one in each."""
    third = pytest.approx(1 / 3)

    assert {
        483: {"reading files (kernel)": third, INTERPRETER: third, "copying and zeroing": third},
        498: {INTERPRETER: 1.0},
    } == shares(parse(SCRIPT.splitlines()))


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        (kernel("iomap_iter", "ext4_file_write_iter", "vfs_writev"), "writing files (kernel)"),
        (kernel("tcp_sendmsg", "sock_write_iter", "vfs_write"), "sending (kernel)"),
        (kernel("skb_copy", "__x64_sys_recvfrom"), "receiving (kernel)"),
        (kernel("submit_bio", "__x64_sys_fdatasync"), "sync (kernel)"),
        (kernel("clear_page", "asm_exc_page_fault"), "page faults and mappings"),
        (kernel("clear_page", "asm_exc_page_fault", "vfs_write"), "writing files (kernel)"),
        (kernel("futex_wake", "__x64_sys_futex"), "futex"),
        (kernel("ep_poll", "do_epoll_wait"), "waiting (epoll)"),
        (kernel("path_openat", "do_sys_openat2"), "names: open, stat, rename, close"),
        (kernel("handle_softirqs", "asm_sysvec_apic_timer_interrupt", "vfs_write"), "interrupts"),
        (kernel("do_syscall_64"), OTHER_KERNEL),
        (user("_blake3_hash_many_avx512", "blake3.cpython-311.so"), "BLAKE3"),
        (user("crypto_aead_aes256gcm_encrypt", "_sodium.abi3.so"), "AEAD"),
        (user("._ladder_loop", "_sodium.abi3.so"), "keys and signatures"),
        (user("__memset_avx2", "libc.so.6"), "copying and zeroing"),
        (user("_int_malloc", "libc.so.6"), "malloc"),
        (user("epoll_wait", "libc.so.6"), INTERPRETER),
        (user("ZSTD_compressBlock", "_zstd.cpython-314.so"), "compression"),
        (user("PyObject_Malloc", "libpython3.11.so.1.0"), INTERPRETER),
    ],
)
def test_a_stack_has_its_category(frames: tuple[Frame, ...], expected: str) -> None:
    """By the file of the code that ran; in the kernel by what it was called for."""
    assert expected == category(frames)


def test_the_innermost_function_of_ours_answers_for_what_it_calls() -> None:
    """A library's frames below it are its own; a stack without ours is told by its innermost."""
    lines = [
        "run (asyncio/runners.py);A.feed (chunkq/runtime/a.py);pack (struct.py) 3",
        "run (asyncio/runners.py);A.feed (chunkq/runtime/a.py);B._on (pika/channel.py) 2",
        "run (asyncio/runners.py);A.feed (chunkq/runtime/a.py) 4",
        "run (asyncio/runners.py);select (selectors.py) 1",
        "",
    ]

    assert {
        "runtime/a.py A.feed": 0.7,
        "pika/channel.py B._on": 0.2,
        "selectors.py select": 0.1,
    } == functions.shares(lines)
