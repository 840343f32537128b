"""The origin's gate: the order of its checks, and what each of them says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from chunkq.errors import (
    BadSeal,
    BadSignature,
    EpochLost,
    Expired,
    Malformed,
    Misaddressed,
    OverBudget,
    PacketError,
    Replayed,
    UnknownSender,
)
from chunkq.protocol import cbor
from chunkq.protocol import origin as gate_module
from chunkq.protocol.identity import SiteCard, SiteKeys, card_of
from chunkq.protocol.limits import MAX_CLOCK_SKEW_MS, MAX_LIFETIME_MS, MAX_REQUEST_SIZE_BYTES
from chunkq.protocol.messages import (
    Body,
    Chunks,
    Files,
    List,
    Open,
    Pages,
    Probe,
    Receipt,
    Refusal,
    RefusalReason,
    Statement,
)
from chunkq.protocol.origin import STRANGERS_BURST, UNVERIFIED_BURST, Gate
from chunkq.protocol.packet import (
    REQUEST_HEADER_SIZE_BYTES,
    RawRequest,
    RequestId,
    RequestKind,
    Suite,
)
from chunkq.protocol.seal import seal_request, verify_request

from .sites import (
    ALICE,
    ALICE_CARD,
    BOB,
    BOB_CARD,
    OPEN_BODY,
    REQUEST_ID,
    REQUESTER_EPHEMERAL,
    make_request,
)

NOW_MS = 1_000_000_000
LIFETIME_MS = 600_000
ROOT = b"r" * 32
STRANGER = SiteKeys(b"s" * 32, b"S" * 32)
#: What a site says to itself no origin takes; `tests/protocol/test_ownsite.py` has those.
ANSWERED = set(RequestKind) - {RequestKind.REPORT, RequestKind.CONTROL}
BODIES = {
    RequestKind.OPEN: Open(instance="i", share="s", path="p", largest_chunk=4096),
    RequestKind.PAGES: Pages(
        instance="i", share="s", path="p", root=ROOT, chunk_size=4096, runs=[(0, 1)]
    ),
    RequestKind.CHUNKS: Chunks(
        instance="i", share="s", path="p", root=ROOT, chunk_size=4096, runs=[(0, 64)]
    ),
    RequestKind.LIST: List(instance="i", share="s", path="p", cursor="c"),
    RequestKind.RECEIPT: Receipt(instance="i", share="s", path="p", root=ROOT),
    RequestKind.PROBE: Probe(instance="i", size=1, count=64),
    RequestKind.FILES: Files(instance="i", share="s", groups=[("d", ["a", "b"])], largest=4096),
    RequestKind.STATEMENT: Statement(instance="i", line="chunkq-succession:1:alice:"),
}


@dataclass
class Site:
    """A gate of Bob's and a note of each check that asks something of the outside."""

    requests_per_s: float = 100.0
    peers: dict[bytes, SiteCard] = field(default_factory=lambda: {ALICE.site_id: ALICE_CARD})
    seen: Callable[[bytes, RequestId], bool] = lambda peer, request_id: False
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate = Gate(
            keys=BOB, peer=self._peer, seen=self._seen, requests_per_s=self.requests_per_s
        )

    def _peer(self, site_id: bytes) -> SiteCard | None:
        self.asked.append("peer")
        return self.peers.get(site_id)

    def _seen(self, peer: bytes, request_id: RequestId) -> bool:
        self.asked.append("seen")
        return self.seen(peer, request_id)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Note when a signature is looked at, too."""

        def noting(raw: RawRequest, sender: SiteCard) -> None:
            self.asked.append("signature")
            verify_request(raw, sender)

        monkeypatch.setattr(gate_module, "verify_request", noting)


def request(
    *,
    issued_ms: int = NOW_MS,
    expires_ms: int | None = None,
    body: bytes = OPEN_BODY,
    kind: RequestKind = RequestKind.OPEN,
) -> bytes:
    return seal_request(
        keys=ALICE,
        recipient=BOB_CARD,
        ephemeral_secret=REQUESTER_EPHEMERAL,
        kind=kind,
        request_id=REQUEST_ID,
        issued_ms=issued_ms,
        expires_ms=issued_ms + LIFETIME_MS if expires_ms is None else expires_ms,
        body=body,
        suite=Suite.XCHACHA20POLY1305,
    )


def forged(packet: bytes) -> bytes:
    """The same with a signature that does not hold."""
    return packet[:-1] + bytes((packet[-1] ^ 1,))


def test_a_good_request_is_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every check once, in order, and nothing to refuse."""
    site = Site()
    site.watch(monkeypatch)
    admitted = site.gate.admit(request(), 0.0, NOW_MS)
    assert ["peer", "seen", "signature"] == site.asked
    assert (ALICE_CARD, None, True) == (admitted.sender, admitted.refusal, admitted.recordable)
    assert admitted.raw.header.request_id == REQUEST_ID


