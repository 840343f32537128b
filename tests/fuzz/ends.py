"""The two ends of a link: the gate of bob, the origin, and what alice opens his replies with."""

from __future__ import annotations

from chunkq.protocol.identity import SiteCard
from chunkq.protocol.messages import Body
from chunkq.protocol.origin import Gate
from chunkq.protocol.ownsite import OwnGate
from chunkq.protocol.packet import RequestId, RequestKind, Suite, parse_request
from chunkq.protocol.seal import ReplyOpener, ReplySealer, seal_request
from tests.protocol.sites import (
    ALICE,
    ALICE_CARD,
    BOB,
    BOB_CARD,
    ORIGIN_EPHEMERAL,
    REQUESTER_EPHEMERAL,
    make_request,
)

#: Within the lifetime of `make_request`'s.
WALL_MS = 1_000_100


def admit(packet: bytes) -> Body:
    """The whole gate, to the decoded body."""
    gate = Gate(
        keys=BOB,
        peer=lambda site_id: ALICE_CARD if site_id == ALICE.site_id else None,
        seen=lambda peer, request_id: False,
        requests_per_s=1e9,
    )
    return gate.decode(gate.admit(packet, 0.0, WALL_MS))


def sealer() -> ReplySealer:
    """What bob seals his replies to a request of alice's with."""
    raw = parse_request(make_request())
    return ReplySealer(raw=raw, keys=BOB, ephemeral_secret=ORIGIN_EPHEMERAL)


def opener(header: bytes, origin: SiteCard = BOB_CARD) -> ReplyOpener:
    """What alice opens a reply with."""
    return ReplyOpener(
        header=header,
        sender=ALICE.site_id,
        recipient=origin,
        ephemeral_secret=REQUESTER_EPHEMERAL,
    )


def admit_own(kind: RequestKind, model: type[Body], body: bytes) -> Body:
    """What Bob makes of a body that another process of his signed and sealed for him."""
    gate = OwnGate(kind, model, lambda site_id: BOB if site_id == BOB.site_id else None)
    packet = seal_request(
        keys=BOB,
        recipient=BOB_CARD,
        ephemeral_secret=REQUESTER_EPHEMERAL,
        kind=kind,
        request_id=RequestId(1, 1),
        issued_ms=WALL_MS,
        expires_ms=WALL_MS + 1000,
        body=body,
        suite=Suite.XCHACHA20POLY1305,
    )
    return gate.admit(packet, 0.0, WALL_MS)
