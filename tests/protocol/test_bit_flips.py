"""Every single bit of every kind of packet: whoever flips one has done nothing but break it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chunkq.errors import PacketError
from chunkq.protocol import cbor
from chunkq.protocol.bundle import BundleBuilder, asked_digest
from chunkq.protocol.limits import KIB
from chunkq.protocol.messages import Body, RefusalReason, Request
from chunkq.protocol.origin import BODIES, Gate
from chunkq.protocol.packet import (
    ReplyKind,
    RequestId,
    RequestKind,
    Suite,
    parse_reply,
    parse_request,
)
from chunkq.protocol.packing import pack
from chunkq.protocol.seal import ReplyOpener, ReplySealer, has_aes
from tests.fuzz.bodies import REPLY_BODIES, REQUEST_BODIES, leaves_of_four
from tests.protocol.sites import (
    ALICE,
    ALICE_CARD,
    BOB,
    BOB_CARD,
    ORIGIN_EPHEMERAL,
    REQUESTER_EPHEMERAL,
    make_request,
)

WALL_MS = 1_000_100
KINDS = {model: kind for kind, model in BODIES.items()}
SUITES = [suite for suite in Suite if has_aes() or suite is not Suite.AES256GCM]


def flipped(packet: bytes) -> Iterator[bytes]:
    """The packet with one bit changed: each of them in turn."""
    raw = bytearray(packet)
    for bit in range(8 * len(packet)):
        raw[bit >> 3] ^= 1 << (bit & 7)
        yield bytes(raw)
        raw[bit >> 3] ^= 1 << (bit & 7)


def test_every_kind_is_here() -> None:
    """A new one has to be added."""
    own = {RequestKind.REPORT, RequestKind.CONTROL}  # see test_ownsite
    assert set(RequestKind) - own == {KINDS[type(body)] for body in REQUEST_BODIES}
    assert set(ReplyKind) == {kind for kind, _ in replies()}


@pytest.mark.parametrize("body", REQUEST_BODIES, ids=lambda body: type(body).__name__)
def test_requests(body: Request) -> None:
    """At the gate: dropped without a word, nothing recorded, nothing taken of the peer's quota."""
    asked: list[RequestId] = []
    gate = Gate(
        keys=BOB,
        peer=lambda site_id: ALICE_CARD if site_id == ALICE.site_id else None,
        seen=lambda _, request_id: asked.append(request_id) is not None,
        requests_per_s=1.0,
    )
    packet = make_request(cbor.encode(body), kind=KINDS[type(body)])
    for number, changed in enumerate(flipped(packet)):
        with pytest.raises(PacketError):
            gate.decode(gate.admit(changed, float(number), WALL_MS))

    # two are saved up, as at the start: none of the changed ones was on the peer's account
    whole = [gate.admit(packet, 1e6, WALL_MS) for _ in range(3)]
    assert [None, None, RefusalReason.BUSY] == [
        each.refusal and each.refusal.reason for each in whole
    ]
    assert body == gate.decode(whole[0])


def replies() -> list[tuple[ReplyKind, bytes]]:
    builder = BundleBuilder(asked_digest("s", [("a", ["x"])]), 64 * KIB)
    builder.add(0, 0o644, 5, b"first")
    bodies: list[tuple[ReplyKind, Body]] = REPLY_BODIES
    return [
        *((kind, cbor.encode(body)) for kind, body in bodies),
        (ReplyKind.PAGE, leaves_of_four()),
        (ReplyKind.CHUNK, b"a chunk of a file"),
        (ReplyKind.BUNDLE, builder.sign(BOB)),
        (ReplyKind.PROBE, bytes(8)),
    ]


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize(("kind", "body"), replies(), ids=lambda value: getattr(value, "name", ""))
def test_replies(kind: ReplyKind, body: bytes, packed: bool, suite: Suite) -> None:
    """At the requester: none opens, be it that the key was known or that it is made anew."""
    sealer = ReplySealer(
        raw=parse_request(make_request(suite=suite)), keys=BOB, ephemeral_secret=ORIGIN_EPHEMERAL
    )
    packet = sealer.seal(kind, pack(body) if packed else body, 3, packed=packed)
    known = opener_of(packet)
    assert body == known.open(parse_reply(packet))
    for changed in flipped(packet):
        with pytest.raises(PacketError):
            opened(known, changed)


def opened(known: ReplyOpener, packet: bytes) -> bytes:
    raw = parse_reply(packet)
    return (known if known.fits(raw.header) else opener_of(packet)).open(raw)


def opener_of(packet: bytes) -> ReplyOpener:
    return ReplyOpener(
        header=parse_reply(packet).header,
        sender=ALICE.site_id,
        recipient=BOB_CARD,
        ephemeral_secret=REQUESTER_EPHEMERAL,
    )
