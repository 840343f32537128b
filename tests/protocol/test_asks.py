"""The ledger of asked chunks: its timer, its tokens, and what it tells the window."""

from __future__ import annotations

import pytest

from chunkq.protocol.asks import MAX_BACKOFF, Asks
from chunkq.protocol.limits import MIN_WINDOW_CHUNKS
from chunkq.protocol.window import INITIAL_CHUNKS, INITIAL_RTO_S, MAX_RTO_S, Window


@pytest.fixture
def window() -> Window:
    return Window(64)


@pytest.fixture
def asks(window: Window) -> Asks:
    return Asks(window)


def test_an_asked_chunk_counts_until_it_is_stored(asks: Asks, window: Window) -> None:
    """The window has its place back when the chunk is on the disk, not when it has landed."""
    asks.add(3, 1, 0.0)
    assert (True, 1, 1, 1) == (3 in asks, len(asks), asks.waiting, window.outstanding)
    asks.land(3)
    assert (True, 1, 0, 1) == (3 in asks, len(asks), asks.waiting, window.outstanding)
    asks.stored(3, 1, 0.5)
    assert (False, 0, 0, 0) == (3 in asks, len(asks), asks.waiting, window.outstanding)
    assert window.rtt_smoothed_s == 0.5


def test_a_landed_chunk_has_no_timer(asks: Asks) -> None:
    """A slow disk is no silence of the origin."""
    asks.add(1, 1, 0.0)
    asks.add(2, 1, 1.0)
    asks.land(1)
    assert asks.next_deadline_s == 1.0 + INITIAL_RTO_S
    assert [2] == asks.overdue(1000.0)
    assert 1 in asks


def test_a_late_reply_tells_its_own_round_trip(asks: Asks, window: Window) -> None:
    """The token says which ask it answers, so nothing is ambiguous, and the timer is right at once.

    The backing off ends with it: the timer knows the way now.
    """
    asks.add(1, 1, 0.0)
    assert [1] == asks.overdue(3.0)
    asks.add(1, 2, 3.0)
    asks.land(1)
    asks.stored(1, 1, 4.0)
    assert (4.0, 0) == (window.rtt_smoothed_s, window.outstanding)
    assert 4.0 + 4 * 2.0 == asks.timeout_s


def test_a_reply_to_what_was_given_up_counts_once(asks: Asks, window: Window) -> None:
    """Not asked for again yet, it is no longer outstanding, and tells the round trip even so."""
    asks.add(1, 1, 0.0)
    asks.add(2, 1, 0.0)
    assert [1, 2] == asks.overdue(3.0)
    asks.stored(1, 1, 4.0)
    assert (4.0, 0) == (window.rtt_smoothed_s, window.outstanding)


def test_a_reply_to_an_unknown_request_tells_nothing(asks: Asks, window: Window) -> None:
    """Of an earlier process: when it was asked for is not known."""
    asks.add(1, 2, 3.0)
    asks.stored(1, None, 3.1)
    assert (None, 0) == (window.rtt_smoothed_s, window.outstanding)


def test_the_timer_waits_while_what_was_asked_before_still_comes(asks: Asks) -> None:
    """A link that has become slow brings things late, in order: nothing of it is lost."""
    asks.add(1, 1, 0.0)
    asks.add(2, 2, 0.0)
    asks.add(3, 3, 0.5)
    asks.stored(1, 1, 1.0)
    assert 1.0 + asks.timeout_s == asks.next_deadline_s
    assert [] == asks.overdue(0.999 + asks.timeout_s)
    assert [2, 3] == asks.overdue(1.0 + asks.timeout_s)


def test_a_chunk_that_a_later_one_has_overtaken_has_its_own_timer(asks: Asks) -> None:
    """What was asked for later is here: this one is lost, or on a slower way."""
    asks.add(1, 1, 0.0)
    asks.add(2, 2, 0.5)
    asks.stored(2, 2, 1.5)
    assert asks.timeout_s == asks.next_deadline_s
    assert [1] == asks.overdue(asks.timeout_s)


def test_no_timer_runs_while_we_take_no_replies(asks: Asks, window: Window) -> None:
    """Our disk was busy for two seconds: the replies may be here already, unread."""
    asks.add(1, 1, 0.0)
    window.deaf_s += 2.0
    asks.add(2, 2, 2.5)
    assert INITIAL_RTO_S + 2.0 == asks.next_deadline_s
    assert [] == asks.overdue(INITIAL_RTO_S + 1.9)
    assert [1] == asks.overdue(INITIAL_RTO_S + 2.1)


def test_into_silence_little_is_asked(asks: Asks, window: Window) -> None:
    """Two chunks each time, until something comes; then as much as before."""
    for index in range(4):
        asks.add(index, 1, 0.0)
    assert [0, 1, 2, 3] == asks.overdue(INITIAL_RTO_S)
    assert MIN_WINDOW_CHUNKS == window.room
    asks.add(0, 2, INITIAL_RTO_S)
    asks.stored(0, 2, INITIAL_RTO_S + 1)
    assert INITIAL_CHUNKS + 1 == window.limit


