"""The requester's files: the part file, the state file, and where both lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.digest import Buffer
from chunkq.protocol.geometry import Geometry


class PartFile(Protocol):
    """The unfinished file. Calls block and come from one thread at a time."""

    def matches(self, geometry: Geometry) -> bool:
        """Whether it is there, with the size of this geometry."""
        ...

    def allocate(self, geometry: Geometry, holes: Bitmap | None) -> None:
        """Set the size and reserve room for what is no hole. Raises `DiskFull`."""
        ...

    def resize(self, geometry: Geometry) -> None:
        """Set the size and reserve nothing: for a file of which little may be data."""
        ...

    def discard(self, offset: int, length: int) -> None:
        """Make a run read as zeros, giving its blocks back where the file system can."""
        ...

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one behind the other at `offset`. Raises `DiskFull`, `StorageError`."""
        ...

    def read_into(self, offset: int, data: memoryview) -> int:
        """Fill `data` from `offset`; how much, less only at the end of the file.

        Page-aligned memory lets this and `write` pass by the page cache. Raises `StorageError`.
        """
        ...

    def hole_end(self, offset: int) -> int:
        """Where the hole at `offset` ends (the file's size at the last), or `offset` if none."""
        ...

    def sync(self) -> None:
        """fdatasync. After `SyncFailed`, what was not durable before counts as absent."""
        ...

    def close(self) -> None: ...


class Taken(Enum):
    """What a listing's entry means here."""

    WANTED = auto()
    UNCHANGED = auto()
    DIRECTORY = auto()
    LINK = auto()
    LINK_LEFT = auto()


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that came whole and verified, to be placed at `parts` below the destination."""

    parts: tuple[str, ...]
    mode: int
    mtime_ns: int
    content: Buffer
    content_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferState:
    """One slot of a state file: what is durably known of a transfer.

    `root` is 32 bytes, all zero before a manifest is known; `bitmap` has the geometry's count.
    """

    generation: int
    phase: int
    root: bytes
    size_bytes: int
    chunk_size_bytes: int
    bitmap: Bitmap


class StateFile(Protocol):
    """Two slots written in turn. Calls block."""

    def load(self) -> TransferState | None:
        """The newest valid slot, or None if the file is new. Raises `StateInvalid`."""
        ...

    def store(self, state: TransferState) -> None:
        """Write slot `generation % 2` and fdatasync. Raises `DiskFull`, `SyncFailed`."""
        ...

    def close(self) -> None: ...


class Staging(Protocol):
    """Where one unfinished transfer lives. Calls block; the lock is held until `close`."""

    @property
    def part(self) -> PartFile: ...

    @property
    def state(self) -> StateFile: ...

    @property
    def ephemeral(self) -> bytes:
        """The X25519 secret of this transfer, 32 bytes."""
        ...

    def load_manifest(self) -> bytes | None:
        """What `save_manifest` kept, or None. To be verified by the caller."""
        ...

    def save_manifest(self, manifest: bytes) -> None:
        """Keep the manifest for the next start: atomically, replacing an older one."""
        ...

    def forget_manifest(self) -> None:
        """What was kept does not hold: the next start asks anew, and compares what is here."""
        ...

    def settle(self) -> None:
        """Make what `save_manifest` kept durable, before a commit relies on it."""
        ...

    def published(self) -> bool:
        """Whether the file at the final path is this very part file (a crash came after)."""
        ...

    def destination_content(self) -> tuple[int, bytes] | None:
        """Bytes and BLAKE3 of a regular file at the final path; None if nothing is there."""
        ...

    def publish(self, *, mode: int, mtime_ns: int, overwrite: bool) -> None:
        """Make the part file appear at the final path, durably.

        Raises `DestinationExists`, `DestinationUnusable`, `SyncFailed`.
        """
        ...

    def settle_published(self) -> None:
        """Make the name at the final path durable. Raises `SyncFailed`."""
        ...

    def free_bytes(self) -> int:
        """Room on the file system for this user, above what stays free and what is set aside.

        Below zero where others have taken more.
        """
        ...

    def remove(self) -> None:
        """Remove every trace of the transfer."""
        ...

    def close(self) -> None: ...
