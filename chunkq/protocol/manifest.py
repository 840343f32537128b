"""How one version of a file is cut: leaves, pages of leaves, the head that pins them all.

    leaf    BLAKE3 of a chunk's bytes, plain: equal chunks have equal leaves in whatever file
    page    BLAKE3, domain "chunkq 1 manifest page", of up to 512 leaves
    root    BLAKE3, domain "chunkq 1 manifest root", of size u64, chunk size u32, hash id u8, pages
    head    "CKQM" | version u8 | hash id u8 | reserved u16=0 | size u64 | chunk size u32
            | content digest 32 | page digests 32 each

The content digest is the plain BLAKE3 of the whole file, as `b3sum` prints it. Big-endian.
A head is signed; pages are checked against it one by one, as they are needed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

from blake3 import blake3

from chunkq.errors import BadSignature, Malformed
from chunkq.protocol.digest import (
    PAGE_DOMAIN,
    ROOT_DOMAIN,
    Buffer,
    add_zeros,
    digest,
    domain_digest,
    zero_digest,
)
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.identity import SiteCard, SiteKeys, verify
from chunkq.protocol.limits import DIGEST_SIZE_BYTES, LEAVES_PER_PAGE, MAX_HEAD_SIZE_BYTES

HEAD_DOMAIN: Final = b"chunkq 1 manifest head"
HEAD_MAGIC: Final = b"CKQM"
HEAD_VERSION: Final = 1
#: BLAKE3 with digests of 32 bytes, the only hash so far.
HASH_ID: Final = 1
#: magic, version, hash id, reserved, size, chunk size, content digest.
_HEAD: Final = struct.Struct(">4sBBHQI32s")
_ROOT: Final = struct.Struct(">QIB")


@dataclass(frozen=True)
class Head:
    """A manifest without leaves. `page_digests`: 32 bytes a page, packed. Raises `Malformed`."""

    geometry: Geometry
    page_digests: bytes
    content_digest: bytes

    def __post_init__(self) -> None:
        pages, size = self.geometry.page_count, len(self.page_digests)
        if size != pages * DIGEST_SIZE_BYTES:
            raise Malformed(f"a file of {pages} pages has {size} bytes of page digests")
        if len(self.content_digest) != DIGEST_SIZE_BYTES:
            raise Malformed(f"a content digest of {len(self.content_digest)} bytes")

    @cached_property
    def root(self) -> bytes:
        """The name of this version, 32 bytes: it pins every byte and the chunk size."""
        geometry = self.geometry
        fixed = _ROOT.pack(geometry.size_bytes, geometry.chunk_size_bytes, HASH_ID)
        return domain_digest(ROOT_DOMAIN, fixed + self.page_digests)

    def page_digest(self, page: int) -> bytes:
        """What page `page` must hash to, 32 bytes. Raises `Malformed` if there is no such page."""
        if not 0 <= page < self.geometry.page_count:
            raise Malformed(f"page {page} of {self.geometry.page_count}")
        at = page * DIGEST_SIZE_BYTES
        return self.page_digests[at : at + DIGEST_SIZE_BYTES]


# ---------------------------------------------------------------- heads


def encode_head(head: Head) -> bytes:
    """The bytes that are signed and sent: 52, and 32 for each page."""
    geometry = head.geometry
    fixed = _HEAD.pack(
        HEAD_MAGIC,
        HEAD_VERSION,
        HASH_ID,
        0,
        geometry.size_bytes,
        geometry.chunk_size_bytes,
        head.content_digest,
    )
    return fixed + head.page_digests


def decode_head(data: Buffer) -> Head:
    """Read a head; sizes and counts are checked before anything is made. Raises `Malformed`."""
    if not _HEAD.size <= len(data) <= MAX_HEAD_SIZE_BYTES:
        raise Malformed(
            f"a head of {len(data)} bytes; it has {_HEAD.size} to {MAX_HEAD_SIZE_BYTES}"
        )
    magic, version, hash_id, reserved, size, chunk_size, content = _HEAD.unpack_from(data)
    if (magic, version, hash_id, reserved) != (HEAD_MAGIC, HEAD_VERSION, HASH_ID, 0):
        raise Malformed(
            f"a head begins {magic!r} version {version} hash {hash_id} reserved {reserved};"
            f" known is {HEAD_MAGIC!r} {HEAD_VERSION} {HASH_ID} 0"
        )
    geometry = Geometry(size, chunk_size)
    expected = _HEAD.size + geometry.page_count * DIGEST_SIZE_BYTES
    if len(data) != expected:
        raise Malformed(
            f"a head of {geometry.page_count} pages has {expected} bytes, not {len(data)}"
        )
    return Head(geometry, bytes(memoryview(data)[_HEAD.size :]), content)


def sign_head(keys: SiteKeys, head_bytes: Buffer) -> bytes:
    """The origin's signature over an encoded head, 64 bytes."""
    return keys.sign(HEAD_DOMAIN, head_bytes)


