"""What stands at a path, without following it, and which version of it."""

from __future__ import annotations

import os
import stat
from enum import StrEnum
from typing import Final

from chunkq.ports import FileIdentity

#: Nanoseconds since 1970 travel as i64.
_TIME_LIMIT: Final = 1 << 63


class Kind(StrEnum):
    """`SPECIAL`: FIFO, socket or device."""

    NOTHING = "nothing"
    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    SPECIAL = "FIFO, socket or device"


def kind_of(status: os.stat_result) -> Kind:
    if stat.S_ISREG(status.st_mode):
        return Kind.FILE
    if stat.S_ISDIR(status.st_mode):
        return Kind.DIRECTORY
    return Kind.LINK if stat.S_ISLNK(status.st_mode) else Kind.SPECIAL


def lstat_at(directory_fd: int, name: str) -> os.stat_result | None:
    """The status of `name` itself, or None. Raises `OSError` other than not found."""
    try:
        return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def is_regular(fd: int) -> bool:
    return stat.S_ISREG(os.fstat(fd).st_mode)


def identity_of(status: os.stat_result) -> FileIdentity:
    return FileIdentity(
        device=status.st_dev,
        inode=status.st_ino,
        size_bytes=status.st_size,
        mtime_ns=time_ns(status.st_mtime_ns),
        ctime_ns=time_ns(status.st_ctime_ns),
    )


def time_ns(file_time_ns: int) -> int:
    """A file's time as packets and records carry it: 64 bits end in 2262, ext4's years in 2446."""
    return min(max(file_time_ns, -_TIME_LIMIT), _TIME_LIMIT - 1)
