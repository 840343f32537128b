"""Who can read and who can have written a packet: seals of requests and replies.

A request's body is sealed from the requester's ephemeral key to the origin's static one, and the
whole is signed. A reply's key needs the origin's static secret, so only the origin (any worker of
it) can make it, and a reply needs no signature. Additional data is always the whole header.

    request key  BLAKE2b(DH(requester ephemeral, origin static) ‖ request id), nonce 0
    reply key    BLAKE2b(DH(origin ephemeral, requester ephemeral)
                         ‖ DH(origin static, requester ephemeral)
                         ‖ request id ‖ sender ‖ recipient ‖ suite), nonce = seq

A requester never uses a request id twice under one ephemeral; a worker makes one ephemeral for
each request that it answers. So no key meets a nonce twice.
"""

from __future__ import annotations

import itertools
from hashlib import blake2b
from typing import Final

from chunkq.errors import BadSeal, BadSignature, Malformed, Misaddressed, OverBudget
from chunkq.protocol import aead
from chunkq.protocol.aead import has_aes
from chunkq.protocol.digest import Buffer
from chunkq.protocol.identity import SiteCard, SiteKeys, exchange, exchange_public, verify
from chunkq.protocol.limits import (
    KEY_SIZE_BYTES,
    MAX_REPLY_BODY_SIZE_BYTES,
    MAX_REQUEST_SIZE_BYTES,
    SIGNATURE_SIZE_BYTES,
)
from chunkq.protocol.packet import (
    REQUEST_HEADER_SIZE_BYTES,
    SEAL_SIZE_BYTES,
    RawReply,
    RawRequest,
    ReplyHeader,
    ReplyKind,
    RequestHeader,
    RequestId,
    RequestKind,
    Suite,
)
from chunkq.protocol.packing import unpack

__all__ = [
    "LARGEST_REQUEST_BODY_BYTES",
    "ReplyOpener",
    "ReplySealer",
    "has_aes",
    "open_request",
    "seal_request",
    "verify_request",
]

REQUEST_DOMAIN: Final = b"chunkq 1 request"
#: BLAKE2b's personalisation: at most 16 bytes.
_REQUEST_KEY: Final = b"chunkq1 request"
_REPLY_KEY: Final = b"chunkq1 reply"
#: Every machine has it, so a request can always be opened.
_REQUEST_SUITE: Final = Suite.XCHACHA20POLY1305
#: A request's key seals one body, so its nonce never changes.
_REQUEST_SEQ: Final = 0
#: Replies to one request: far above pages and chunks with all repeats, below AES-GCM's limits.
MAX_REPLIES_PER_REQUEST: Final = 1 << 32
LARGEST_REQUEST_BODY_BYTES: Final = (
    MAX_REQUEST_SIZE_BYTES - REQUEST_HEADER_SIZE_BYTES - SEAL_SIZE_BYTES - SIGNATURE_SIZE_BYTES
)
_LARGEST_REPLY_BODY: Final = MAX_REPLY_BODY_SIZE_BYTES - SEAL_SIZE_BYTES


# ---------------------------------------------------------------- requests


def seal_request(
    *,
    keys: SiteKeys,
    recipient: SiteCard,
    ephemeral_secret: bytes,
    kind: RequestKind,
    request_id: RequestId,
    issued_ms: int,
    expires_ms: int,
    body: bytes,
    suite: Suite,
) -> bytes:
    """A whole request, signed; `suite` is what is offered for the replies.

    Never call it twice with one `ephemeral_secret` and `request_id`, unless for the same bytes.
    Raises `Malformed` if the body is too large, `BadSeal` if nothing can be sealed to `recipient`.
    """
    if len(body) > LARGEST_REQUEST_BODY_BYTES:
        raise Malformed(
            f"a request's body of {len(body)} bytes; the most is {LARGEST_REQUEST_BODY_BYTES}",
            hint="ask for less in one request",
        )
    header = RequestHeader(
        kind=kind,
        suite=suite,
        sender=keys.site_id,
        recipient=recipient.site_id,
        request_id=request_id,
        issued_ms=issued_ms,
        expires_ms=expires_ms,
        ephemeral=exchange_public(ephemeral_secret),
    )
    key = _request_key(_shared(ephemeral_secret, recipient.exchange_key), request_id)
    packed = header.encode(len(body) + SEAL_SIZE_BYTES)
    signed = aead.seal(_REQUEST_SUITE, key, _REQUEST_SEQ, packed, body)
    return signed + keys.sign(REQUEST_DOMAIN, bytes((kind,)) + signed)


def verify_request(raw: RawRequest, sender: SiteCard) -> None:
    """Return if `sender` signed this request. Raises `BadSignature`."""
    if raw.header.sender != sender.site_id:
        raise BadSignature(f"the request names another sender than {sender.name}")
    message = b"".join((bytes((raw.header.kind,)), raw.signed_part))
    verify(sender.verify_key, REQUEST_DOMAIN, message, raw.signature)


def open_request(raw: RawRequest, keys: SiteKeys) -> bytes:
    """The request's body; verify its signature first. Raises `Misaddressed`, `BadSeal`."""
    if raw.header.recipient != keys.site_id:
        raise Misaddressed("the request is for another site")
    shared = _shared(keys.exchange_secret, raw.header.ephemeral)
    key = _request_key(shared, raw.header.request_id)
    return aead.unseal(_REQUEST_SUITE, key, _REQUEST_SEQ, raw.header_bytes, raw.sealed_body)