def verify_head(card: SiteCard, head_bytes: Buffer, signature: Buffer) -> Head:
    """The head that `card`'s owner signed. Raises `BadSignature`, and `Malformed` after that."""
    if len(head_bytes) > MAX_HEAD_SIZE_BYTES:
        raise Malformed(f"a head of {len(head_bytes)} bytes; the most is {MAX_HEAD_SIZE_BYTES}")
    verify(card.verify_key, HEAD_DOMAIN, head_bytes, signature)
    return decode_head(head_bytes)


def signed_by(keys: SiteKeys, head_bytes: Buffer, signature: bytes) -> bytes:
    """The signature if it is by `keys`, else a new one: whoever kept it may have other keys now."""
    try:
        verify(keys.verify_key, HEAD_DOMAIN, head_bytes, signature)
    except BadSignature:
        return sign_head(keys, head_bytes)
    return signature


# ---------------------------------------------------------------- pages and leaves


def page_digest(leaves: Buffer) -> bytes:
    """The digest of a page, given its leaves packed; 32 bytes."""
    return domain_digest(PAGE_DOMAIN, leaves)


def verify_page(head: Head, page: int, leaves: Buffer) -> None:
    """Return if `leaves`, packed, are page `page` of `head`. Raises `Malformed`."""
    expected = head.page_digest(page)
    size = len(head.geometry.page_chunks(page)) * DIGEST_SIZE_BYTES
    if len(leaves) != size:
        raise Malformed(f"page {page} has {size} bytes of leaves, not {len(leaves)}")
    if page_digest(leaves) != expected:
        raise Malformed(f"page {page} does not match the signed head")


def zero_leaf(geometry: Geometry, index: int) -> bytes:
    """The leaf that chunk `index` has if it is nothing but zeros. Raises `IndexError`."""
    return zero_digest(geometry.length(index))


def zero_leaves(geometry: Geometry, page: int) -> bytes:
    """The leaves of page `page` if all its chunks are zeros, packed. Raises `IndexError`."""
    return b"".join(zero_leaf(geometry, index) for index in geometry.page_chunks(page))


def zero_page_digest(geometry: Geometry, page: int) -> bytes:
    """The digest of page `page` if all its chunks are zeros. Raises `IndexError`."""
    chunks = geometry.page_chunks(page)
    last = geometry.length(chunks[-1])
    return _zero_page(geometry.chunk_size_bytes, len(chunks) - 1, last)


@lru_cache(maxsize=64)
def _zero_page(chunk_size: int, chunks_before_last: int, last_size: int) -> bytes:
    return page_digest(zero_digest(chunk_size) * chunks_before_last + zero_digest(last_size))


def is_zero_page(head: Head, page: int) -> bool:
    """Whether page `page` is one hole, told from the head alone: no leaf need be fetched."""
    return head.page_digest(page) == zero_page_digest(head.geometry, page)


# ---------------------------------------------------------------- making one


class ManifestBuilder:
    """Hashes a file chunk by chunk, in order. Keeps the leaves: 32 bytes a chunk."""

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._leaves = bytearray()
        self._content = blake3()

    @property
    def chunks_done(self) -> int:
        """How many chunks were added: the index of the next."""
        return len(self._leaves) // DIGEST_SIZE_BYTES

    def add(self, chunk: Buffer) -> None:
        """Hash the next chunk. Raises `Malformed` if its length is not that of the geometry."""
        self.add_leaf(chunk)
        self.add_content(chunk)

    def add_leaf(self, chunk: Buffer) -> None:
        """One half of `add`; the other may be done on another thread, for many chunks at once."""
        index = self.chunks_done
        if index >= self._geometry.chunk_count or len(chunk) != self._geometry.length(index):
            raise Malformed(
                f"{len(chunk)} bytes are not chunk {index} of {self._geometry}",
                hint="the file was cut or grew while it was read; hash it again",
            )
        self._leaves += digest(chunk)

    def add_content(self, chunks: Buffer) -> None:
        """The other half: the bytes of chunks whose leaves are added before or after."""
        self._content.update(chunks)

    def add_hole(self, count: int) -> None:
        """The next `count` chunks are zeros, and need not be read. Raises `Malformed`."""
        first, end = self.chunks_done, self.chunks_done + count
        if count < 0 or end > self._geometry.chunk_count:
            raise Malformed(f"a hole of {count} chunks at chunk {first} of {self._geometry}")
        if not count:
            return
        last_size = self._geometry.length(end - 1)
        self._leaves += zero_digest(self._geometry.chunk_size_bytes) * (count - 1)
        self._leaves += zero_digest(last_size)
        add_zeros(self._content, self._geometry.offset(count - 1) + last_size)

    def finish(self) -> tuple[Head, bytes]:
        """The head, and all leaves packed. Raises `Malformed` if chunks are missing."""
        if self.chunks_done != self._geometry.chunk_count:
            raise Malformed(f"{self.chunks_done} chunks were added of {self._geometry}")
        leaves = bytes(self._leaves)
        size = LEAVES_PER_PAGE * DIGEST_SIZE_BYTES
        pages = b"".join(
            page_digest(memoryview(leaves)[at : at + size]) for at in range(0, len(leaves), size)
        )
        return Head(self._geometry, pages, self._content.digest()), leaves
