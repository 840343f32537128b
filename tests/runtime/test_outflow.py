"""How many bytes may be on the way to a carrier, near and far."""

from __future__ import annotations

import asyncio

import pytest

from chunkq.protocol.limits import MIB
from chunkq.protocol.priority import Priority
from chunkq.runtime.outflow import FAR_BYTES, NEAR_BYTES, Outflow


async def on_the_way(outflow: Outflow) -> int:
    """How many MiB get in, one by one, before somebody has to wait."""
    for number in range(100):
        entering = asyncio.ensure_future(outflow.take(Priority.NORMAL, MIB))
        for _ in range(3):
            await asyncio.sleep(0)
        if not entering.done():
            entering.cancel()
            return number
    return 100


@pytest.mark.parametrize(
    ("taken_s", "expected_mib"),
    [
        pytest.param([], 8, id="before the first"),
        pytest.param([0.0], 8, id="beside us"),
        pytest.param([0.1], 14, id="100 ms away"),
        pytest.param([0.6], 40, id="600 ms away"),
        pytest.param([3600.0], 40, id="an hour away"),
        pytest.param([0.1, 5.0, 0.3], 14, id="behind others"),
        pytest.param([5.0, 0.0], 8, id="slow at first"),
    ],
)
async def test_room_follows_the_distance(taken_s: list[float], expected_mib: int) -> None:
    """The shortest time that a packet took is the distance; the rest is waiting."""
    outflow = Outflow()
    for each in taken_s:
        outflow.taken_over(each)
    assert expected_mib == await on_the_way(outflow)


def test_bounds_are_whole_mebibytes() -> None:
    """What the table above says is what the constants are."""
    assert (8 * MIB, 40 * MIB) == (NEAR_BYTES, FAR_BYTES)
