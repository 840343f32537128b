"""Ends of processes and failures of disks, for real where that can be had."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from chunkq.storage import linux

#: Every call of this floor that changes a disk.
CHANGES = (
    "fchmod",
    "fdatasync",
    "fsync",
    "ftruncate",
    "link",
    "mkdir",
    "pwritev",
    "rename",
    "replace",
    "rmdir",
    "unlink",
    "utime",
)


def run_in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked process; its exit status, or minus the signal that ended it."""
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork beside threads
        pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def kill_before(nth: int, calls: Iterable[str] = CHANGES) -> None:
    """Let this process end by SIGKILL just before the nth of these `os` calls (from 0)."""
    left = nth

    def wrap(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return real(*arguments, **keywords)

        return counted

    for name in calls:
        setattr(os, name, wrap(getattr(os, name)))


def killed_at_every_step(
    work: Callable[[], None], check: Callable[[int], None], reset: Callable[[], None]
) -> int:
    """Kill `work` before each of its changes of the disk in turn, and `check` what is left.

    Returns the number of steps. `reset` prepares each round.
    """
    for step in range(1000):
        reset()

        def child(step: int = step) -> None:
            kill_before(step)
            work()

        status = run_in_child(child)
        check(step)
        if status == 0:
            return step
        assert -signal.SIGKILL == status
    raise AssertionError("it never ends")


class FailingCall:
    """An `os` call that fails on its nth time (from 0) and works otherwise."""

    def __init__(
        self, patch: pytest.MonkeyPatch, name: str, number: int, *, at: int = 0, times: int = 1
    ) -> None:
        self.calls = 0
        self._number, self._failing = number, range(at, at + times)
        self._real = getattr(os, name)
        patch.setattr(os, name, self)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        call, self.calls = self.calls, self.calls + 1
        if call in self._failing:
            raise OSError(self._number, os.strerror(self._number))
        return self._real(*arguments, **keywords)


class Quota:
    """A directory that behaves like a small disk, for who may not mount one."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self._reserved: list[tuple[int, int, int]] = []

    def install(self, patch: pytest.MonkeyPatch) -> None:
        write, status, reserve = os.pwritev, os.fstatvfs, linux.reserve

        def pwritev(fd: int, buffers: Sequence[Any], offset: int) -> int:
            size = sum(map(len, buffers))
            if not self._has_room_at(fd, offset, size) and self._free_bytes() < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(fd, buffers, offset)

        def fstatvfs(fd: int) -> os.statvfs_result:
            fields = list(status(fd))
            fields[1], fields[4] = 4096, self._free_bytes() // 4096
            return os.statvfs_result(fields)

        def reserve_room(fd: int, offset: int, length: int) -> None:
            reserve(fd, offset, length)
            self._reserved.append((os.fstat(fd).st_ino, offset, offset + length))

        patch.setattr(os, "pwritev", pwritev)
        patch.setattr(os, "fstatvfs", fstatvfs)
        patch.setattr(linux, "reserve", reserve_room)

    def _has_room_at(self, fd: int, offset: int, size: int) -> bool:
        return any(
            inode == os.fstat(fd).st_ino and start <= offset and offset + size <= stop
            for inode, start, stop in self._reserved
        )

    def _free_bytes(self) -> int:
        taken = sum(each.lstat().st_blocks * 512 for each in self._path.rglob("*"))
        return max(0, self._size_bytes - taken)
