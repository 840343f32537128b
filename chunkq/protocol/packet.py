"""Requests and replies as bytes: two fixed headers, a sealed body, and a request's signature.

Big-endian, see the sizes below. Parsing looks at lengths and small numbers only; nothing is
decrypted, verified or copied, and nothing is ever encoded again to verify it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, TypeVar

from chunkq.errors import Malformed
from chunkq.protocol.digest import Buffer
from chunkq.protocol.limits import (
    MAX_REPLY_BODY_SIZE_BYTES,
    MAX_REQUEST_SIZE_BYTES,
    SIGNATURE_SIZE_BYTES,
)

REQUEST_MAGIC: Final = b"CKQ1"
REPLY_MAGIC: Final = b"CKQR"
#: magic, kind, suite, flags, sender, recipient, request id, issued, expires, ephemeral, body size.
_REQUEST: Final = struct.Struct(">4sBBH32s32s16sQQ32sI")
#: magic, kind, suite, flags, request id, ephemeral, seq, index, body size.
_REPLY: Final = struct.Struct(">4sBBH16s32sQQI")
_REQUEST_ID: Final = struct.Struct(">QQ")
#: A reply's only flag: what is sealed is a zstd frame (see `packing`) with the body in it.
PACKED_FLAG: Final = 0x0001
REQUEST_HEADER_SIZE_BYTES: Final = _REQUEST.size
REPLY_HEADER_SIZE_BYTES: Final = _REPLY.size
#: Both suites end a sealed body with a tag of 16 bytes.
SEAL_SIZE_BYTES: Final = 16
_SMALLEST_REQUEST: Final = _REQUEST.size + SEAL_SIZE_BYTES + SIGNATURE_SIZE_BYTES
_LARGEST_REPLY: Final = _REPLY.size + MAX_REPLY_BODY_SIZE_BYTES
#: Times, counters and sequence numbers travel as u64.
U64_LIMIT: Final = 1 << 64
#: `epoch = unix_ms << 20 | 20 random bits`: two starts in one millisecond differ.
EPOCH_RANDOM_BITS: Final = 20

_E = TypeVar("_E", bound=IntEnum)


class RequestKind(IntEnum):
    OPEN = 1
    PAGES = 2
    CHUNKS = 3
    LIST = 4
    RECEIPT = 5
    FILES = 6
    PROBE = 7
    STATEMENT = 8
    #: These two a site says to itself, from one of its processes to another.
    REPORT = 9
    CONTROL = 10


class ReplyKind(IntEnum):
    MANIFEST = 1
    PAGE = 2
    CHUNK = 3
    LISTING = 4
    REFUSAL = 5
    BUNDLE = 6
    PROBE = 7
    STANDING = 8


class Suite(IntEnum):
    AES256GCM = 1
    XCHACHA20POLY1305 = 2


@dataclass(frozen=True, slots=True)
class RequestId:
    """`epoch`: one start of a requester; `counter` rises in it. u64 both. Raises `Malformed`."""

    epoch: int
    counter: int

    def __post_init__(self) -> None:
        if not (0 <= self.epoch < U64_LIMIT and 0 <= self.counter < U64_LIMIT):
            raise Malformed(f"request id ({self.epoch}, {self.counter}) is outside 64 bits")

    def to_bytes(self) -> bytes:
        return _REQUEST_ID.pack(self.epoch, self.counter)

    @classmethod
    def from_bytes(cls, data: Buffer) -> RequestId:
        """From exactly 16 bytes. Raises `Malformed`."""
        if len(data) != _REQUEST_ID.size:
            raise Malformed(f"a request id has {_REQUEST_ID.size} bytes, not {len(data)}")
        return cls(*_REQUEST_ID.unpack(data))


@dataclass(frozen=True, slots=True)
class RequestHeader:
    """`suite` is what the requester offers for replies; its own body is always XChaCha20."""

    kind: RequestKind
    suite: Suite
    sender: bytes
    recipient: bytes
    request_id: RequestId
    issued_ms: int
    expires_ms: int
    ephemeral: bytes

    def encode(self, body_size: int) -> bytes:
        """The 140 bytes on the wire, for a sealed body of `body_size`. Raises `Malformed`."""
        if not (0 <= self.issued_ms < U64_LIMIT and 0 <= self.expires_ms < U64_LIMIT):
            raise Malformed(f"lifetime {self.issued_ms}..{self.expires_ms} ms is outside 64 bits")
        return _REQUEST.pack(
            REQUEST_MAGIC,
            self.kind,
            self.suite,
            0,
            self.sender,
            self.recipient,
            self.request_id.to_bytes(),
            self.issued_ms,
            self.expires_ms,
            self.ephemeral,
            body_size,
        )


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A request cut into its parts, views of the packet. `signed_part` is all but the signature."""

    header: RequestHeader
    header_bytes: memoryview
    sealed_body: memoryview
    signature: memoryview
    signed_part: memoryview


