"""What one peer may have: its account, the day's bytes, and whose turn it is."""

from __future__ import annotations

import pytest

from chunkq.errors import EpochLost, OverBudget
from chunkq.protocol import day
from chunkq.protocol.day import HOUR_MS
from chunkq.protocol.messages import Chunks, Files, List, Open, Pages, Probe, RefusalReason, Request
from chunkq.protocol.origin import UNVERIFIED_BURST
from chunkq.protocol.packet import RequestId
from chunkq.protocol.priority import MAX_OVERTAKINGS, Priority
from chunkq.protocol.quota import (
    REFUSED_BURST,
    REFUSED_PER_S,
    RETRY_MS,
    Account,
    PeerQuota,
    Quota,
    asked_bytes,
    counts_for_the_day,
)
from chunkq.protocol.turns import Turns

from .sites import ALICE
from .test_origin_gate import NOW_MS, Site, dropped, request

ROOT = b"r" * 32


def test_what_is_said_of_one_peer_goes_before_what_is_said_of_all() -> None:
    """Only what is said; 0 bytes a day (any number) is said, too."""
    default = Quota(requests_per_s=5, bytes_per_day=7)
    assert default is PeerQuota(pending_transfers=1, disk_bytes=2).over(default)
    own = PeerQuota(bytes_per_day=0, pending_hashes=3)
    assert Quota(requests_per_s=5, bytes_per_day=0, pending_hashes=3) == own.over(default)


@pytest.mark.parametrize(
    ("body", "size", "counted"),
    [
        (Open(instance="i", share="s", path="p", largest_chunk=4096), 0, False),
        (List(instance="i", share="s", path="p"), 0, False),
        (
            Pages(instance="i", share="s", path="p", root=ROOT, chunk_size=4096, runs=[(0, 2)]),
            2 * 16384,
            False,
        ),
        (
            Chunks(
                instance="i", share="s", path="p", root=ROOT, chunk_size=4096, runs=[(0, 2), (9, 1)]
            ),
            3 * 4096,
            True,
        ),
        (Probe(instance="i", size=10, count=3), 30, True),
        (
            Files(instance="i", share="s", groups=[("d", ["a"])], largest=8192),
            8192,
            True,
        ),
    ],
)
def test_what_a_request_will_cost_is_known_before(body: Request, size: int, counted: bool) -> None:
    """By its own words; what is no content does not count for the day."""
    assert (size, counted) == (asked_bytes(body), counts_for_the_day(body))


def test_bytes_in_flight_are_given_back() -> None:
    """Over the limit it is busy, but for the first; what has ended makes room."""
    account = Account(Quota(bytes_in_flight=100))
    assert account.take_bytes(500) is None
    with account.sending(60):
        assert account.take_bytes(40) is None
        refusal = account.take_bytes(41)
        assert account.take_bytes(0) is None
    assert refusal is not None
    assert (RefusalReason.BUSY, RETRY_MS) == (refusal.reason, refusal.retry_after_ms)
    assert "100 bytes" in refusal.detail
    assert account.take_bytes(41) is None


def test_requests_that_wait_are_bounded() -> None:
    """As many as may be pending, then busy, whatever the rate would allow."""
    account = Account(Quota(pending_requests=2))
    account.pending = 1
    assert account.take_request(0.0) is None
    account.pending = 2
    refusal = account.take_request(0.0)
    assert refusal is not None
    assert "2 requests" in refusal.detail
    account.use(Quota(pending_requests=3))
    assert account.take_request(0.0) is None


def test_a_new_rate_is_in_force_at_once() -> None:
    """And an unchanged one does not fill the bucket again."""
    account = Account(Quota(requests_per_s=0.5))
    assert account.take_request(0.0) is None
    account.use(Quota(requests_per_s=0.5, bytes_per_day=1))
    assert account.take_request(0.0) is not None
    account.use(Quota(requests_per_s=10))
    assert account.take_request(0.0) is None


