"""What a site says to itself: nobody else can say it, and nobody can say it again."""

from __future__ import annotations

import pytest

from chunkq.errors import (
    BadSignature,
    Expired,
    Malformed,
    Misaddressed,
    OverBudget,
    PacketError,
    Replayed,
    UnknownSender,
)
from chunkq.protocol import cbor
from chunkq.protocol import ownsite as module
from chunkq.protocol.control import MAX_TRANSFERS, Command
from chunkq.protocol.identity import SiteCard, SiteKeys, card_of
from chunkq.protocol.limits import MAX_CLOCK_SKEW_MS
from chunkq.protocol.messages import Body
from chunkq.protocol.origin import Gate
from chunkq.protocol.ownsite import MAX_LIFETIME_MS, UNVERIFIED_BURST, OwnGate
from chunkq.protocol.packet import RequestId, RequestKind, Suite
from chunkq.protocol.report import Report
from chunkq.protocol.seal import LARGEST_REQUEST_BODY_BYTES, seal_request
from tests.protocol.sites import ALICE, ALICE_CARD, BOB, BOB_CARD, REQUESTER_EPHEMERAL

ISSUED_MS = 100_000_000
LIFETIME_MS = 30_000
ALICE_BEFORE = SiteKeys(signing_seed=b"z" * 32, exchange_secret=b"Z" * 32)
COMMAND = Command(incarnation="ab" * 16, action="pause", transfers=["1-2"], by="page:op@host")
REPORT = Report(
    site="alice",
    host="here",
    pid=7,
    role="origin",
    instance="origin-abcdefghijkl",
    incarnation="00" * 16,
    software="1",
    started_ms=1,
    at_ms=2,
)


def packet(
    body: Body = COMMAND,
    *,
    keys: SiteKeys = ALICE,
    recipient: SiteCard = ALICE_CARD,
    kind: RequestKind = RequestKind.CONTROL,
    counter: int = 1,
    issued_ms: int = ISSUED_MS,
    lifetime_ms: int = LIFETIME_MS,
) -> bytes:
    return seal_request(
        keys=keys,
        recipient=recipient,
        ephemeral_secret=REQUESTER_EPHEMERAL,
        kind=kind,
        request_id=RequestId(7, counter),
        issued_ms=issued_ms,
        expires_ms=issued_ms + lifetime_ms,
        body=cbor.encode(body),
        suite=Suite.XCHACHA20POLY1305,
    )


def holder(site_id: bytes) -> SiteKeys | None:
    """Alice's keys, and those that she had before."""
    return next((keys for keys in (ALICE, ALICE_BEFORE) if keys.site_id == site_id), None)


def gate() -> OwnGate[Command]:
    return OwnGate(RequestKind.CONTROL, Command, holder)


def test_a_site_hears_itself() -> None:
    """A command, and a report, as they were said."""
    reports = OwnGate(RequestKind.REPORT, Report, holder)

    assert COMMAND == gate().admit(packet(), 0.0, ISSUED_MS)
    assert REPORT == reports.admit(packet(REPORT, kind=RequestKind.REPORT), 0.0, ISSUED_MS)


def test_a_site_hears_itself_while_its_keys_change() -> None:
    """A process that has not looked yet speaks by the keys before, and is spoken to by the new."""
    before = card_of(ALICE_BEFORE, "alice")

    assert COMMAND == gate().admit(packet(keys=ALICE_BEFORE, recipient=before), 0.0, ISSUED_MS)
    assert COMMAND == gate().admit(packet(keys=ALICE_BEFORE), 0.0, ISSUED_MS)


@pytest.mark.parametrize(
    ("made", "error"),
    [
        pytest.param(packet(keys=BOB), UnknownSender, id="another-site-signs"),
        pytest.param(packet(recipient=BOB_CARD), Misaddressed, id="to-another-recipient"),
        pytest.param(
            packet(REPORT, kind=RequestKind.REPORT), Malformed, id="a-report-is-no-command"
        ),
        pytest.param(packet(REPORT), Malformed, id="a-command-has-its-own-body"),
        pytest.param(packet(kind=RequestKind.OPEN), Malformed, id="a-request-to-an-origin"),
        pytest.param(packet(lifetime_ms=MAX_LIFETIME_MS + 1), Malformed, id="lives-too-long"),
        pytest.param(packet(lifetime_ms=0), Malformed, id="does-not-live"),
        pytest.param(packet()[:-1], Malformed, id="short"),
        pytest.param(b"", Malformed, id="nothing"),
    ],
)
def test_what_does_not_count(made: bytes, error: type[PacketError]) -> None:
    """Each by the first check that it fails."""
    with pytest.raises(error):
        gate().admit(made, 0.0, ISSUED_MS)


def test_another_site_cannot_sign_in_ones_name() -> None:
    """Its own signature under a header that says it is from here does not hold."""
    raw = bytearray(packet(keys=BOB))
    raw[8:40] = ALICE.site_id

    with pytest.raises(BadSignature):
        gate().admit(bytes(raw), 0.0, ISSUED_MS)


def test_no_single_bit_can_be_changed() -> None:
    """Every flip of a valid command is refused."""
    valid = packet()
    judge = gate()
    refused = 0
    for bit in range(len(valid) * 8):
        flipped = bytearray(valid)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PacketError):
            judge.admit(bytes(flipped), bit / 10, ISSUED_MS)
        refused += 1

    assert len(valid) * 8 == refused
    assert COMMAND == judge.admit(valid, 1e6, ISSUED_MS)


