"""The window against a model link: a rate, a distance, one queue, and loss, in virtual time."""

from __future__ import annotations

import heapq
from random import Random

import pytest

from chunkq.protocol.limits import KIB, MAX_WINDOW_BYTES, MIB, MIN_WINDOW_CHUNKS
from chunkq.protocol.window import (
    INITIAL_CHUNKS,
    INITIAL_RTO_S,
    MAX_RTO_S,
    MIN_RTO_S,
    Mode,
    Sent,
    Window,
)

CHUNK = 256 * KIB
MOST = MAX_WINDOW_BYTES // CHUNK


class Link:
    """Asks whenever the window has room; every reply waits its turn in one queue.

    After a rest `burst` of them pass at once, as a token bucket lets them.
    """

    def __init__(
        self,
        bytes_per_s: float,
        rtt_s: float,
        *,
        loss: float = 0.0,
        jitter: float = 0.0,
        most: int = MOST,
        burst: int = 0,
    ) -> None:
        self.window = Window(most)
        self.now = 0.0
        self.rate = bytes_per_s / CHUNK
        self.rtt_s = rtt_s
        self.arrived = 0
        self.longest_queue_s = 0.0
        self._loss = loss
        self._jitter = jitter
        self._burst = burst
        self._rng = Random(1)
        self._free_at = 0.0
        self._due: list[tuple[float, int, Sent | None]] = []
        self._count = 0

    def run(self, seconds: float) -> float:
        """Let so much time pass; the share of what the link could have carried."""
        before, end, self.longest_queue_s = self.arrived, self.now + seconds, 0.0
        self._ask()
        while self._due and self._due[0][0] < end:
            self.now, _, sent = heapq.heappop(self._due)
            if sent is None:
                self.window.lost(1)
            else:
                self.window.arrived(sent, self.now)
                self.arrived += 1
            assert self.window.outstanding >= 0
            self._ask()
        self.now = end
        return (self.arrived - before) / (self.rate * seconds)

    def _ask(self) -> None:
        window = self.window
        assert MIN_WINDOW_CHUNKS <= window.limit <= window.max_chunks
        if window.outstanding and window.room < window.batch:
            return
        while window.room:
            self._count += 1
            sent = window.sent(self.now)
            if self._rng.random() < self._loss:
                heapq.heappush(self._due, (self.now + window.rto_s, self._count, None))
                continue
            at = self.now + self.rtt_s / 2
            self._free_at = max(self._free_at, at - self._burst / self.rate) + 1 / self.rate
            self.longest_queue_s = max(self.longest_queue_s, self._free_at - at)
            varies = 0.5 + self._rng.uniform(-self._jitter, self._jitter)
            comes = max(self._free_at, at) + self.rtt_s * varies
            heapq.heappush(self._due, (comes, self._count, sent))


@pytest.mark.parametrize(
    ("bytes_per_s", "rtt_s", "loss", "queue_s"),
    [
        pytest.param(1e9 / 8, 0.08, 0.0, 0.1, id="80ms-1Gbit"),
        pytest.param(50e6 / 8, 0.6, 0.0, 0.3, id="600ms-50Mbit"),
        pytest.param(500e6 / 8, 0.6, 0.0, 0.3, id="600ms-500Mbit"),
        pytest.param(20e6 / 8, 5.0, 0.0, 2.5, id="5s-20Mbit"),
        pytest.param(300e6, 0.002, 0.0, 0.1, id="loopback"),
        pytest.param(1e9 / 8, 0.08, 0.01, 0.15, id="80ms-1Gbit-1%loss"),
        pytest.param(50e6 / 8, 0.6, 0.01, 0.4, id="600ms-50Mbit-1%loss"),
        pytest.param(500e6 / 8, 0.6, 0.01, 0.3, id="600ms-500Mbit-1%loss"),
        pytest.param(1e6 / 8, 0.02, 0.0, 8.0, id="20ms-1Mbit"),
    ],
)
def test_fills_the_link_and_builds_no_long_queue(
    bytes_per_s: float, rtt_s: float, loss: float, queue_s: float
) -> None:
    """At least nine tenths of the link are used, starting included; the queue stays short."""
    link = Link(bytes_per_s, rtt_s, loss=loss)
    assert link.run(max(60.0, 80 * rtt_s)) >= 0.9
    assert link.run(60.0) >= 0.93
    assert link.longest_queue_s <= queue_s


