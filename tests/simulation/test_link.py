"""Real sites on simulated links: the window fills them, and the simulation keeps its own laws."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from chunkq.protocol.limits import MIB
from tests.simulation.clock import Stuck, VirtualClock, run
from tests.simulation.link import Direction, LinkShape
from tests.simulation.transfer import Seen, transfer

FAST = LinkShape(round_trip_s=0.6, bytes_per_s=6.25e6)
#: What a queue may be in the steady state: half a round trip, or 100 ms.
QUEUE = 0.5
QUEUE_FLOOR_S = 0.1


def queue_allowed_s(shape: LinkShape) -> float:
    return max(QUEUE * shape.round_trip_s, QUEUE_FLOOR_S)


@pytest.mark.parametrize(
    ("shape", "mib", "share"),
    [
        pytest.param(LinkShape(round_trip_s=0.08, bytes_per_s=125e6), 384, 0.86, id="80ms-1Gbit"),
        pytest.param(FAST, 192, 0.91, id="600ms-50Mbit"),
        pytest.param(LinkShape(round_trip_s=5.0, bytes_per_s=2.5e6), 256, 0.74, id="5s-20Mbit"),
        pytest.param(LinkShape(round_trip_s=30.0, bytes_per_s=2.5e5), 192, 0.80, id="30s-2Mbit"),
        pytest.param(replace(FAST, broker_at=0.0), 192, 0.91, id="broker-at-the-requester"),
        pytest.param(replace(FAST, broker_at=1.0), 192, 0.91, id="broker-at-the-origin"),
    ],
)
def test_a_transfer_fills_the_link(shape: LinkShape, mib: int, share: float) -> None:
    """All of it after the start, with a short queue, and nothing twice; the start costs some."""
    seen = transfer(shape, mib * MIB)
    assert seen.finished
    assert seen.share >= share
    assert seen.share_steady >= 0.98
    assert seen.queue_s <= queue_allowed_s(shape)
    assert 0.0 == seen.duplicates


def test_losses_cost_little_more_than_what_is_lost() -> None:
    """One packet of a hundred vanishes: requests for many chunks, too."""
    seen = transfer(replace(FAST, loss=0.01), 256 * MIB)
    assert seen.share_steady >= 0.93
    assert seen.queue_s <= queue_allowed_s(seen.shape)
    assert 0.0 == seen.duplicates


@pytest.mark.parametrize("jitter", [0.2, 0.4])
def test_uneven_delays_make_nothing_come_twice(jitter: float) -> None:
    """Packets overtake one another; the link is filled."""
    seen = transfer(replace(FAST, jitter=jitter), 192 * MIB)
    assert seen.share_steady >= 0.95
    assert 0.0 == seen.duplicates


def test_a_fall_of_the_rate_and_its_return() -> None:
    """A fifth of the rate for a while: full all the time, a short queue again, nothing twice."""
    shape = replace(FAST, rates=((30.0, 1.25e6), (130.0, 6.25e6)))
    seen = transfer(shape, 480 * MIB)
    assert seen.share >= 0.90
    assert seen.share_steady >= 0.97
    assert seen.queue_s <= queue_allowed_s(shape)
    assert 0.0 == seen.duplicates


def test_a_disk_that_stands_still_makes_nothing_come_twice() -> None:
    """For eight seconds nothing is written and no reply is taken; no timer runs meanwhile."""
    pauses = iter([0.0] * 300 + [8.0])
    seen = transfer(replace(FAST, bytes_per_s=50e6), 128 * MIB, work_s=lambda: next(pauses, 0.0))
    assert seen.took_s > 8.0
    assert 0.0 == seen.duplicates


def test_the_same_seed_is_the_same_run() -> None:
    """To the last bit, with losses and uneven delays; another seed is another run."""

    def once(seed: int) -> Seen:
        return transfer(replace(FAST, loss=0.02, jitter=0.1, seed=seed), 16 * MIB)

    first, again, other = once(1), once(1), once(2)
    assert (first.took_s, first.passages) == (again.took_s, again.passages)
    assert first.took_s != other.took_s


# ---------------------------------------------------------------- the simulation itself


def test_time_jumps_to_the_next_timer() -> None:
    """A day costs nothing, and both clocks agree."""

    async def sleeper(clock: VirtualClock) -> tuple[float, int]:
        began_ms = clock.wall_ms()
        await asyncio.sleep(86400)
        await asyncio.to_thread(lambda: None)
        return clock.monotonic_s(), clock.wall_ms() - began_ms

    assert (86400.0, 86_400_000) == run(sleeper)


def test_waiting_for_nothing_is_an_error() -> None:
    """Instead of a test that hangs."""

    async def waiter(clock: VirtualClock) -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck):
        run(waiter)


def test_work_on_a_thread_takes_its_time_and_may_fail() -> None:
    """What it raises reaches whoever waits for it, when it would have ended."""

    async def worker(clock: VirtualClock) -> float:
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 / 0)
        return clock.monotonic_s()

    assert 1.5 == run(worker, work_s=lambda: 1.5)


def test_a_direction_is_one_queue_at_the_rate_of_the_time() -> None:
    """1000 bytes a second, after 2 s 100: who comes later waits for who came before."""
    direction = Direction([(0.0, 1000.0), (2.0, 100.0)])
    assert (1.0, 0.0) == direction.pass_through(1000, 0.0)
    assert (3.0, 1.0) == direction.pass_through(1100, 0.0)
    assert (3.5, 0.5) == direction.pass_through(50, 2.5)
    assert (6.0, 0.0) == direction.pass_through(100, 5.0)