def _lost(peer: bytes, request_id: RequestId) -> bool:
    raise EpochLost("the record is gone", epoch_floor=99)


def dropped(site: Site, packet: bytes) -> tuple[type[PacketError], list[str]]:
    """How the packet is dropped, and what was asked of the outside before."""
    with pytest.raises(PacketError) as caught:
        site.gate.admit(packet, 0.0, NOW_MS)
    return caught.type, site.asked


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="empty"),
        pytest.param(bytes(MAX_REQUEST_SIZE_BYTES + 1), id="too-large"),
        pytest.param(b"CKQR" + request()[4:], id="another-magic"),
        pytest.param(request()[:4] + b"\x63" + request()[5:], id="unknown-kind"),
        pytest.param(request()[:-1], id="cut"),
    ],
)
def test_what_is_no_request_asks_nothing_of_the_outside(packet: bytes) -> None:
    """Size, magic, kind and lengths come before everything else."""
    assert (Malformed, []) == dropped(Site(), packet)


def test_a_request_for_another_recipient_is_dropped_before_its_sender_is_looked_up() -> None:
    """Misaddressed is cheaper than a look into the registry."""
    assert (Misaddressed, []) == dropped(Site(), make_request(recipient=ALICE_CARD))


def test_a_request_signed_by_a_stranger_is_not_looked_up_in_the_replay_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stranger costs one look into the registry, no disk and no signature."""
    site = Site(peers={})
    site.watch(monkeypatch)
    assert (UnknownSender, ["peer"]) == dropped(site, request())


def test_a_revoked_peer_is_a_stranger_from_the_next_request_on() -> None:
    """The registry is asked each time, so a revocation needs no restart."""
    site = Site()
    site.gate.admit(request(), 0.0, NOW_MS)
    site.peers.clear()
    site.asked.clear()
    assert (UnknownSender, ["peer"]) == dropped(site, request())


@pytest.mark.parametrize(
    ("issued_ms", "expires_ms", "error"),
    [
        pytest.param(NOW_MS, NOW_MS, Malformed, id="no-lifetime"),
        pytest.param(NOW_MS, NOW_MS - 1, Malformed, id="negative-lifetime"),
        pytest.param(NOW_MS, NOW_MS + MAX_LIFETIME_MS + 1, Malformed, id="lifetime-too-long"),
        pytest.param(0, NOW_MS - MAX_CLOCK_SKEW_MS - 1, Expired, id="expired"),
        pytest.param(0, 1, Expired, id="expired-long-ago"),
        pytest.param(NOW_MS, 2**64 - 1, Malformed, id="for-ever"),
    ],
)
def test_a_request_outside_its_lifetime_is_dropped_before_the_replay_record(
    monkeypatch: pytest.MonkeyPatch, issued_ms: int, expires_ms: int, error: type[PacketError]
) -> None:
    """Neither the record nor the signature is looked at."""
    site = Site()
    site.watch(monkeypatch)
    assert (error, ["peer"]) == dropped(site, request(issued_ms=issued_ms, expires_ms=expires_ms))


@pytest.mark.parametrize(
    ("issued_ms", "expires_ms"),
    [
        pytest.param(NOW_MS, NOW_MS + MAX_LIFETIME_MS, id="longest-lifetime"),
        pytest.param(NOW_MS - 1_000_000, NOW_MS - MAX_CLOCK_SKEW_MS, id="just-within-the-skew"),
        pytest.param(NOW_MS + MAX_CLOCK_SKEW_MS, None, id="just-not-future-dated"),
    ],
)
def test_lifetimes_at_their_bounds_hold(issued_ms: int, expires_ms: int | None) -> None:
    """Ten minutes of skew either way, 31 days of lifetime."""
    packet = request(issued_ms=issued_ms, expires_ms=expires_ms)
    assert Site().gate.admit(packet, 0.0, NOW_MS).refusal is None


def test_a_future_dated_request_is_told_the_offset_of_its_clock() -> None:
    """Refused as clock_skew, once the signature holds; the offset corrects the requester."""
    ahead_ms = MAX_CLOCK_SKEW_MS + 1
    packet = request(issued_ms=NOW_MS + ahead_ms)
    refusal = Site().gate.admit(packet, 0.0, NOW_MS).refusal
    assert refusal is not None
    assert (RefusalReason.CLOCK_SKEW, -ahead_ms) == (refusal.reason, refusal.offset_ms)
    corrected = request(issued_ms=NOW_MS + ahead_ms + refusal.offset_ms)
    assert Site().gate.admit(corrected, 0.0, NOW_MS).refusal is None


def test_a_clock_centuries_ahead_still_gets_a_refusal_that_can_be_sent() -> None:
    """The largest offset a header can name fits into a refusal."""
    packet = request(issued_ms=2**64 - 2, expires_ms=2**64 - 1)
    refusal = Site().gate.admit(packet, 0.0, NOW_MS).refusal
    assert refusal is not None
    assert refusal == cbor.decode(Refusal, cbor.encode(refusal))


@pytest.mark.parametrize("issued_ms", [NOW_MS, NOW_MS + MAX_CLOCK_SKEW_MS + 1])
def test_nothing_is_said_to_a_forger(issued_ms: int) -> None:
    """A signature that does not hold drops the packet, clock skew or not."""
    site = Site()
    assert (BadSignature, ["peer", "seen"]) == dropped(site, forged(request(issued_ms=issued_ms)))


def test_a_replayed_request_is_dropped_before_its_signature_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The record is a read; a signature takes 60 us."""
    used: set[tuple[bytes, RequestId]] = {(ALICE.site_id, REQUEST_ID)}
    site = Site(seen=lambda peer, request_id: (peer, request_id) in used)
    site.watch(monkeypatch)
    assert (Replayed, ["peer", "seen"]) == dropped(site, request())