def test_a_lost_chunk_among_others_is_no_silence(asks: Asks, window: Window) -> None:
    """Chance takes one; the window stays as it is."""
    asks.add(1, 1, 0.0)
    asks.add(2, 2, 0.5)
    asks.stored(2, 2, 1.5)
    assert [1] == asks.overdue(asks.timeout_s)
    assert INITIAL_CHUNKS + 1 == window.limit


def test_a_round_trip_longer_than_the_first_timer_is_learnt(asks: Asks, window: Window) -> None:
    """A link of 20 s: the doubling reaches it, and then nothing is asked for twice."""
    now, chunk, token = 0.0, 0, 0
    due: list[tuple[float, int, int]] = []
    while window.rtt_smoothed_s is None:
        assert now < 200.0
        if chunk not in asks:
            token += 1
            asks.add(chunk, token, now)
            due.append((now + 20.0, chunk, token))
        now = min(asks.next_deadline_s or now, due[0][0])
        if now == due[0][0]:
            _, came, answered = due.pop(0)
            asks.stored(came, answered, now)
            chunk = max(chunk, came + 1)
        asks.overdue(now)
    assert window.rtt_smoothed_s == 20.0
    assert asks.timeout_s > 20.0


def test_unanswered_asks_wait_twice_as_long_each_time(asks: Asks, window: Window) -> None:
    """3, 6, 12 ... s, up to a bound."""
    now, waits = 0.0, []
    for _ in range(9):
        asks.add(1, 1, now)
        deadline = asks.next_deadline_s
        assert deadline is not None
        assert [] == asks.overdue(deadline - 0.001)
        assert [1] == asks.overdue(deadline)
        waits.append(deadline - now)
        now = deadline
    assert [3.0, 6.0, 12.0, 24.0, 48.0, 96.0, MAX_RTO_S, MAX_RTO_S, MAX_RTO_S] == waits
    assert MAX_BACKOFF * INITIAL_RTO_S >= MAX_RTO_S
    assert window.outstanding == 0


def test_many_overdue_at_once_back_off_once(asks: Asks) -> None:
    """A request that was lost is one loss, however many chunks it asked for."""
    for index in range(40):
        asks.add(index, 1, 0.0)
    assert list(range(40)) == asks.overdue(INITIAL_RTO_S)
    assert 2 * INITIAL_RTO_S == asks.timeout_s


def test_asked_again_is_last_in_order(asks: Asks) -> None:
    """The oldest ask comes first, whichever chunk it is for: `overdue` stops at the first young."""
    asks.add(1, 1, 0.0)
    asks.add(2, 2, 1.0)
    asks.give_up(1)
    asks.add(1, 3, 2.0)
    assert [2] == asks.overdue(1.0 + INITIAL_RTO_S)
    assert asks.next_deadline_s == 2.0 + 2 * INITIAL_RTO_S


def test_adding_twice_counts_once(asks: Asks, window: Window) -> None:
    """A second ask takes the place of the first, in order and in the window."""
    asks.add(1, 1, 0.0)
    asks.add(2, 1, 1.0)
    asks.add(1, 2, 2.0)
    assert (2, 2) == (len(asks), window.outstanding)
    assert [2] == asks.overdue(1.0 + INITIAL_RTO_S)
    asks.land(1)
    asks.add(1, 3, 3.0)
    assert (1, 1) == (len(asks), window.outstanding)


def test_a_refusal_gives_up_its_own_request_only(asks: Asks, window: Window) -> None:
    """Chunks of other requests, and those that have landed, stay."""
    for index, token in ((1, 1), (2, 1), (3, 2), (4, 1)):
        asks.add(index, token, 0.0)
    asks.land(4)
    assert [1, 2] == asks.refused(1)
    assert (False, False, True, True) == tuple(index in asks for index in (1, 2, 3, 4))
    assert (2, []) == (window.outstanding, asks.refused(99))


def test_what_was_not_asked_changes_nothing(asks: Asks, window: Window) -> None:
    """Replies for a chunk nobody asked for, or given up already, leave the window alone."""
    asks.land(5)
    asks.stored(5, 1, 1.0)
    asks.give_up(5)
    assert (0, 0, None) == (window.outstanding, len(asks), asks.next_deadline_s)


def test_clear_gives_everything_back(asks: Asks, window: Window) -> None:
    """Landed or not; another transfer's asks in the same window stay."""
    other = Asks(window)
    other.add(1, 1, 0.0)
    for index in range(5):
        asks.add(index, 1, 0.0)
    asks.land(2)
    asks.clear()
    assert (0, 1, []) == (len(asks), window.outstanding, asks.overdue(1000.0))
