"""How many chunks may be outstanding at one origin, and when one is given up.

    STARTUP   4 chunks, one more for each that arrives, up to twice what the rate so far fills;
              until the round trip grows by a quarter (a queue is building) or the rate stops
              growing (three rounds under 25 %). Then DRAIN. What fills the link is reckoned with
              the shortest round of all: where a chunk takes longer than the way, more only queue.
    STEADY    the *pipe* (rate x smallest round trip) and a headroom. One round in eight asks for a
              quarter more than the pipe, the one after it for one chunk more: there the queue of
              the probe goes, and the smallest round trip shows itself again.
    DRAIN     for one round three quarters of the pipe: what is asked for then meets no queue, and
              tells the distance. After STARTUP; when the smallest round trip has not been seen for
              long; and when a queue stands (two full rounds of twice the smallest round trip).
              Where the round trip is long even then, the origin has moved away: STARTUP again.

**Rate.** Of each arrival: the chunks that came since it was asked for, over the time since the last
one had come then; the best of a round, the best of ten rounds. A round ends when a chunk that was
asked for after its beginning arrives. Of a round in which the window was never full, only a rate
above the best counts. A full round in a standing queue measures the link itself, so what was faster
before is forgotten: after a fall of the rate, ten rounds in a long queue would be minutes.

**Round trip.** The mean of a round, and of eight arrivals at least: the smallest single one would,
where they vary by 20 %, give a window below rate x mean, which shrinks its own rate down to half of
the link (40 %: to a tenth). The first of a few is among the smallest, too.

**Growth.** Outside of STARTUP by one for each two that arrive: a jump would go out as one burst and
stand in the queue as one.

**Late.** A chunk is given up when it took longer than the timer, which is that of RFC 6298 and one
and a half round trips at least, as asking twice costs a chunk, and waiting half a round trip more a
place in the window. While what was asked for before it still arrives it is not late but in a queue,
so the time runs from the last arrival (RFC 6298, 5.3) unless something asked for later is here (as
RFC 8985 has it, with the whole timer for what overtakes). It does not run while we take no replies.
A reply says which request it answers, so that of a chunk asked for twice, too, tells a round trip
(Karn's algorithm is for acknowledgements that do not). When nothing at all has come for the timer,
two chunks are asked for each time, as TCP does, until something comes; then all of the window is
there again.

After Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016, and Cheng et al., "Delivery
Rate Estimation", draft-cheng-iccrg-delivery-rate-estimation; a window of fixed seconds or chunks
collapses on a queue, where round trips are long.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from math import inf
from statistics import fmean
from typing import Final

from chunkq.protocol.limits import MIN_WINDOW_CHUNKS

#: Chunks at the start: enough to see a rate, little enough to harm nobody.
INITIAL_CHUNKS: Final = 4
#: STARTUP asks for no more than this factor of what the rate so far fills, and the first chunks:
#: doubling each round trip needs two of it, and what is more would stand in the queue.
STARTUP_GAIN: Final = 2.0
#: STARTUP ends when the round trip exceeds the smallest by this factor and this many seconds:
#: on a fast local link, jitter alone is a quarter.
QUEUE_GROWTH: Final = 1.25
QUEUE_SLACK_S: Final = 0.025
#: … or after so many rounds whose rate grew by less than a quarter.
FLAT_ROUNDS: Final = 3
RATE_GROWTH: Final = 1.25
#: STEADY: headroom over the pipe, so that an uneven way leaves no gap and a faster one shows: a
#: tenth, and one chunk, or a tenth of a few would be none. And a floor in time for the bursts of a
#: worker on a short way; 50 ms is a queue nobody notices.
HEADROOM: Final = 1.1
HEADROOM_CHUNKS: Final = 1
HEADROOM_S: Final = 0.05
#: Most free places that wait for company: at 256 KiB 4 MiB, as much as is written at once.
MOST_WAITING_CHUNKS: Final = 16
#: A large window is about so many requests, and always fewer than twice as many: an origin's worker
#: takes 32 from the queue before it acknowledges one.
MOST_REQUESTS: Final = 16
#: A probe for more, and a drain, are factors of the pipe itself, without the headroom.
PROBE_GAIN: Final = 1.25
DRAIN_GAIN: Final = 0.75
#: A queue stands when two full rounds took this factor of the smallest round trip and so much
#: more; our own headroom and a probe stay below it.
STANDING_GROWTH: Final = 2.0
STANDING_SLACK_S: Final = 0.25
STANDING_ROUNDS: Final = 2
PROBE_EVERY_ROUNDS: Final = 8
#: The rate is the best of so many rounds: one bad round is noise, ten are the link.
RATE_ROUNDS: Final = 10
#: A round trip is the mean of so many at least: the first one to come is among the shortest.
RTT_SAMPLES: Final = 8
#: The smallest round trip is forgotten after so many rounds and so long in which none came so near
#: to it that the headroom makes up for the difference.
RTT_ROUNDS: Final = 30
RTT_MEMORY_S: Final = 60.0
#: Growth for each arrival, outside of STARTUP: enough to make up for a drain in one round.
GROWTH: Final = 0.5
#: Retransmit timer: floor in seconds and in round trips, and before anything was measured.
MIN_RTO_S: Final = 1.0
MIN_RTO_ROUND_TRIPS: Final = 1.5
INITIAL_RTO_S: Final = 3.0
MAX_RTO_S: Final = 120.0


class Mode(Enum):
    STARTUP = auto()
    STEADY = auto()
    DRAIN = auto()


@dataclass(frozen=True, slots=True)
class Sent:
    """What is kept of one asked chunk until it arrives.

    `delivered` chunks had arrived then, the last of them at `delivered_at_s`; `deaf_s` as the
    window's.
    """

    at_s: float
    delivered: int
    delivered_at_s: float
    round: int
    deaf_s: float


class Window:
    """The window of one origin, shared by every transfer from it. All times in seconds."""

    def __init__(self, max_chunks: int) -> None:
        self.max_chunks = max(max_chunks, MIN_WINDOW_CHUNKS)
        self.mode = Mode.STARTUP
        self.outstanding = 0
        #: Seconds in which we took no replies (our disk or our processor was busy), in all. Whoever
        #: drives the window counts them: no timer runs meanwhile.
        self.deaf_s = 0.0
        #: Nothing has come since what was given up last was asked for.
        self.silent = False
        #: The smallest mean of a round.
        self.rtt_min_s: float | None = None
        self.rtt_smoothed_s: float | None = None
        self._rtt_deviation_s = 0.0
        self._rtt_min_at = (0, 0.0)
        self._limit = float(INITIAL_CHUNKS)
        self._target = self._limit
        self._delivered = 0
        self._delivered_at_s = 0.0
        #: When something came last, and when the latest asked of what has come was asked for.
        self._heard_at_s = -inf
        self._newest_at_s = -inf
        self._round = 0
        self._round_full = False
        #: Of this round; and of the ones before it that were too few to tell.
        self._rtts_s: list[float] = []
        self._earlier_rtts_s: list[float] = []
        self._shortest_s = inf
        self._round_rate = 0.0
        self._rates: deque[float] = deque(maxlen=RATE_ROUNDS)
        self._best_rate = 0.0
        self._flat_rounds = 0
        self._standing_rounds = 0
        self._rate_is_fresh = False
        self._drained_in: int | None = None

    @property
    def limit(self) -> int:
        if self.silent:
            return MIN_WINDOW_CHUNKS
        return max(MIN_WINDOW_CHUNKS, min(self.max_chunks, int(self._limit)))

    @property
    def room(self) -> int:
        """How many chunks may be asked for now."""
        return max(0, self.limit - self.outstanding)

    @property
    def batch(self) -> int:
        """So many free places are worth a request of their own while others are under way.

        What waits for company is not on the way, so it is no more than is asked for beyond it.
        """
        spare = min(int(self._limit - self._pipe), self.limit // 4, MOST_WAITING_CHUNKS)
        return max(1, self.limit // MOST_REQUESTS, spare)

    @property
    def rate_chunks_per_s(self) -> float:
        return max(self._rates, default=0.0)

    @property
    def rto_s(self) -> float:
        """How long a chunk may take before it is asked for again."""
        if self.rtt_smoothed_s is None:
            return INITIAL_RTO_S
        rto = max(
            self.rtt_smoothed_s + 4 * self._rtt_deviation_s,
            MIN_RTO_ROUND_TRIPS * self.rtt_smoothed_s,
        )
        return min(max(rto, MIN_RTO_S), MAX_RTO_S)

    def sent(self, now: float) -> Sent:
        """One more chunk is outstanding; the receipt goes back in with `arrived`."""
        if not self.outstanding:
            self._delivered_at_s = now
        self.outstanding += 1
        if self.outstanding >= self.limit:
            self._round_full = True
        return Sent(now, self._delivered, self._delivered_at_s, self._round, self.deaf_s)

    def arrived(self, sent: Sent, now: float) -> None:
        """A chunk came and is verified."""
        self.outstanding -= 1
        self.silent = False
        self._delivered += 1
        self._delivered_at_s = self._heard_at_s = now
        self._newest_at_s = max(self._newest_at_s, sent.at_s)
        self._measure(max(now - sent.at_s, 1e-6))
        rate = (self._delivered - sent.delivered) / max(now - sent.delivered_at_s, 1e-6)
        self._round_rate = max(self._round_rate, rate)
        if self.mode is Mode.STARTUP:
            self._grow()
        elif self._limit < self._target:
            self._limit = min(self._limit + GROWTH, self._target)
        if sent.round == self._round:
            self._end_round(now)

    def came_late(self, sent: Sent, now: float) -> None:
        """A chunk came that was given up: what it tells of the way is as true."""
        self.outstanding += 1
        self.arrived(sent, now)

    def lost(self, count: int) -> None:
        """So many outstanding chunks were given up (timed out, refused, bad)."""
        self.outstanding -= count

    def overtaken(self, sent: Sent) -> bool:
        """Whether something asked for later has come already."""
        return sent.at_s < self._newest_at_s

    def deadline_s(self, sent: Sent, timeout_s: float) -> float:
        """When to give up a chunk that may take so long, as things are now."""
        began = sent.at_s if self.overtaken(sent) else max(sent.at_s, self._heard_at_s)
        return began + timeout_s + self.deaf_s - sent.deaf_s

    def timed_out(self, sent: Sent) -> None:
        """This chunk was given up at its deadline; `lost` is called as well."""
        if not self.overtaken(sent):
            self.silent = True

    def _measure(self, rtt: float) -> None:
        if self.rtt_smoothed_s is None:
            self.rtt_smoothed_s, self._rtt_deviation_s = rtt, rtt / 2
        else:  # RFC 6298, section 2.3
            error = abs(self.rtt_smoothed_s - rtt)
            self._rtt_deviation_s = 0.75 * self._rtt_deviation_s + 0.25 * error
            self.rtt_smoothed_s = 0.875 * self.rtt_smoothed_s + 0.125 * rtt
        self._rtts_s.append(rtt)

    def _grow(self) -> None:
        rate = max(self._round_rate, self.rate_chunks_per_s)
        shortest = min(self._shortest_s, self._nearest_s)
        if self._limit < STARTUP_GAIN * rate * shortest + INITIAL_CHUNKS:
            self._limit = min(self._limit + 1, self.max_chunks)

    def _end_round(self, now: float) -> None:
        rate, self._round_rate = self._round_rate, 0.0
        rtt = self._round_rtt(now)
        if rtt is not None:
            standing = self._round_full and self._stands(rtt)
            self._standing_rounds = self._standing_rounds + 1 if standing else 0
            if self._standing_rounds == STANDING_ROUNDS:
                self._rates.clear()
        if self._round_full or rate > self.rate_chunks_per_s:
            self._rates.append(rate)  # a round that was not full says nothing of the link
        if self.mode is Mode.STARTUP:
            self._judge_startup(rtt, rate)
        else:
            self._steer(rtt, now)
        self._round += 1
        self._round_full = self.outstanding >= self.limit

    def _round_rtt(self, now: float) -> float | None:
        """The mean of this round and of those before it that were too few to tell."""
        self._shortest_s = min(self._shortest_s, fmean(self._rtts_s))
        self._earlier_rtts_s += self._rtts_s
        self._rtts_s.clear()
        if len(self._earlier_rtts_s) < RTT_SAMPLES and self._drained_in is None:
            return None
        rtt = fmean(self._earlier_rtts_s)
        self._earlier_rtts_s.clear()
        if self.rtt_min_s is None or rtt <= self.rtt_min_s * HEADROOM:
            self.rtt_min_s = min(rtt, self.rtt_min_s or rtt)
            self._rtt_min_at = (self._round, now)
        return rtt

    def _stands(self, rtt: float) -> bool:
        """Whether this round trip is far above the smallest: a queue, or a new distance."""
        assert self.rtt_min_s is not None
        return rtt > self.rtt_min_s * STANDING_GROWTH + STANDING_SLACK_S

    def _judge_startup(self, rtt: float | None, rate: float) -> None:
        if rate > self._best_rate * RATE_GROWTH:
            self._best_rate, self._flat_rounds = rate, 0
        elif self._round_full:
            self._flat_rounds += 1
        queueing = rtt is not None and rtt > self._nearest_s * QUEUE_GROWTH + QUEUE_SLACK_S
        if queueing or self._flat_rounds >= FLAT_ROUNDS:
            self.mode, self._rate_is_fresh = Mode.DRAIN, False
            while len(self._rates) > FLAT_ROUNDS:  # what a token bucket let through at first
                self._rates.popleft()
            self._aim(DRAIN_GAIN * self.rate_chunks_per_s * self._shortest_s)

    def _steer(self, rtt: float | None, now: float) -> None:
        seen_round, seen_at = self._rtt_min_at
        if self.mode is Mode.DRAIN:
            self.mode, self._drained_in = Mode.STEADY, self._round
            self._earlier_rtts_s.clear()  # now comes what was asked for while it was drained
        elif self._drained_in is not None:
            assert rtt is not None
            self._drained_in = None
            if self._end_drain(rtt, now):
                return
        elif self._standing_rounds >= STANDING_ROUNDS:
            self.mode, self._standing_rounds, self._rate_is_fresh = Mode.DRAIN, 0, True
        elif self._round - seen_round > RTT_ROUNDS and now - seen_at > RTT_MEMORY_S:
            self.mode, self._rate_is_fresh = Mode.DRAIN, False
        pipe, headroom = self._pipe, self._headroom
        if self.mode is Mode.DRAIN:
            self._aim(DRAIN_GAIN * pipe)
        elif self._round % PROBE_EVERY_ROUNDS == 0:
            self._aim(max(pipe + headroom, PROBE_GAIN * pipe))
        elif self._round % PROBE_EVERY_ROUNDS == 1:
            self._aim(pipe + HEADROOM_CHUNKS)
        else:
            self._aim(pipe + headroom)

    def _aim(self, target: float) -> None:
        """Down at once, up as chunks come: no burst, whatever was before."""
        self._target = max(target, MIN_WINDOW_CHUNKS)
        self._limit = min(self._limit, self._target)

    def _end_drain(self, rtt: float, now: float) -> bool:
        """Take this round trip for the smallest one; True if that began STARTUP anew."""
        farther = self._stands(rtt)
        if farther and not self._rate_is_fresh:  # three quarters of what? ask again with the rate
            return False
        self.rtt_min_s, self._rtt_min_at = rtt, (self._round, now)
        if farther:
            self.mode, self._best_rate, self._flat_rounds = Mode.STARTUP, 0.0, 0
            self._shortest_s = rtt
        return farther

    @property
    def _pipe(self) -> float:
        """The chunks that the way holds when it is full and nothing queues."""
        return self.rate_chunks_per_s * self._nearest_s

    @property
    def _nearest_s(self) -> float:
        """The smallest round trip; until there is one, what is known of it."""
        return self.rtt_min_s or self.rtt_smoothed_s or 0.0

    @property
    def _headroom(self) -> float:
        """What is asked for beyond that."""
        share = (HEADROOM - 1) * self._pipe + HEADROOM_CHUNKS
        return max(share, self.rate_chunks_per_s * HEADROOM_S)
