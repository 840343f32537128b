"""Files that are locked for as long as they are in use, and that may be removed under a waiter."""

from __future__ import annotations

import fcntl
import os
import re
from typing import Final

from chunkq.errors import DestinationUnusable, StorageError
from chunkq.storage.closing import close
from chunkq.storage.kinds import is_regular
from chunkq.storage.mapping import storage_errors, translate

#: A file or its directory may be removed between open and lock by whoever had it; try again so
#: often before saying so.
MAX_ATTEMPTS: Final = 20
_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
#: `<n>: FLOCK ADVISORY WRITE <pid> <major>:<minor>:<inode> ...`, device in hexadecimal.
_FLOCK_LINE: Final = re.compile(r"FLOCK\s+\S+\s+\S+\s+\d+\s+([0-9a-f]+):([0-9a-f]+):(\d+)")


def lock_file(
    directory_fd: int, name: str, path: str, *, create: bool = True, mode: int = 0o600
) -> int | None:
    """Open `name` and lock it; the descriptor holds the lock until it is closed.

    None if somebody else has it, or if it is not there and `create` is false. Raises
    `StorageError`; `path` is for its message.
    """
    flags = _FLAGS | (os.O_CREAT if create else 0)
    for _ in range(MAX_ATTEMPTS):
        try:
            fd = os.open(name, flags, mode, dir_fd=directory_fd)
        except FileNotFoundError as error:
            if not create:
                return None
            raise translate(error, "open", path, destination=True) from error
        except OSError as error:
            raise translate(error, "open", path, destination=True) from error
        taken = False
        try:
            with storage_errors("stat", path, destination=True):
                if not is_regular(fd):
                    raise DestinationUnusable(
                        f"{path} is not a regular file", hint="remove what is there"
                    )
                if not _take(fd, path):
                    return None
                taken = is_current(fd, directory_fd, name)
        finally:
            if not taken:
                close(fd)
        if taken:
            return fd
    raise StorageError(f"lock {path}: it was removed {MAX_ATTEMPTS} times while being locked")


def _take(fd: int, path: str) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise translate(error, "flock", path, destination=True) from error
    return True


def is_current(fd: int, directory_fd: int, name: str) -> bool:
    """Whether `name` is still the file behind `fd`: a lock on a removed file protects nothing."""
    try:
        return os.path.samestat(
            os.fstat(fd), os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        )
    except FileNotFoundError:
        return False


def locked_inodes() -> set[tuple[int, int]]:
    """`(device, inode)` of every file on this host that is locked by flock, without locking any.

    Device 0 stands for file systems whose device numbers differ between the kernel's table and
    stat (btrfs, overlay). Empty where there is no /proc.
    """
    try:
        with open("/proc/locks", encoding="ascii") as table:
            lines = table.readlines()
    except OSError:
        return set()
    found: set[tuple[int, int]] = set()
    for line in lines:
        match = _FLOCK_LINE.search(line)
        if match:
            major, minor, inode = int(match[1], 16), int(match[2], 16), int(match[3])
            found.add((os.makedev(major, minor), inode))
            found.add((0, inode))
    return found


def is_locked(status: os.stat_result, locked: set[tuple[int, int]]) -> bool:
    """Whether the file of `status` is among `locked_inodes()`."""
    return lock_key(status) in locked


def lock_key(status: os.stat_result) -> tuple[int, int]:
    """What stands for the file of `status` in `locked_inodes()`."""
    return (status.st_dev if os.major(status.st_dev) else 0), status.st_ino