def test_a_command_counts_once() -> None:
    """Sent again at once, at the end of its life, and after it: refused each time."""
    judge, end_ms = gate(), ISSUED_MS + LIFETIME_MS + MAX_CLOCK_SKEW_MS
    judge.admit(packet(), 0.0, ISSUED_MS)
    for late_ms in (0, 1, end_ms - ISSUED_MS):
        with pytest.raises(Replayed):
            judge.admit(packet(), late_ms / 1000, ISSUED_MS + late_ms)
    with pytest.raises(Expired):
        judge.admit(packet(), (end_ms + 1 - ISSUED_MS) / 1000, end_ms + 1)

    assert COMMAND == judge.admit(packet(counter=2), 1.0, ISSUED_MS)


def test_a_clock_that_jumps_makes_no_command_new() -> None:
    """Forward until it would be forgotten, others come meanwhile, and back."""
    judge = gate()
    judge.admit(packet(), 0.0, ISSUED_MS)
    later_ms = ISSUED_MS + 10 * MAX_CLOCK_SKEW_MS
    judge.admit(packet(counter=2, issued_ms=later_ms), 1.0, later_ms)

    with pytest.raises(Replayed):
        judge.admit(packet(), 2.0, ISSUED_MS)


def test_what_is_over_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """So memory is bounded; more than is remembered within a lifetime is refused, not let in."""
    monkeypatch.setattr(module, "MAX_SEEN", 10)
    judge = gate()
    for counter in range(10):
        judge.admit(packet(counter=counter), 0.0, ISSUED_MS)
    with pytest.raises(OverBudget):
        judge.admit(packet(counter=10), 0.0, ISSUED_MS)
    later_s = (LIFETIME_MS + MAX_CLOCK_SKEW_MS) / 1000 + 1
    later_ms = ISSUED_MS + int(later_s * 1000)

    assert COMMAND == judge.admit(packet(counter=10, issued_ms=later_ms), later_s, later_ms)
    assert 1 == len(judge._seen)


@pytest.mark.parametrize("offset_ms", [-MAX_CLOCK_SKEW_MS, MAX_CLOCK_SKEW_MS])
def test_hosts_of_a_site_may_differ_by_the_usual_skew(offset_ms: int) -> None:
    """Ten minutes either way, and no more."""
    assert COMMAND == gate().admit(packet(issued_ms=ISSUED_MS + offset_ms), 0.0, ISSUED_MS)
    beyond = ISSUED_MS + offset_ms + (1 if offset_ms > 0 else -LIFETIME_MS - 1)
    with pytest.raises(Expired):
        gate().admit(packet(issued_ms=beyond), 0.0, ISSUED_MS)


def test_a_flood_of_forged_commands_is_not_looked_at() -> None:
    """Signatures that do not hold are bounded; what is signed here is heard again soon."""
    raw = bytearray(packet())
    raw[-1] ^= 1
    judge = gate()
    looked = 0
    for _ in range(UNVERIFIED_BURST + 500):
        with pytest.raises(PacketError) as caught:
            judge.admit(bytes(raw), 0.0, ISSUED_MS)
        looked += caught.type is BadSignature

    assert UNVERIFIED_BURST == looked
    assert COMMAND == judge.admit(packet(), 1.0, ISSUED_MS)


@pytest.mark.parametrize("kind", [RequestKind.REPORT, RequestKind.CONTROL])
def test_an_origin_is_asked_nothing_of_the_kind(kind: RequestKind) -> None:
    """From a pinned peer, from itself, from a stranger: dropped before anything is looked up."""
    looked_up: list[bytes] = []

    def peer(site_id: bytes) -> SiteCard | None:
        looked_up.append(site_id)
        return ALICE_CARD

    origin = Gate(keys=ALICE, peer=peer, seen=lambda *_: False, requests_per_s=1000)
    for keys in (ALICE, BOB):
        with pytest.raises(Malformed):
            origin.admit(packet(keys=keys, kind=kind), 0.0, ISSUED_MS)

    assert [] == looked_up


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("pause", {}),
        ("pause", {"transfers": ["1"] * (MAX_TRANSFERS + 1)}),
        ("pause", {"transfers": ["1"], "value": "urgent"}),
        ("priority", {"transfers": ["1"]}),
        ("priority", {"transfers": ["1"], "value": "soon"}),
        ("cancel", {"transfers": ["1"], "value": "all"}),
        ("freeze", {"value": "bob"}),
        ("freeze", {"value": "site:bob"}),
        ("freeze", {"value": "peer:"}),
        ("drain", {"transfers": ["1"]}),
        ("drain", {"value": "now"}),
        ("remove", {"transfers": ["1"]}),
        ("drain", {"by": ""}),
    ],
)
def test_commands_that_mean_nothing(action: str, fields: dict[str, object]) -> None:
    """What is done to what is closed: nobody has to guess."""
    given = {"incarnation": "ab" * 16, "action": action, "by": "op@host"} | fields

    with pytest.raises(ValueError, match="Command"):
        Command.model_validate(given, strict=True)


def test_the_largest_command_fits_into_a_request() -> None:
    """With as many transfers as may be, of the longest ids."""
    full = Command(
        incarnation="ab" * 16,
        action="priority",
        value="urgent",
        transfers=["x" * 64] * MAX_TRANSFERS,
        by="b" * 255,
    )

    assert len(cbor.encode(full)) <= LARGEST_REQUEST_BODY_BYTES
    assert full == gate().admit(packet(full), 0.0, ISSUED_MS)
