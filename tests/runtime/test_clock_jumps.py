"""Clocks that are set, forwards or backwards, at either end and in the middle of a transfer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chunkq.errors import PeerSilent
from chunkq.transport.limited import ByteRate
from tests.runtime.sites import Pair
from tests.support.virtual import LoopClock, run_virtual

#: Four chunks a second.
RATE = ByteRate(1 << 20, 0)
CHUNKS = 120
HOUR_S = 3600
DAY_S = 24 * HOUR_S
#: So that a clock may go back without meeting 1970.
NOW_S = 1_700_000_000


class Settable(LoopClock):
    """The wall clock jumps; the monotonic one never does."""

    def __init__(self) -> None:
        self.shift_s = 0

    def wall_ms(self) -> int:
        return super().wall_ms() + 1000 * (NOW_S + self.shift_s)


def transfer(tmp_path: Path, requester_s: int, origin_s: int) -> tuple[float, bool]:
    """How long it took, with clocks that jump by so much half way; and whether it is right."""

    async def run() -> tuple[float, bool]:
        hers, his = Settable(), Settable()
        pair = Pair(tmp_path, RATE, hers=hers)
        pair.offer("file", CHUNKS)
        pair.worker._clock = his
        began_s = asyncio.get_running_loop().time()
        async with pair.at_work():
            fetch = pair.fetch("file", "normal")
            running = asyncio.ensure_future(fetch.run())
            await asyncio.sleep(CHUNKS / 8)
            assert not running.done()
            hers.shift_s, his.shift_s = requester_s, origin_s
            await running
        return asyncio.get_running_loop().time() - began_s, pair.arrived("file")

    return run_virtual(run())


@pytest.mark.parametrize("both_s", [DAY_S, -DAY_S, 400 * DAY_S, -400 * DAY_S])
def test_the_clocks_of_both_jump(tmp_path: Path, both_s: int) -> None:
    """What was under way may be asked for again; nothing else is lost."""
    took_s, right = transfer(tmp_path, both_s, both_s)
    assert right
    assert took_s < CHUNKS / 4 + 30


@pytest.mark.parametrize(
    ("requester_s", "origin_s"),
    [(DAY_S, 0), (0, -DAY_S), (400 * DAY_S, 0), (-300, 300), (-900, 0), (0, 900)],
)
def test_the_clock_of_one_jumps(tmp_path: Path, requester_s: int, origin_s: int) -> None:
    """One that is ahead is told by how much; one that is behind has its requests' lifetime."""
    took_s, right = transfer(tmp_path, requester_s, origin_s)
    assert right
    assert took_s < CHUNKS / 4 + 30


@pytest.mark.parametrize(("requester_s", "origin_s"), [(-DAY_S, 0), (0, DAY_S)])
def test_a_requester_that_is_days_behind_ends_and_says_what_to_look_at(
    tmp_path: Path, requester_s: int, origin_s: int
) -> None:
    """All of its requests are old when they are written: to the origin, replays or worse."""
    with pytest.raises(PeerSilent) as told:
        transfer(tmp_path, requester_s, origin_s)
    assert "clock" in (told.value.hint or "")
