"""What a process takes of its machine, the service manager's socket, and malloc's thresholds."""

from __future__ import annotations

import mmap
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from chunkq.telemetry.notify import Notifier
from chunkq.telemetry.process import open_descriptors, resident_bytes


def test_what_a_process_takes_is_as_the_kernel_says(tmp_path: Path) -> None:
    """Memory in bytes, and each open file is one descriptor more."""
    before = open_descriptors()
    with (tmp_path / "one").open("wb"), (tmp_path / "two").open("wb"):
        assert before + 2 == open_descriptors()
    used = resident_bytes()
    # from the kernel, whatever memory malloc has kept
    kept = mmap.mmap(-1, 64 << 20)
    for page in range(0, len(kept), mmap.PAGESIZE):
        kept[page] = 1

    assert used + (60 << 20) < resident_bytes() < used + (80 << 20)
    kept.close()


@pytest.mark.parametrize("abstract", [False, True])
def test_sd_notify(tmp_path: Path, abstract: bool) -> None:
    """The datagrams of sd_notify(3), to a path and to an abstract socket."""
    name = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else name)
        manager.settimeout(5)
        notifier = Notifier(f"@{name}" if abstract else name)

        notifier.ready()
        notifier.status("serving\n2 peers")
        notifier.watchdog()
        notifier.stopping()

        assert [manager.recv(100) for _ in range(4)] == [
            b"READY=1",
            b"STATUS=serving 2 peers",
            b"WATCHDOG=1",
            b"STOPPING=1",
        ]


@pytest.mark.parametrize("address", [None, "", "/nonexistent/notify"])
def test_sd_notify_without_a_manager(address: str | None) -> None:
    """Nobody listening is no reason to fail."""
    assert Notifier(address).ready() is None


MALLOC = """
import resource, sys
from chunkq.telemetry.malloc import keep_buffers
if sys.argv[1] == "kept":
    assert keep_buffers()
def window():
    return [bytearray(b"x") * (1 << 18) for _ in range(16)]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
window()
before = faults()
for _ in range(20):
    window()
print(faults() - before)
"""


def test_malloc_keeps_buffers() -> None:
    """After `keep_buffers` a window of freed chunks is used again without new page faults."""
    faults = {
        mode: int(
            subprocess.run(
                [sys.executable, "-c", MALLOC, mode], check=True, capture_output=True, text=True
            ).stdout
        )
        for mode in ("kept", "default")
    }

    assert faults["kept"] * 10 < faults["default"]


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        pytest.param(64, 2048, 2048, id="as-far-as-allowed"),
        pytest.param(64, 20_000, 16_384, id="and-no-further-than-needed"),
        pytest.param(18_000, 20_000, 18_000, id="more-stays"),
        pytest.param(64, 64, 64, id="nothing-to-raise"),
    ],
)
def test_room_for_a_thousand_transfers(soft: int, hard: int, expected: int) -> None:
    """The limit on open files is raised, so that no shell's default ends transfers."""
    program = f"""
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
from chunkq.compose import prepare_process
prepare_process()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert f"{expected} {hard}" == done.stdout.strip(), done.stderr