# ---------------------------------------------------------------- replies


class ReplySealer:
    """The origin's side of one request: seals any number of replies, from any thread."""

    def __init__(self, *, raw: RawRequest, keys: SiteKeys, ephemeral_secret: bytes) -> None:
        """`ephemeral_secret`: 32 new random bytes, for this request and this worker alone.

        Raises `BadSeal` if the requester's ephemeral key is of low order.
        """
        asked = raw.header
        aes = asked.suite is Suite.AES256GCM and has_aes()
        self.suite: Final = Suite.AES256GCM if aes else Suite.XCHACHA20POLY1305
        self._request_id = asked.request_id
        self._ephemeral = exchange_public(ephemeral_secret)
        self._key = _reply_key(
            ephemeral_shared=_shared(ephemeral_secret, asked.ephemeral),
            static_shared=_shared(keys.exchange_secret, asked.ephemeral),
            request_id=asked.request_id,
            sender=asked.sender,
            recipient=asked.recipient,
            suite=self.suite,
        )
        # Its `next` is one step under the interpreter's lock: threads never share a nonce.
        self._seqs = itertools.count()

    def seal(self, kind: ReplyKind, body: Buffer, index: int = 0, *, packed: bool = False) -> bytes:
        """A whole reply; `packed`: `body` is what `packing.pack` made of the reply's body.

        Raises `Malformed` (body too large), `OverBudget` (no nonce left).
        """
        if len(body) > _LARGEST_REPLY_BODY:
            raise Malformed(
                f"a reply's body of {len(body)} bytes; the most is {_LARGEST_REPLY_BODY}"
            )
        seq = next(self._seqs)
        if seq >= MAX_REPLIES_PER_REQUEST:
            raise OverBudget(f"one request has had {MAX_REPLIES_PER_REQUEST} replies")
        header = ReplyHeader(
            kind, self.suite, self._request_id, self._ephemeral, seq, index, packed
        )
        encoded = header.encode(len(body) + SEAL_SIZE_BYTES)
        return aead.seal(self.suite, self._key, seq, encoded, body)


class ReplyOpener:
    """The requester's side: one for each (request, origin's ephemeral, suite), used many times."""

    def __init__(
        self, *, header: ReplyHeader, sender: bytes, recipient: SiteCard, ephemeral_secret: bytes
    ) -> None:
        """Derive the key; `sender` is the requester's id, `recipient` the origin, as when asking.

        Raises `BadSeal` if the origin's ephemeral key is of low order or its suite not for us.
        """
        if header.suite is Suite.AES256GCM and not has_aes():
            raise BadSeal("the reply is sealed with AES-256-GCM, which was not offered")
        self._request_id = header.request_id
        self._ephemeral = header.ephemeral
        self._suite = header.suite
        self._key = _reply_key(
            ephemeral_shared=_shared(ephemeral_secret, header.ephemeral),
            static_shared=_shared(ephemeral_secret, recipient.exchange_key),
            request_id=header.request_id,
            sender=sender,
            recipient=recipient.site_id,
            suite=header.suite,
        )

    def fits(self, header: ReplyHeader) -> bool:
        """Whether a reply with this header is sealed under the key derived here."""
        return (
            header.ephemeral == self._ephemeral
            and header.request_id == self._request_id
            and header.suite is self._suite
        )

    def open(self, raw: RawReply, size: int | None = None) -> bytes:
        """The reply's body, unpacked; `size`: how long a packed one must be, where that is known.

        Raises `BadSeal`, and `BadFrame` for a frame that the origin should not have sent.
        """
        self._check(raw)
        seq = raw.header.seq
        body = aead.unseal(self._suite, self._key, seq, raw.header_bytes, raw.sealed_body)
        if not raw.header.packed:
            return body
        return unpack(body, _LARGEST_REPLY_BODY if size is None else size, exact=size is not None)

    def open_into(self, raw: RawReply, room: memoryview) -> None:
        """The reply's body into `room`, which is as long (`raw.body_size`). Raises `BadSeal`."""
        self._check(raw)
        aead.unseal_into(
            room,
            suite=self._suite,
            key=self._key,
            seq=raw.header.seq,
            header=raw.header_bytes,
            sealed=raw.sealed_body,
        )

    def _check(self, raw: RawReply) -> None:
        if not self.fits(raw.header):
            raise BadSeal("the reply belongs to another request or another worker's key")


# ---------------------------------------------------------------- keys


def _shared(secret: bytes, public: bytes) -> bytes:
    shared = exchange(secret, public)
    if shared is None:
        raise BadSeal("an exchange key of low order: nothing can be sealed to it")
    return shared


def _request_key(shared: bytes, request_id: RequestId) -> bytes:
    material = shared + request_id.to_bytes()
    return blake2b(material, digest_size=KEY_SIZE_BYTES, person=_REQUEST_KEY).digest()


def _reply_key(
    *,
    ephemeral_shared: bytes,
    static_shared: bytes,
    request_id: RequestId,
    sender: bytes,
    recipient: bytes,
    suite: Suite,
) -> bytes:
    """Every part has a fixed size, so two different sets never give the same material."""
    material = b"".join(
        (ephemeral_shared, static_shared, request_id.to_bytes(), sender, recipient, bytes((suite,)))
    )
    return blake2b(material, digest_size=KEY_SIZE_BYTES, person=_REPLY_KEY).digest()
