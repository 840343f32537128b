"""Both sites' files, in memory: content that costs nothing, and a part file that keeps none of it.

A simulation moves many GiB. So the source is cut from one block of random bytes, differently for
each chunk, and the part file compares what is written with what the source has there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from chunkq.errors import NotFound, StorageError
from chunkq.ports import (
    Buffer,
    FileIdentity,
    HashLock,
    Heard,
    ListingPage,
    PeerRef,
    Share,
    SourceFile,
    StoredManifest,
    TransferState,
)
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.limits import DEFAULT_CHUNK_SIZE_BYTES, DIGEST_SIZE_BYTES, MIB
from chunkq.protocol.manifest import Head, ManifestBuilder, encode_head, sign_head
from chunkq.protocol.packet import RequestId
from chunkq.protocol.succession import Said

SHARE = "docs"
PATH = "image"
#: Content is cut from a block of this size, in pieces of the other.
_BLOCK_BYTES = 1 * MIB
_PIECE_BYTES = 256 * 1024
#: Where the next piece begins; odd, so that it is long before two pieces are alike.
_STRIDE_BYTES = 4099


@dataclass(frozen=True)
class Content:
    """`size_bytes` of bytes that a seed determines, none of it in memory."""

    size_bytes: int
    seed: int = 1

    def read(self, offset: int, length: int) -> bytes:
        """As much as there is of `length` bytes."""
        end = min(offset + length, self.size_bytes)
        pieces = []
        while offset < end:
            piece, at = divmod(offset, _PIECE_BYTES)
            begin = piece * _STRIDE_BYTES % (_BLOCK_BYTES - _PIECE_BYTES) + at
            take = min(end - offset, _PIECE_BYTES - at)
            pieces.append(_block(self.seed)[begin : begin + take])
            offset += take
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


@lru_cache(maxsize=4)
def _block(seed: int) -> bytes:
    return Random(seed).randbytes(_BLOCK_BYTES)


@lru_cache(maxsize=8)
def manifest_of(content: Content, chunk_size_bytes: int) -> tuple[Head, bytes]:
    """The head and the packed leaves; made once, the runs of a benchmark share it."""
    geometry = Geometry(content.size_bytes, chunk_size_bytes)
    builder = ManifestBuilder(geometry)
    for index in range(geometry.chunk_count):
        builder.add(content.read(geometry.offset(index), geometry.length(index)))
    return builder.finish()


# ---------------------------------------------------------------- origin


class MemorySource:
    """`ports.SourceFile`."""

    mode = 0o644

    def __init__(self, content: Content) -> None:
        self._content = content
        self.identity = FileIdentity(1, 1, content.size_bytes, 1, 1)

    def read(self, offset: int, length: int) -> bytes:
        return self._content.read(offset, length)

    def hole_end(self, offset: int) -> int:
        return offset

    def changed(self) -> bool:
        return False

    def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True)
class MemoryShare:
    """`ports.Share` of one file."""

    content: Content

    def open(self, path: str) -> SourceFile:
        if path != PATH:
            raise NotFound(path)
        return MemorySource(self.content)

    def list(self, path: str, cursor: str | None, limit: int) -> ListingPage:
        raise NotFound(path)


@dataclass(frozen=True)
class MemoryDirectory:
    """`ports.Directory`: one peer, one share, one file."""

    requester: PeerRef
    content: Content
    chunk_size_bytes: int = DEFAULT_CHUNK_SIZE_BYTES

    def refresh(self) -> None:
        """It never changes."""

    def peer(self, site_id: bytes) -> PeerRef | None:
        return self.requester if site_id == self.requester.card.site_id else None

    def share(self, peer: PeerRef, share: str, path: str) -> Share | None:
        return MemoryShare(self.content) if (share, path) == (SHARE, PATH) else None

    def chunk_size(self, share: str) -> int:
        return self.chunk_size_bytes

    async def heed(self, statement: Said) -> Heard:
        raise AssertionError("nobody changes keys here")


@dataclass(frozen=True)
class MemoryManifest:
    """`ports.StoredManifest`."""

    head: Head
    packed: bytes
    signature: bytes

    @property
    def head_bytes(self) -> bytes:
        return encode_head(self.head)

    def leaves(self, first: int, count: int) -> bytes:
        return self.packed[first * DIGEST_SIZE_BYTES : (first + count) * DIGEST_SIZE_BYTES]

    def page(self, page: int) -> bytes:
        chunks = self.head.geometry.page_chunks(page)
        return self.leaves(chunks.start, len(chunks))


class PreparedManifests:
    """`ports.ManifestStore` that has the file's manifest already."""

    def __init__(self, content: Content, keys: SiteKeys) -> None:
        self._content = content
        self._keys = keys

    def load(self, identity: FileIdentity, chunk_size_bytes: int) -> StoredManifest | None:
        head, leaves = manifest_of(self._content, chunk_size_bytes)
        return MemoryManifest(head, leaves, sign_head(self._keys, encode_head(head)))

    def save(
        self,
        identity: FileIdentity,
        chunk_size_bytes: int,
        head_bytes: bytes,
        signature: bytes,
        leaves: bytes,
    ) -> StoredManifest:
        raise StorageError("it was there before")

    def discard(self, identity: FileIdentity, chunk_size_bytes: int) -> None:
        raise StorageError("the source never changes")

    def try_lock(self, identity: FileIdentity, chunk_size_bytes: int) -> HashLock | None:
        return None

    def progress(self, identity: FileIdentity, chunk_size_bytes: int) -> tuple[int, int] | None:
        return None