def test_a_lost_record_refuses_and_names_the_floor() -> None:
    """`expired` with the epoch floor, to be refused only: it must not be recorded nor acted on."""
    admitted = Site(seen=_lost).gate.admit(request(), 0.0, NOW_MS)
    refusal = admitted.refusal
    assert refusal is not None
    assert (RefusalReason.EXPIRED, 99) == (refusal.reason, refusal.epoch_floor)
    assert admitted.recordable is False


def test_a_lost_record_says_nothing_to_a_forger() -> None:
    """Not even the floor, before the signature holds."""
    assert (BadSignature, ["peer", "seen"]) == dropped(Site(seen=_lost), forged(request()))


def test_a_lost_record_comes_before_a_wrong_clock() -> None:
    """A request without a record is never recordable, whatever else is wrong with it."""
    packet = request(issued_ms=NOW_MS + MAX_CLOCK_SKEW_MS + 1)
    admitted = Site(seen=_lost).gate.admit(packet, 0.0, NOW_MS)
    assert admitted.recordable is False
    assert admitted.refusal is not None
    assert admitted.refusal.epoch_floor == 99


def test_over_the_unverified_budget_no_signature_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forgeries in a pinned peer's name cost a bounded time; the budget fills up again."""
    site = Site(requests_per_s=1e6)
    packet = forged(request())
    for _ in range(UNVERIFIED_BURST):
        with pytest.raises(BadSignature):
            site.gate.admit(packet, 0.0, NOW_MS)
    site.watch(monkeypatch)
    site.asked.clear()
    assert (OverBudget, ["peer", "seen"]) == dropped(site, packet)
    assert site.gate.admit(request(), 1.0, NOW_MS).refusal is None


def test_strangers_and_replays_do_not_use_the_unverified_budget() -> None:
    """What is dropped before the signature cannot keep others from theirs."""
    site = Site(seen=lambda peer, request_id: True)
    for _ in range(UNVERIFIED_BURST + 1):
        with pytest.raises(Replayed):
            site.gate.admit(request(), 0.0, NOW_MS)
    site.seen = lambda peer, request_id: False
    assert site.gate.admit(request(), 0.0, NOW_MS).refusal is None


