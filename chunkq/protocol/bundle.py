"""A bundle: small files whole in one reply, under one signed head.

    body      head | signature 64 | the contents, one behind the other
    head      "CKQB" | version u8=1 | hash id u8=1 | reserved u16=0 | asked 32 | count u32
              | records 56 each
    record    index u32 | outcome u8 | reserved u8=0 | mode u16 | size u64 | mtime_ns i64
              | content digest 32

Big-endian. `asked` is BLAKE3, domain "chunkq 1 bundle asked", of what was asked for: the share, and
directories with names; `index` counts those names. So a head says of which files it speaks, and it
is the manifest of each of them: signed by the origin, with the plain BLAKE3 of the content. Outcome
0 is a file; of any other one the fields after it are zero. Indices ascend.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cbor2

from chunkq.errors import Malformed
from chunkq.protocol.digest import Buffer, digest, domain_digest
from chunkq.protocol.identity import SiteCard, SiteKeys, verify
from chunkq.protocol.limits import (
    DIGEST_SIZE_BYTES,
    MAX_FILES_PER_REQUEST,
    MAX_SMALL_FILE_SIZE_BYTES,
    SIGNATURE_SIZE_BYTES,
)
from chunkq.protocol.manifest import HASH_ID
from chunkq.protocol.messages import RefusalReason

HEAD_DOMAIN: Final = b"chunkq 1 bundle head"
ASKED_DOMAIN: Final = "chunkq 1 bundle asked"
HEAD_MAGIC: Final = b"CKQB"
HEAD_VERSION: Final = 1
#: magic, version, hash id, reserved, asked, count.
_HEAD: Final = struct.Struct(">4sBBH32sI")
#: index, outcome, reserved, mode, size, mtime_ns, content digest.
_RECORD: Final = struct.Struct(">IBBHQq32s")
#: What a bundle has beside its files, and beside the content of each.
OVERHEAD_SIZE_BYTES: Final = _HEAD.size + SIGNATURE_SIZE_BYTES
RECORD_SIZE_BYTES: Final = _RECORD.size

_HERE: Final = 0
#: Why a file is not in a bundle. `busy`: it cannot be read now, or changes while it is read.
#: `unsupported`: the share offers it, and only as any other file.
_OUTCOMES: Final = {
    RefusalReason.NOT_FOUND: 1,
    RefusalReason.TOO_LARGE: 2,
    RefusalReason.BUSY: 3,
    RefusalReason.UNSUPPORTED: 4,
}
_REASONS: Final = {code: reason for reason, code in _OUTCOMES.items()}
_NOTHING: Final = (0, 0, 0, 0, bytes(DIGEST_SIZE_BYTES))
_MODE_MASK: Final = 0o777


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What the origin signs of one file. `mode`: permission bits, 0..0o777."""

    index: int
    mode: int
    size_bytes: int
    mtime_ns: int
    content_digest: bytes


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose signature holds; the contents are views of its body, not yet compared."""

    files: tuple[tuple[FileRecord, memoryview], ...]
    refused: tuple[tuple[int, RefusalReason], ...]


def asked_digest(share: str, groups: Sequence[tuple[str, Sequence[str]]]) -> bytes:
    """What stands for "these names in these directories of this share", 32 bytes."""
    told = cbor2.dumps([share, [[directory, list(names)] for directory, names in groups]])
    return domain_digest(ASKED_DOMAIN, told)


# ---------------------------------------------------------------- at the origin


class BundleBuilder:
    """One bundle in the making, of at most `largest_bytes`."""

    def __init__(self, asked: bytes, largest_bytes: int) -> None:
        self._asked = asked
        self._left_bytes = largest_bytes - OVERHEAD_SIZE_BYTES
        self._records: list[bytes] = []
        self._contents: list[bytes] = []

    def __len__(self) -> int:
        return len(self._records)

    def fits(self, size_bytes: int) -> bool:
        """Whether a file of that size has room beside those that are in."""
        return RECORD_SIZE_BYTES + size_bytes <= self._left_bytes

    def add(self, index: int, mode: int, mtime_ns: int, content: bytes) -> None:
        """Put in a file, read whole; the caller has asked whether it `fits`."""
        fields = (mode & _MODE_MASK, len(content), mtime_ns, digest(content))
        self._records.append(_RECORD.pack(index, _HERE, 0, *fields))
        self._contents.append(content)
        self._left_bytes -= RECORD_SIZE_BYTES + len(content)

    def refuse(self, index: int, reason: RefusalReason) -> None:
        """Say why a file is not in it."""
        self._records.append(_RECORD.pack(index, _OUTCOMES[reason], *_NOTHING))
        self._left_bytes -= RECORD_SIZE_BYTES

    def sign(self, keys: SiteKeys) -> bytes:
        """The body of the reply."""
        count = len(self._records)
        fixed = _HEAD.pack(HEAD_MAGIC, HEAD_VERSION, HASH_ID, 0, self._asked, count)
        head = b"".join((fixed, *self._records))
        return b"".join((head, keys.sign(HEAD_DOMAIN, head), *self._contents))


# ---------------------------------------------------------------- at the requester


def open_bundle(card: SiteCard, asked: bytes, asked_count: int, body: Buffer) -> Bundle:
    """The bundle in a reply to a request for `asked_count` files.

    Raises `BadSignature`, and `Malformed` for what was not asked for or does not add up.
    """
    view = memoryview(body)
    if len(view) < OVERHEAD_SIZE_BYTES:
        raise Malformed(f"a bundle of {len(view)} bytes; the least is {OVERHEAD_SIZE_BYTES}")
    magic, version, hash_id, reserved, about, count = _HEAD.unpack_from(view)
    if (magic, version, hash_id, reserved) != (HEAD_MAGIC, HEAD_VERSION, HASH_ID, 0):
        raise Malformed(
            f"a bundle begins {magic!r} version {version} hash {hash_id} reserved {reserved};"
            f" known is {HEAD_MAGIC!r} {HEAD_VERSION} {HASH_ID} 0"
        )
    if not 1 <= count <= min(asked_count, MAX_FILES_PER_REQUEST):
        raise Malformed(f"a bundle with {count} of {asked_count} files")
    head_size = _HEAD.size + count * RECORD_SIZE_BYTES
    if len(view) < head_size + SIGNATURE_SIZE_BYTES:
        raise Malformed(f"a bundle of {len(view)} bytes ends inside its head of {head_size}")
    start = head_size + SIGNATURE_SIZE_BYTES
    verify(card.verify_key, HEAD_DOMAIN, view[:head_size], view[head_size:start])
    if about != asked:
        raise Malformed("a bundle about other files than were asked for")
    return _cut(view[_HEAD.size : head_size], view[start:], asked_count)


def _cut(records: memoryview, contents: memoryview, asked_count: int) -> Bundle:
    """Records and contents brought together. Raises `Malformed`."""
    files: list[tuple[FileRecord, memoryview]] = []
    refused: list[tuple[int, RefusalReason]] = []
    last, at = -1, 0
    for index, outcome, *fields in _RECORD.iter_unpack(records):
        if not last < index < asked_count:
            raise Malformed(f"file {index} after file {last}, of {asked_count} asked for")
        last = index
        reserved, mode, size, mtime_ns, content_digest = fields
        if outcome != _HERE:
            if outcome not in _REASONS or tuple(fields) != _NOTHING:
                raise Malformed(f"file {index} is refused in an unknown way ({outcome})")
            refused.append((index, _REASONS[outcome]))
            continue
        if reserved or mode > _MODE_MASK or size > MAX_SMALL_FILE_SIZE_BYTES:
            raise Malformed(f"file {index} of {size} bytes, mode {mode:#o}, is not for a bundle")
        if size > len(contents) - at:
            raise Malformed(f"file {index} of {size} bytes passes the bundle's end")
        record = FileRecord(index, mode, size, mtime_ns, content_digest)
        files.append((record, contents[at : at + size]))
        at += size
    if at != len(contents):
        raise Malformed(f"{len(contents) - at} bytes follow the last file of a bundle")
    return Bundle(tuple(files), tuple(refused))


def check_content(record: FileRecord, content: Buffer) -> None:
    """Return if this is the content that the origin signed. Raises `Malformed`."""
    if len(content) != record.size_bytes or digest(content) != record.content_digest:
        raise Malformed(f"file {record.index} does not match the signed head of its bundle")
