"""Two sites with fixed keys, and a request from the one to the other, for the protocol's tests."""

from __future__ import annotations

from chunkq.protocol import cbor
from chunkq.protocol.identity import SiteCard, SiteKeys, card_of
from chunkq.protocol.messages import Open
from chunkq.protocol.packet import RequestId, RequestKind, Suite
from chunkq.protocol.seal import seal_request

ALICE = SiteKeys(signing_seed=b"a" * 32, exchange_secret=b"A" * 32)
BOB = SiteKeys(signing_seed=b"b" * 32, exchange_secret=b"B" * 32)
ALICE_CARD: SiteCard = card_of(ALICE, "alice")
BOB_CARD: SiteCard = card_of(BOB, "bob")
REQUESTER_EPHEMERAL = b"e" * 32
ORIGIN_EPHEMERAL = b"o" * 32
REQUEST_ID = RequestId(epoch=7, counter=42)
OPEN_BODY = cbor.encode(Open(instance="i1", share="s", path="a/b", largest_chunk=4096))


def make_request(
    body: bytes = OPEN_BODY,
    *,
    kind: RequestKind = RequestKind.OPEN,
    suite: Suite = Suite.AES256GCM,
    keys: SiteKeys = ALICE,
    recipient: SiteCard = BOB_CARD,
    request_id: RequestId = REQUEST_ID,
) -> bytes:
    """A valid request, Alice's to Bob unless said otherwise; the same arguments, the same bytes."""
    return seal_request(
        keys=keys,
        recipient=recipient,
        ephemeral_secret=REQUESTER_EPHEMERAL,
        kind=kind,
        request_id=request_id,
        issued_ms=1_000_000,
        expires_ms=1_600_000,
        body=body,
        suite=suite,
    )