@dataclass(frozen=True, slots=True)
class ReplyHeader:
    """`suite` is what the body is sealed with; `seq` is its nonce; `index` a chunk's or page's.

    `packed`: a zstd frame was sealed in the body's place.
    """

    kind: ReplyKind
    suite: Suite
    request_id: RequestId
    ephemeral: bytes
    seq: int
    index: int
    packed: bool = False

    def encode(self, body_size: int) -> bytes:
        """The 76 bytes on the wire, for a sealed body of `body_size`."""
        return _REPLY.pack(
            REPLY_MAGIC,
            self.kind,
            self.suite,
            PACKED_FLAG if self.packed else 0,
            self.request_id.to_bytes(),
            self.ephemeral,
            self.seq,
            self.index,
            body_size,
        )


@dataclass(frozen=True, slots=True)
class RawReply:
    """A reply cut into its parts, views of the packet."""

    header: ReplyHeader
    header_bytes: memoryview
    sealed_body: memoryview

    @property
    def body_size(self) -> int:
        """What the body has without its seal, in bytes."""
        return len(self.sealed_body) - SEAL_SIZE_BYTES


def parse_request(raw: Buffer) -> RawRequest:
    """Cut a request into its parts; nothing in it is to be believed yet. Raises `Malformed`."""
    size = len(raw)
    if size > MAX_REQUEST_SIZE_BYTES:
        raise Malformed(f"a request of {size} bytes; the most is {MAX_REQUEST_SIZE_BYTES}")
    if size < _SMALLEST_REQUEST:
        raise Malformed(f"a request of {size} bytes; the least is {_SMALLEST_REQUEST}")
    view = memoryview(raw)
    fields = _REQUEST.unpack_from(view)
    magic, kind, suite, flags, sender, recipient, request_id, issued, expires, ephemeral, body = (
        fields
    )
    if magic != REQUEST_MAGIC:
        raise Malformed(f"a request begins with {REQUEST_MAGIC!r}, this with {magic!r}")
    header = RequestHeader(
        kind=_known(RequestKind, kind),
        suite=_known(Suite, suite),
        sender=sender,
        recipient=recipient,
        request_id=RequestId.from_bytes(request_id),
        issued_ms=issued,
        expires_ms=expires,
        ephemeral=ephemeral,
    )
    _check_rest(flags, body, size - _REQUEST.size - SIGNATURE_SIZE_BYTES)
    end = size - SIGNATURE_SIZE_BYTES
    return RawRequest(
        header, view[: _REQUEST.size], view[_REQUEST.size : end], view[end:], view[:end]
    )


def parse_reply(raw: Buffer) -> RawReply:
    """Cut a reply into its parts; nothing in it is to be believed yet. Raises `Malformed`."""
    size = len(raw)
    if size > _LARGEST_REPLY:
        raise Malformed(f"a reply of {size} bytes; the most is {_LARGEST_REPLY}")
    if size < _REPLY.size + SEAL_SIZE_BYTES:
        raise Malformed(f"a reply of {size} bytes; the least is {_REPLY.size + SEAL_SIZE_BYTES}")
    view = memoryview(raw)
    magic, kind, suite, flags, request_id, ephemeral, seq, index, body = _REPLY.unpack_from(view)
    if magic != REPLY_MAGIC:
        raise Malformed(f"a reply begins with {REPLY_MAGIC!r}, this with {magic!r}")
    header = ReplyHeader(
        kind=_known(ReplyKind, kind),
        suite=_known(Suite, suite),
        request_id=RequestId.from_bytes(request_id),
        ephemeral=ephemeral,
        seq=seq,
        index=index,
        packed=bool(flags & PACKED_FLAG),
    )
    _check_rest(flags & ~PACKED_FLAG, body, size - _REPLY.size)
    return RawReply(header, view[: _REPLY.size], view[_REPLY.size :])


def _known(kinds: type[_E], number: int) -> _E:
    try:
        return kinds(number)
    except ValueError:
        raise Malformed(f"{kinds.__name__} {number} is not known") from None


def _check_rest(flags: int, body_size: int, actual_size: int) -> None:
    if flags:
        raise Malformed(f"flags {flags:#06x} are not known")
    if body_size != actual_size:
        raise Malformed(f"the header says a body of {body_size} bytes, there are {actual_size}")