class MemoryReplays:
    """`ports.ReplayRecord` of one process."""

    def __init__(self) -> None:
        self._seen: set[tuple[bytes, RequestId]] = set()

    def seen(self, peer: bytes, request_id: RequestId) -> bool:
        return (peer, request_id) in self._seen

    def record(self, peer: bytes, request_id: RequestId) -> bool:
        new = not self.seen(peer, request_id)
        self._seen.add((peer, request_id))
        return new


# ---------------------------------------------------------------- requester


class ComparingPart:
    """`ports.PartFile` that knows what belongs where, and keeps only where something was written.

    What was not written, or differs, reads as zeros: the read-back of a transfer finds it.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        self._geometry: Geometry | None = None
        self._written = Bitmap(0)

    def matches(self, geometry: Geometry) -> bool:
        return self._geometry == geometry

    def allocate(self, geometry: Geometry, holes: Bitmap | None) -> None:
        self.resize(geometry)

    def resize(self, geometry: Geometry) -> None:
        self._geometry, self._written = geometry, Bitmap(geometry.chunk_count)

    def discard(self, offset: int, length: int) -> None:
        raise AssertionError("there are no holes")

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        assert self._geometry is not None
        size = self._geometry.chunk_size_bytes
        for buffer in buffers:
            view = memoryview(buffer)
            for at in range(0, len(view), size):
                part = view[at : at + size]
                if part == self._content.read(offset + at, len(part)):
                    self._written.add((offset + at) // size)
            offset += len(view)

    def read_into(self, offset: int, data: memoryview) -> int:
        assert self._geometry is not None
        size = self._geometry.chunk_size_bytes
        length = max(0, min(len(data), self._geometry.size_bytes - offset))
        touched = range(offset // size, -(-(offset + length) // size))
        right = all(index in self._written for index in touched)
        data[:length] = self._content.read(offset, length) if right else bytes(length)
        return length

    def hole_end(self, offset: int) -> int:
        return offset

    def sync(self) -> None:
        """As durable as it will ever be."""

    def close(self) -> None:
        """Nothing is open."""


class MemoryState:
    """`ports.StateFile`."""

    def __init__(self) -> None:
        self._state: TransferState | None = None

    def load(self) -> TransferState | None:
        return self._state

    def store(self, state: TransferState) -> None:
        self._state = state

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class MemoryStaging:
    """`ports.Staging` with room for everything."""

    part: ComparingPart
    ephemeral: bytes
    state: MemoryState = field(default_factory=MemoryState)
    manifest: bytes | None = None
    is_published: bool = False

    def load_manifest(self) -> bytes | None:
        return self.manifest

    def save_manifest(self, manifest: bytes) -> None:
        self.manifest = manifest

    def forget_manifest(self) -> None:
        self.manifest = b""

    def settle(self) -> None:
        """As durable as it will ever be."""

    def published(self) -> bool:
        return self.is_published

    def destination_content(self) -> tuple[int, bytes] | None:
        return None

    def publish(self, *, mode: int, mtime_ns: int, overwrite: bool) -> None:
        self.is_published = True

    def free_bytes(self) -> int:
        return 1 << 62

    def remove(self) -> None:
        """Nothing is left anywhere."""

    def close(self) -> None:
        """Nothing is open."""
