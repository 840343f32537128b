"""Who of a host's workers hashes a file, and how far it is: a lock file with two numbers in it."""

from __future__ import annotations

import fcntl
import os
import re
from types import TracebackType
from typing import Final, Self

from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.locks import lock_file
from chunkq.storage.mapping import storage_errors

_SUFFIX: Final = ".hashing"
#: Two numbers of at most 19 digits, padded, so that one write replaces the text whole.
_TEXT_BYTES: Final = 40
_PROGRESS: Final = re.compile(rb"([0-9]{1,19}) ([0-9]{1,19})")


class HashLock:
    """The right to hash one version of a file, until `release` or the end of the process."""

    def __init__(self, fd: int, directory_fd: int, name: str) -> None:
        self._fd = fd
        self._directory_fd = directory_fd
        self._name = name

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        """Tell the other workers how far it is. Raises `StorageError`."""
        text = f"{done_bytes} {total_bytes}".ljust(_TEXT_BYTES)
        with storage_errors("write", self._name):
            descriptors.write_full(self._fd, 0, [text.encode()])

    def release(self) -> None:
        """Let go; the lock file goes away."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                descriptors.remove_if_there(self._directory_fd, self._name)
            finally:  # or nobody else could hash that file as long as this process lives
                close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def take_hash_lock(directory_fd: int, directory: str, key: str) -> HashLock | None:
    """The lock of `key`, or None if another worker has it. Raises `StorageError`."""
    name = key + _SUFFIX
    path = os.path.join(directory, name)
    fd = lock_file(directory_fd, name, path)
    if fd is None:
        return None
    try:
        with storage_errors("ftruncate", path):
            os.ftruncate(fd, 0)  # what a holder that died had reported
    except BaseException:
        close(fd)  # and with it the lock, which nobody else would let go of
        raise
    return HashLock(fd, directory_fd, name)


def read_progress(
    directory_fd: int, directory: str, key: str, size_bytes: int
) -> tuple[int, int] | None:
    """What the holder of the lock of `key` reported last; None if nobody holds it.

    `size_bytes`: the total as long as nothing was reported.
    """
    name = key + _SUFFIX
    with storage_errors("read", os.path.join(directory, name)):
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory_fd)
        except FileNotFoundError:
            return None
        try:
            # A shared lock that can be had means that the holder died; other readers may have it.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = descriptors.read_full(fd, 0, _TEXT_BYTES)
        else:
            return None
        finally:
            close(fd)
    told = _PROGRESS.fullmatch(text.rstrip())
    if told is None or int(told[1]) > int(told[2]):
        return 0, size_bytes
    return int(told[1]), int(told[2])