def test_over_quota_is_busy_and_says_when_to_come_again() -> None:
    """Two seconds' worth at once, then the rate; after the wait it is served."""
    site = Site(requests_per_s=4.0)
    refusals = [site.gate.admit(request(), 0.0, NOW_MS).refusal for _ in range(9)]
    assert [None] * 8 == refusals[:8]
    refusal = refusals[8]
    assert refusal is not None
    assert RefusalReason.BUSY is refusal.reason
    assert 250 <= refusal.retry_after_ms <= 251
    assert site.gate.admit(request(), refusal.retry_after_ms / 1000, NOW_MS).refusal is None


def test_a_forger_does_not_use_a_peers_quota() -> None:
    """The quota is taken from only once the signature holds."""
    site = Site(requests_per_s=0.5)
    for _ in range(10):
        with pytest.raises(BadSignature):
            site.gate.admit(forged(request()), 0.0, NOW_MS)
    assert site.gate.admit(request(), 0.0, NOW_MS).refusal is None


def test_each_peer_has_a_quota_of_its_own() -> None:
    """One that asks for everything does not slow the next."""
    site = Site(requests_per_s=0.5)
    site.peers[BOB.site_id] = BOB_CARD
    assert site.gate.admit(request(), 0.0, NOW_MS).refusal is None
    assert site.gate.admit(request(), 0.0, NOW_MS).refusal is not None
    other = make_request(keys=BOB)
    assert site.gate.admit(other, 0.0, 1_200_000).refusal is None


@pytest.mark.parametrize("kind", sorted(ANSWERED))
def test_every_kind_is_decoded(kind: RequestKind) -> None:
    """The body that was sealed is the body that comes out."""
    site = Site()
    packet = request(kind=kind, body=cbor.encode(BODIES[kind]))
    admitted = site.gate.admit(packet, 0.0, NOW_MS)
    assert BODIES[kind] == site.gate.decode(admitted)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        pytest.param(RequestKind.OPEN, b"", id="empty"),
        pytest.param(RequestKind.OPEN, b"\xff", id="no-cbor"),
        pytest.param(RequestKind.OPEN, b"\xa0", id="no-fields"),
        pytest.param(RequestKind.CHUNKS, OPEN_BODY, id="another-kinds-body"),
        pytest.param(RequestKind.OPEN, OPEN_BODY + b"\x00", id="more-behind-it"),
    ],
)
def test_a_body_that_is_none_is_malformed(kind: RequestKind, body: bytes) -> None:
    """A peer that signs nonsense is dropped with a word for the log, not an exception of cbor2."""
    site = Site()
    admitted = site.gate.admit(request(kind=kind, body=body), 0.0, NOW_MS)
    with pytest.raises(Malformed):
        site.gate.decode(admitted)


def test_a_body_sealed_for_somebody_else_does_not_open() -> None:
    """A signed request whose sealed body was swapped for random bytes is a bad seal."""
    good = request()
    body_at = REQUEST_HEADER_SIZE_BYTES
    swapped = good[:body_at] + bytes(len(good) - body_at - 64)
    signature = ALICE.sign(b"chunkq 1 request", bytes((RequestKind.OPEN,)) + swapped)
    site = Site()
    admitted = site.gate.admit(swapped + signature, 0.0, NOW_MS)
    with pytest.raises(BadSeal):
        site.gate.decode(admitted)


def test_bodies_are_all_of_the_control_model() -> None:
    """Each kind of request has a body here, so that none is left untested."""
    assert set(ANSWERED) == set(BODIES)
    assert all(isinstance(body, Body) for body in BODIES.values())


# ---------------------------------------------------------------- keys that change


def statement(keys: SiteKeys = STRANGER, counter: int = 1, issued_ms: int = NOW_MS) -> bytes:
    """A statement about keys, by keys that nobody has pinned unless said otherwise."""
    return seal_request(
        keys=keys,
        recipient=BOB_CARD,
        ephemeral_secret=REQUESTER_EPHEMERAL,
        kind=RequestKind.STATEMENT,
        request_id=RequestId(7, counter),
        issued_ms=issued_ms,
        expires_ms=issued_ms + LIFETIME_MS,
        body=cbor.encode(BODIES[RequestKind.STATEMENT]),
        suite=Suite.AES256GCM,
    )


