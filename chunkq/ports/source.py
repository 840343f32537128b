"""The origin's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from chunkq.protocol.fileidentity import FileIdentity
from chunkq.protocol.messages import Entry, RefusalReason


class SourceFile(Protocol):
    """One open version of a file that an origin offers. Calls block: use a thread."""

    @property
    def identity(self) -> FileIdentity:
        """As it was when opened."""
        ...

    @property
    def mode(self) -> int:
        """Permission bits, 0..0o777."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes, fewer only at the end of the file. Raises `StorageError`."""
        ...

    def hole_end(self, offset: int) -> int:
        """Where the hole at `offset` ends (the file's size at the last), or `offset` if none."""
        ...

    def changed(self) -> bool:
        """Whether the file is no longer the version that was opened."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ListingPage:
    """Entries of one directory, ordered by name; `cursor` goes on after them, None at the end.

    `omitted`: how many names among them cannot be offered (FIFOs, devices, no UTF-8).
    """

    entries: tuple[Entry, ...]
    cursor: str | None
    omitted: int = 0


@runtime_checkable
class Share(Protocol):
    """What an origin offers under one name. Paths are relative, `/`-separated, already checked.

    Both raise `NotFound` for whatever is not there or must not be seen. Calls block: use a thread.
    """

    def open(self, path: str) -> SourceFile: ...

    def list(self, path: str, cursor: str | None, limit: int) -> ListingPage: ...


@dataclass(frozen=True, slots=True)
class SmallFile:
    """One version of a file, whole. `mode`: permission bits, 0..0o777."""

    mode: int
    mtime_ns: int
    content: bytes


@runtime_checkable
class SmallFiles(Protocol):
    """A `Share` that reads many small files of a directory faster than by opening each."""

    def read_small(
        self, directory: str, names: Sequence[str], largest_bytes: int
    ) -> Iterator[SmallFile | RefusalReason]:
        """Each file in its turn, or why it cannot be had: `not_found`, `too_large`, `busy`.

        Not read before it is its turn. Blocks. Raises `StorageError` if the share is gone.
        """
        ...
