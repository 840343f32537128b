"""Files of lines to which several processes append: whole lines, durable, bounded by rotation.

Lines are appended whole and synced, under a lock; a full file is moved to `<name>.1`, whose
predecessor goes.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from typing import Final

from chunkq.errors import StorageError
from chunkq.storage.locks import MAX_ATTEMPTS
from chunkq.storage.mapping import storage_errors

_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class AppendedFile:
    """A file of lines. `first_line()` begins each file anew, if given. Raises `StorageError`."""

    def __init__(self, path: str | os.PathLike[str], max_size_bytes: int) -> None:
        self.path = os.path.abspath(path)
        self.max_size_bytes = max_size_bytes

    @property
    def paths(self) -> tuple[str, str]:
        """Both files, the older one first; either may be missing."""
        return f"{self.path}.1", self.path

    def first_line(self) -> bytes:
        """What a new file begins with."""
        return b""

    def append(self, lines: Iterable[bytes], *, durable: bool = True) -> None:
        """Append lines, each with its end, in one write; none costs nothing."""
        data = b"".join(lines)
        if not data:
            return
        with storage_errors("write", self.path):
            os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
            fd = self._locked()
            try:
                size = os.fstat(fd).st_size
                if not size:
                    data = self.first_line() + data
                elif os.pread(fd, 1, size - 1) != b"\n":
                    data = b"\n" + data  # whoever wrote last did not get to the end of its line
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
                if durable:
                    os.fdatasync(fd)
            finally:
                os.close(fd)

    def lines(self) -> Iterator[str]:
        """All lines, the oldest first."""
        for name in self.paths:
            with storage_errors("read", name):
                try:
                    file = open(name, encoding="utf-8", errors="replace")  # noqa: SIM115
                except FileNotFoundError:
                    continue
                with file:
                    yield from file

    def _locked(self) -> int:
        """The file, open and locked; a full one has made way. Raises `OSError`, `StorageError`."""
        for _ in range(MAX_ATTEMPTS):
            fd = os.open(self.path, _FLAGS, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                status = os.fstat(fd)
                # Another process may have moved it while this one waited for the lock.
                current = os.path.samestat(status, os.stat(self.path))
                if current and status.st_size < self.max_size_bytes:
                    return fd
                if current:
                    os.replace(self.path, f"{self.path}.1")
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        raise StorageError(f"{self.path} was moved away again and again")