def test_unknown_keys_may_make_a_statement_and_nothing_else() -> None:
    """It has to prove itself, so it is marked, and no replay record is made for it."""
    site = Site()
    admitted = site.gate.admit(statement(), 0.0, NOW_MS)

    assert (True, False, None) == (admitted.stranger, admitted.recordable, admitted.refusal)
    assert BODIES[RequestKind.STATEMENT] == site.gate.decode(admitted)
    assert ["peer"] == site.asked
    for kind in BODIES.keys() - {RequestKind.STATEMENT}:
        packet = seal_request(
            keys=STRANGER,
            recipient=BOB_CARD,
            ephemeral_secret=REQUESTER_EPHEMERAL,
            kind=kind,
            request_id=REQUEST_ID,
            issued_ms=NOW_MS,
            expires_ms=NOW_MS + LIFETIME_MS,
            body=cbor.encode(BODIES[kind]),
            suite=Suite.AES256GCM,
        )
        with pytest.raises(UnknownSender):
            site.gate.admit(packet, 0.0, NOW_MS)


def test_a_statement_in_the_name_of_other_keys_is_refused() -> None:
    """An id is the key to verify with."""
    forged = bytearray(statement())
    forged[8:40] = BOB.site_id

    with pytest.raises(BadSignature):
        Site().gate.admit(bytes(forged), 0.0, NOW_MS)


def test_a_strangers_statement_gets_no_answer_about_the_clock() -> None:
    """Nothing is said to strangers but what their statement earns."""
    with pytest.raises(UnknownSender):
        Site().gate.admit(statement(issued_ms=NOW_MS + MAX_CLOCK_SKEW_MS + 1), 0.0, NOW_MS)


def test_a_flood_of_statements_takes_nothing_from_the_peers() -> None:
    """Strangers have a budget of their own; above it no signature is looked at."""
    site = Site()
    for counter in range(STRANGERS_BURST):
        site.gate.admit(statement(counter=counter), 0.0, NOW_MS)

    with pytest.raises(OverBudget):
        site.gate.admit(statement(counter=STRANGERS_BURST), 0.0, NOW_MS)
    assert ALICE_CARD == site.gate.admit(request(), 0.0, NOW_MS).sender


def test_retired_keys_open_what_was_sealed_to_them() -> None:
    """As long as the holder has them; then it is somebody else's."""
    held = {BOB.site_id: BOB}
    now = SiteKeys(b"n" * 32, b"N" * 32)
    gate = Gate(
        keys=now,
        peer={ALICE.site_id: ALICE_CARD}.get,
        seen=lambda _, __: False,
        requests_per_s=100.0,
        holder=held.get,
    )
    admitted = gate.admit(request(), 0.0, NOW_MS)

    assert OPEN_BODY == cbor.encode(gate.decode(admitted))
    assert BOB == gate.keys_of(admitted.raw)
    held.clear()
    with pytest.raises(Misaddressed):
        gate.admit(request(), 0.0, NOW_MS)
    with pytest.raises(Misaddressed):
        gate.decode(admitted)


def test_all_keys_of_a_peer_share_its_quota() -> None:
    """A peer that changes its keys often may not ask more for it."""
    later = SiteKeys(b"l" * 32, b"L" * 32)
    gate = Gate(
        keys=BOB,
        peer={ALICE.site_id: ALICE_CARD, later.site_id: card_of(later, "alice")}.get,
        seen=lambda _, __: False,
        requests_per_s=1.0,
        account=lambda _: ALICE.site_id,
    )
    answers = []
    for counter in range(3):
        keys = (ALICE, later)[counter % 2]
        packet = seal_request(
            keys=keys,
            recipient=BOB_CARD,
            ephemeral_secret=REQUESTER_EPHEMERAL,
            kind=RequestKind.OPEN,
            request_id=RequestId(7, counter),
            issued_ms=NOW_MS,
            expires_ms=NOW_MS + LIFETIME_MS,
            body=OPEN_BODY,
            suite=Suite.AES256GCM,
        )
        refusal = gate.admit(packet, 0.0, NOW_MS).refusal
        answers.append(refusal.reason if refusal else None)

    assert [None, None, RefusalReason.BUSY] == answers