@pytest.mark.parametrize("jitter", [0.1, 0.2, 0.4])
@pytest.mark.parametrize(
    ("bytes_per_s", "rtt_s"),
    [(1e9 / 8, 0.08), (50e6 / 8, 0.6), (500e6 / 8, 0.6), (20e6 / 8, 5.0)],
)
def test_round_trips_that_vary_do_not_close_the_window(
    bytes_per_s: float, rtt_s: float, jitter: float
) -> None:
    """Workers and queues are never even; replies overtake one another, and the link is filled."""
    link = Link(bytes_per_s, rtt_s, jitter=jitter)
    link.run(100 * rtt_s + 30.0)
    assert link.run(max(60.0, 20 * rtt_s)) >= 0.85
    assert link.longest_queue_s <= 2 * rtt_s + 0.2


@pytest.mark.parametrize(
    ("bytes_per_s", "rtt_s", "queue_s"),
    [(20e6, 0.08, 0.75), (6e6, 0.6, 1.5), (60e6, 0.6, 0.75)],
)
def test_rate_drops_to_a_fifth(bytes_per_s: float, rtt_s: float, queue_s: float) -> None:
    """The link stays full, and the queue that the fall has left is gone after a minute."""
    link = Link(bytes_per_s, rtt_s)
    link.run(60.0)
    link.rate /= 5
    assert link.run(60.0) >= 0.9
    assert link.run(60.0) >= 0.9
    assert link.longest_queue_s <= queue_s


@pytest.mark.parametrize(("bytes_per_s", "rtt_s"), [(20e6, 0.08), (6e6, 0.6)])
def test_rate_rises_fivefold(bytes_per_s: float, rtt_s: float) -> None:
    """Probing finds the new rate within a minute."""
    link = Link(bytes_per_s, rtt_s)
    link.run(60.0)
    link.rate *= 5
    link.run(60.0)
    assert link.run(30.0) >= 0.9


@pytest.mark.parametrize(
    ("bytes_per_s", "rtt_s", "factor", "settles_s"),
    [(20e6, 0.08, 10, 30.0), (6e6, 0.6, 10, 120.0), (10e6, 0.02, 10, 30.0), (6e6, 0.6, 0.1, 30.0)],
)
def test_round_trip_steps(
    bytes_per_s: float, rtt_s: float, factor: float, settles_s: float
) -> None:
    """An origin that moves farther away, or nearer, is served at the link's rate again."""
    link = Link(bytes_per_s, rtt_s)
    link.run(60.0)
    link.rtt_s *= factor
    link.run(settles_s)
    assert link.run(60.0) >= 0.9


def test_round_trip_steps_from_1_ms_to_60_s() -> None:
    """The timer follows the new distance, within its bound, and the window does not collapse."""
    link = Link(2e6, 0.001)
    link.run(30.0)
    link.rtt_s = 60.0
    link.run(1800.0)
    assert 60.0 <= link.window.rto_s <= MAX_RTO_S
    assert link.run(1200.0) >= 0.4  # 458 chunks are on the way, 256 may be


def test_starts_with_four_chunks_and_one_more_for_each_that_comes() -> None:
    """The start is small, and doubles each round trip."""
    window = Window(MOST)
    sent = [window.sent(0.0) for _ in range(window.room)]
    assert len(sent) == INITIAL_CHUNKS
    for receipt in sent:
        window.arrived(receipt, 0.5)
    assert (2 * INITIAL_CHUNKS, 2 * INITIAL_CHUNKS, Mode.STARTUP) == (
        window.limit,
        window.room,
        window.mode,
    )


def test_startup_ends_when_the_rate_stops_growing() -> None:
    """A link that is full ends the doubling long before the largest window."""
    link = Link(50e6 / 8, 0.6)
    link.run(20.0)
    assert link.window.mode is not Mode.STARTUP
    assert link.window.limit < MOST // 4


