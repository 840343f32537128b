"""Where a sample of `perf` belongs: a stack, leaf first, to one of a few categories."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

KERNEL = "[kernel.kallsyms]"
#: `  ffffffff8141746c exit_to_user_mode_loop ([kernel.kallsyms])`
_FRAME = re.compile(r"^\s+[0-9a-f]+ (?P<symbol>.+) \((?P<place>.+)\)$")
#: `python   483/504`
_HEAD = re.compile(r"^\S.*?\s(?P<pid>\d+)/(?P<tid>\d+)\s*$")

INTERPRETER = "the interpreter and its libraries"
OTHER_KERNEL = "kernel: the rest"
#: Kernel functions anywhere in the stack; the first rule that fits decides. An interrupt is told
#: apart first, whatever it interrupts; sockets before files, as both pass through `vfs_write`.
KERNEL_RULES = (
    ("interrupts", r"asm_(sysvec|common_interrupt)"),
    ("sending (kernel)", r"sys_send|sock_sendmsg|sock_write_iter|tcp_sendmsg"),
    ("receiving (kernel)", r"sys_recv|sock_recvmsg|sock_read_iter|tcp_recvmsg"),
    ("sync (kernel)", r"sys_fsync|fdatasync|do_fsync|vfs_fsync|sync_file_range"),
    ("writing files (kernel)", r"vfs_write|vfs_iter_write|do_pwritev|sys_pwrite|fallocate"),
    ("reading files (kernel)", r"vfs_read|vfs_iter_read|do_preadv|sys_pread"),
    ("futex", r"futex"),
    ("waiting (epoll)", r"sys_epoll|do_epoll|ep_poll|sys_poll|sys_select"),
    (
        "names: open, stat, rename, close",
        r"open|stat|rename|unlink|link|mkdir|flock|close|getdents",
    ),
    ("page faults and mappings", r"page_fault|sys_mmap|sys_munmap|sys_madvise|sys_brk|mm_fault"),
)
#: The file that the code is in, its function.
USER_RULES = (
    ("keys and signatures", r"_sodium", r"ladder|25519|scalar|sha512|blake2b"),
    ("AEAD", r"_sodium|libsodium", r""),
    ("BLAKE3", r"blake3", r""),
    ("compression", r"zstd|zlib", r""),
    ("copying and zeroing", r"libc[.-]|ld-", r"mem(move|cpy|set)"),
    ("malloc", r"libc[.-]", r"alloc|free|_int_|unlink_chunk|consolidate"),
)


@dataclass(frozen=True)
class Frame:
    symbol: str
    place: str


@dataclass(frozen=True)
class Sample:
    """One moment of one thread; `frames` begin where it was."""

    pid: int
    frames: tuple[Frame, ...]


def parse(lines: Iterable[str]) -> Iterator[Sample]:
    """What `perf script -F comm,pid,tid,ip,sym,dso` prints: a head, frames, an empty line."""
    pid, frames = 0, list[Frame]()
    for line in lines:
        if head := _HEAD.match(line):
            pid = int(head["pid"])
        elif frame := _FRAME.match(line):
            frames.append(Frame(frame["symbol"], frame["place"]))
        elif not line.strip() and frames:
            yield Sample(pid, tuple(frames))
            frames = []
    if frames:
        yield Sample(pid, tuple(frames))


def category(frames: tuple[Frame, ...]) -> str:
    leaf = frames[0]
    if leaf.place == KERNEL:
        names = " ".join(frame.symbol for frame in frames if frame.place == KERNEL)
        for name, pattern in KERNEL_RULES:
            if re.search(pattern, names):
                return name
        return OTHER_KERNEL
    file = leaf.place.rpartition("/")[2]
    for name, place, symbol in USER_RULES:
        if re.search(place, file) and re.search(symbol, leaf.symbol):
            return name
    return INTERPRETER


def shares(samples: Iterable[Sample]) -> dict[int, dict[str, float]]:
    """Of each process: its categories' shares of its samples, which add up to 1."""
    counts: dict[int, Counter[str]] = {}
    for sample in samples:
        counts.setdefault(sample.pid, Counter())[category(sample.frames)] += 1
    return {
        pid: {name: count / found.total() for name, count in found.items()}
        for pid, found in counts.items()
    }
