"""Which of several origins is asked for what is left: earliest completion first.

A lane brings one more chunk after its smallest round trip, or after what its window holds already
has come at its rate, whichever is later. Far from the end every lane takes what its window has room
for, so the faster ones take more. Near the end a lane takes only what it would bring by the time at
which all lanes together are done. What is outstanding at a lane that has fallen behind is asked for
again elsewhere when that is clearly sooner.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import Final

from chunkq.protocol.lane import Lane
from chunkq.protocol.window import MIN_RTO_S

#: Of so many chunks one may be asked for twice at the end (2 %); of fewer than that, one.
CHUNKS_PER_TWICE: Final = 50
#: "Clearly sooner": so many times as soon as the other lane promises. Its rate is the best of
#: some rounds, so what it promises is rather too early already.
CLEARLY: Final = 1.25
#: A chunk is late after twice the usual round trip and a little; where none was measured, after
#: twice what another lane would take for it, or this.
LATE_ROUND_TRIPS: Final = 2.0
LATE_SLACK_S: Final = 0.05
LATE_UNMEASURED_S: Final = MIN_RTO_S


def most_twice(chunk_count: int) -> int:
    """How many chunks of a file may be asked for a second time at the end."""
    return max(1, chunk_count // CHUNKS_PER_TWICE)


def completion_s(lane: Lane, more: int) -> float | None:
    """When so many more chunks would have come from a lane, from now; None if it is unmeasured."""
    (rate, ahead), round_trip = lane.pace, lane.window.rtt_min_s
    if not rate or round_trip is None:
        return None
    return max(round_trip, (ahead + more) / rate)


def shares(lanes: Sequence[Lane], left: int, chunk_count: int) -> list[int]:
    """How many of the `left` chunks that nobody was asked for each lane may take.

    One of them always may: the one that would bring them all first. A lane that was not measured
    yet takes no more than could be asked for again.
    """
    measured = [lane for lane in lanes if completion_s(lane, 0) is not None]
    if not measured:
        trial = most_twice(chunk_count)
        return [max(1, left), *(max(0, trial - len(lane.chunks)) for lane in lanes[1:])]
    finish = _finish_s(measured, left)
    best = min(measured, key=lambda lane: completion_s(lane, left) or 0.0)
    taken = [_by(lane, finish, chunk_count) for lane in lanes]
    others = sum(share for lane, share in zip(lanes, taken, strict=True) if lane is not best)
    return [
        max(1, left - others) if lane is best else share
        for lane, share in zip(lanes, taken, strict=True)
    ]


def _by(lane: Lane, finish_s: float, chunk_count: int) -> int:
    """How many more chunks a lane would bring by then."""
    soonest = completion_s(lane, 1)
    if soonest is None:
        return max(0, most_twice(chunk_count) - len(lane.chunks))
    if soonest > finish_s:
        return 0
    rate, ahead = lane.pace
    return max(0, int(rate * finish_s) - ahead)


def _finish_s(lanes: Sequence[Lane], left: int) -> float:
    """When all `left` chunks have come if every lane brings what it can by then."""
    finish, rate, chunks = 0.0, 0.0, left
    for lane in sorted(lanes, key=lambda lane: lane.window.rtt_min_s or 0.0):
        round_trip = lane.window.rtt_min_s or 0.0
        if rate and finish <= round_trip:
            break
        its_rate, ahead = lane.pace
        rate += its_rate
        chunks += ahead
        finish = max(round_trip, chunks / rate)
    return finish


def late_after_s(lane: Lane, others: Iterable[Lane]) -> float:
    """How long after it was asked for a chunk of this lane is late: the others would have it."""
    usual = lane.window.rtt_smoothed_s
    if usual is None:
        own = (completion_s(other, 1) for other in others)
        usual = min((each for each in own if each is not None), default=None)
    if usual is None:
        return LATE_UNMEASURED_S
    return LATE_ROUND_TRIPS * usual + LATE_SLACK_S


def sooner(
    lane: Lane, others: Sequence[Lane], room: int, now: float, *, skip: Container[int]
) -> list[int]:
    """Up to `room` chunks outstanding at the others that this lane would clearly bring sooner.

    What is promised latest comes first; a late chunk is promised for never.
    """
    promised: list[tuple[float, int]] = []
    for other in others:
        (rate, _), late_s = other.pace, late_after_s(other, (lane,))
        round_trip = other.window.rtt_min_s or 0.0
        for place, (index, at) in enumerate(other.chunks.waiting_since(), start=1):
            if index in skip:
                continue
            if now >= at + late_s:
                promised.append((float("inf"), index))
            elif rate:
                promised.append((max(place / rate, at + round_trip - now), index))
    promised.sort(reverse=True)
    found: list[int] = []
    for promise, index in promised[:room]:
        own = completion_s(lane, len(found) + 1)
        if promise != float("inf") and (own is None or own * CLEARLY >= promise):
            break
        found.append(index)
    return found