def test_a_flood_is_told_so_now_and_then_and_costs_no_signature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Far over its quota a peer gets a bounded number of refusals; then nothing is looked at."""
    site = Site(requests_per_s=1.0)
    said = [site.gate.admit(request(), 0.0, NOW_MS).refusal for _ in range(2 + int(REFUSED_BURST))]
    assert [None, None] == said[:2]
    assert None not in said[2:]
    site.watch(monkeypatch)
    site.asked.clear()
    assert (OverBudget, ["peer"]) == dropped(site, request())
    refusal = site.gate.admit(request(), 1.5 / REFUSED_PER_S, NOW_MS).refusal
    assert refusal is not None
    assert RefusalReason.BUSY is refusal.reason


def test_signatures_that_hold_leave_the_unverified_budget_to_others() -> None:
    """A peer with a large quota does not use up what all senders share."""
    site = Site(requests_per_s=1e6)
    admitted = [
        site.gate.admit(request(), 0.0, NOW_MS).refusal for _ in range(UNVERIFIED_BURST + 1)
    ]
    assert [None] == list(dict.fromkeys(admitted))


def test_who_is_refused_for_another_reason_pays_all_the_same() -> None:
    """A clock that is ahead, or an epoch that is lost, is no way around the quota."""

    def lost(_peer: bytes, _request_id: RequestId) -> bool:
        raise EpochLost("gone", epoch_floor=9)

    site = Site(requests_per_s=1.0, seen=lost)
    reasons = []
    for _ in range(3):
        refusal = site.gate.admit(request(), 0.0, NOW_MS).refusal
        assert refusal is not None
        reasons.append(refusal.reason)
    assert [RefusalReason.EXPIRED, RefusalReason.EXPIRED, RefusalReason.BUSY] == reasons


def test_the_account_is_one_for_all_keys() -> None:
    """`account` names it; the quota is asked for anew each time."""
    site = Site()
    assert site.gate.account(ALICE.site_id) is site.gate.account(ALICE.site_id)


# ---------------------------------------------------------------- the day


def test_a_day_is_any_24_hours() -> None:
    """What was used in an hour counts for the whole of it, and 24 hours more."""
    used = [(100, 7)]
    assert 7 == day.total(used, 100 * HOUR_MS)
    assert 7 == day.total(used, 125 * HOUR_MS - 1)
    assert 0 == day.total(used, 125 * HOUR_MS)


def test_the_wait_is_until_enough_counts_no_more() -> None:
    """The oldest hours make room first; no longer than a refusal can say."""
    used = [(101, 5), (100, 3), (102, 4)]
    now = 103 * HOUR_MS
    assert 0 == day.wait_ms(used, 13, now)
    assert 22 * HOUR_MS == day.wait_ms(used, 12, now)
    assert 22 * HOUR_MS == day.wait_ms(used, 10, now)
    assert 23 * HOUR_MS == day.wait_ms(used, 9, now)
    assert 24 * HOUR_MS == day.wait_ms(used, 1, now)
    assert 24 * HOUR_MS == day.wait_ms([(103, 1)], 1, now)


def test_a_clock_that_was_wrong_does_not_count_for_ever() -> None:
    """Hours more than a day ahead are forgotten, those within count."""
    assert 0 == day.total([(125, 9)], 100 * HOUR_MS)
    assert 9 == day.total([(124, 9)], 100 * HOUR_MS)


# ---------------------------------------------------------------- whose turn


def test_who_has_least_goes_first_and_equals_take_turns() -> None:
    """A long queue of one account holds up nobody."""
    turns: Turns[str] = Turns()
    for number in range(3):
        turns.add(b"m", Priority.NORMAL, f"m{number}")
    turns.add(b"a", Priority.NORMAL, "a0")
    came = []
    while turns:
        account = turns.order({})[0]
        came.append(turns.pop(account, turns.classes(account)[0]))
        if came[-1] == "m1":
            turns.add(b"a", Priority.BULK, "a1")
    assert ["m0", "a0", "m1", "m2", "a1"] == came
    turns.add(b"m", Priority.URGENT, "m")
    turns.add(b"a", Priority.BULK, "a")
    assert [b"a", b"m"] == turns.order({b"m": 2, b"a": 1})


def test_classes_count_within_an_account() -> None:
    """The highest first, a lower one now and then."""
    turns: Turns[int] = Turns()
    for number in range(MAX_OVERTAKINGS + 1):
        turns.add(b"m", Priority.URGENT, number)
    turns.add(b"m", Priority.BULK, -1)
    for number in range(MAX_OVERTAKINGS):
        assert number == turns.pop(b"m", turns.classes(b"m")[0])
    assert (Priority.BULK, Priority.URGENT) == turns.classes(b"m")