@pytest.mark.parametrize("most", [0, 1, 2, 3, 16])
def test_limit_stays_within_its_bounds(most: int) -> None:
    """Never below two chunks, whatever is asked for; never above what is allowed."""
    link = Link(300e6, 0.08, most=most)
    link.run(60.0)  # `Link` looks at each step
    assert max(most, MIN_WINDOW_CHUNKS) == link.window.max_chunks


def test_a_link_that_loses_nearly_everything_keeps_two_chunks() -> None:
    """Loss alone never closes the window."""
    link = Link(1 * MIB, 0.1, loss=0.95)
    link.run(600.0)
    assert link.window.limit >= MIN_WINDOW_CHUNKS
    assert link.arrived > 0


def test_room_is_never_negative() -> None:
    """A limit that falls below what is outstanding leaves no room, not a debt."""
    window = Window(64)
    for _ in range(4):
        window.sent(0.0)
    window.max_chunks = 2
    assert (0, 4) == (window.room, window.outstanding)
    window.lost(3)
    assert (1, 1) == (window.room, window.outstanding)


def test_retransmit_timer_follows_the_round_trip_within_its_bounds() -> None:
    """3 s before anything is known, then the smoothed round trip and four deviations."""
    window = Window(64)
    assert window.rto_s == INITIAL_RTO_S
    window.arrived(window.sent(0.0), 0.01)
    assert window.rto_s == MIN_RTO_S
    window.arrived(window.sent(1.0), 11.0)
    assert 10.0 < window.rto_s < 20.0
    window.arrived(window.sent(20.0), 4000.0)
    assert window.rto_s == MAX_RTO_S


def test_a_window_not_made_use_of_does_not_shrink() -> None:
    """A transfer that asks for a chunk now and then says nothing of the link's rate."""
    link = Link(50e6 / 8, 0.6)
    link.run(60.0)
    window, before = link.window, link.window.rate_chunks_per_s
    window.lost(window.outstanding)
    for at in range(5):
        now = 100.0 + at * 2
        window.arrived(window.sent(now), now + 0.6)
    assert before == window.rate_chunks_per_s


def steady(pipe: int = 20) -> Window:
    """A window that has found a link of 1 s which holds `pipe` chunks."""
    link = Link(pipe * CHUNK, 1.0)
    link.run(60.0)
    link.window.lost(link.window.outstanding)
    return link.window


def test_after_the_start_the_queue_of_it_is_drained() -> None:
    """For a round less is asked for than the link holds, and the smallest round trip is seen."""
    link, modes, least = Link(50e6 / 8, 0.6), set[Mode](), MOST
    while link.window.mode is not Mode.STEADY:
        assert link.now < 20.0
        link.run(0.05)
        modes.add(link.window.mode)
        if link.window.mode is Mode.DRAIN:
            least = min(least, link.window.limit)
    assert {Mode.STARTUP, Mode.DRAIN, Mode.STEADY} == modes
    assert least < link.rate * link.rtt_s
    link.run(2.0)
    assert link.rtt_s <= (link.window.rtt_min_s or 0.0) <= 1.1 * (link.rtt_s + 1 / link.rate)


def test_grows_by_one_for_two_that_come() -> None:
    """After a drain or a fall nothing goes out in a burst."""
    window = steady()
    window._aim(10.0)
    window._aim(20.0)
    sent = [window.sent(100.0) for _ in range(window.room)]
    limits = [window.limit]
    for receipt in sent[:4]:
        window.arrived(receipt, 101.0)
        limits.append(window.limit)
    assert [10, 10, 11, 11, 12] == limits


def test_free_places_wait_only_as_long_as_the_link_stays_full() -> None:
    """At the pipe itself each is worth a request; a large window is few requests even so."""
    window = steady()
    window._aim(window._pipe)
    assert 1 == window.batch
    big = Link(500e6 / 8, 0.6)
    big.run(30.0)
    assert big.window.limit / 32 < big.window.batch <= 16


def test_what_a_token_bucket_lets_through_at_first_is_no_rate() -> None:
    """Four chunks at once, then four a second: the queue stays short even so."""
    link = Link(4 * CHUNK, 0.01, burst=4)
    assert link.run(60.0) >= 0.95
    assert link.longest_queue_s <= 2.0
    assert link.run(60.0) >= 0.95
    assert link.longest_queue_s <= 1.0
