"""What Python makes of system calls: `open()`'s objects and `scandir`'s entries."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any, Self

from tests.simulation.inodes import Directory, Inode
from tests.simulation.opened import FIRST_FD

if TYPE_CHECKING:
    from tests.simulation.kernel import Kernel


class Entry:
    """As `os.DirEntry`: looked at when asked."""

    __slots__ = ("_device", "_inode", "name", "path")

    def __init__(self, name: str, path: str, inode: Inode, device: int) -> None:
        self.name = name
        self.path = path
        self._inode = inode
        self._device = device

    def __fspath__(self) -> str:
        return self.path

    def inode(self) -> int:
        return self._inode.number

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        return self._inode.status(self._device)

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        return isinstance(self._inode, Directory)

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        return stat.S_ISREG(self._inode.kind)

    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self._inode.kind)


class Entries:
    """As what `os.scandir` returns."""

    def __init__(self, entries: list[Entry]) -> None:
        self._entries = iter(entries)

    def __iter__(self) -> Iterator[Entry]:
        return self._entries

    def __next__(self) -> Entry:
        return next(self._entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._entries = iter(())


class RawFile(io.RawIOBase):
    """A descriptor of the simulation as a raw stream."""

    def __init__(self, kernel: Kernel, fd: int, name: str, *, reads: bool, writes: bool) -> None:
        super().__init__()
        self._kernel = kernel
        self._fd = fd
        self._reads = reads
        self._writes = writes
        self.name = name

    def fileno(self) -> int:
        return self._fd

    def readable(self) -> bool:
        return self._reads

    def writable(self) -> bool:
        return self._writes

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._kernel.lseek(self._fd, offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._kernel.read(self._fd, view.nbytes)
        view[: len(data)] = data
        return len(data)

    def write(self, data: Any, /) -> int:
        return self._kernel.write(self._fd, data)

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._kernel.close(self._fd)


_FLAGS = {
    "r": os.O_RDONLY,
    "w": os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    "a": os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    "x": os.O_WRONLY | os.O_CREAT | os.O_EXCL,
}


def opened(  # noqa: PLR0917 - as the real one
    kernel: Kernel,
    file: str | int,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
    closefd: bool = True,
    opener: object = None,
) -> IO[Any]:
    """As `open`, for a path below the root of the simulation or one of its descriptors."""
    if opener is not None or not closefd:
        raise ValueError(f"open({file!r}, {mode!r}): the simulation knows no such files")
    kind, both = mode.strip("bt+"), "+" in mode
    flags = _FLAGS[kind]
    if both:
        flags = flags & ~os.O_ACCMODE | os.O_RDWR
    fd = file if isinstance(file, int) else kernel.open(file, flags, 0o666)
    assert fd >= FIRST_FD
    raw = RawFile(kernel, fd, str(file), reads=kind == "r" or both, writes=kind != "r" or both)
    if "b" in mode and buffering == 0:
        return raw  # type: ignore[return-value]
    buffered: io.BufferedRandom | io.BufferedReader | io.BufferedWriter
    if both:
        buffered = io.BufferedRandom(raw)
    else:
        buffered = io.BufferedReader(raw) if kind == "r" else io.BufferedWriter(raw)
    if "b" in mode:
        return buffered
    return io.TextIOWrapper(buffered, encoding or "utf-8", errors, newline)
