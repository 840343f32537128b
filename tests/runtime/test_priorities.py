"""Classes of transfers: who gets a slot, the window's room and the link, while others wait."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chunkq.protocol.limits import MIB
from chunkq.protocol.priority import Priority, PriorityWord
from chunkq.protocol.window import Window
from chunkq.protocol.yielding import yielding
from chunkq.runtime.slots import Slots
from chunkq.transport.limited import ByteRate
from tests.runtime.sites import Pair
from tests.support.virtual import run_virtual

#: A chunk takes a quarter of a second.
RATE = ByteRate(MIB, 0)
LARGE_CHUNKS, SMALL_CHUNKS = 240, 2


@pytest.mark.parametrize(
    ("large", "small", "most"),
    [("bulk", "urgent", 3), ("bulk", "normal", 3), ("bulk", "bulk", 150)],
)
def test_a_small_file_beside_a_large_one(
    tmp_path: Path, large: PriorityWord, small: PriorityWord, most: int
) -> None:
    """Over a link of a limited rate a small file of a higher class is there after a few chunks of
    the large one, which is underway and goes on; one of the same class gets its turn, too.
    """

    async def run() -> int:
        pair = Pair(tmp_path, RATE)
        pair.offer("large", LARGE_CHUNKS)
        pair.offer("small", SMALL_CHUNKS)
        async with pair.at_work():
            fetch = pair.fetch("large", large)
            moving = asyncio.ensure_future(fetch.run())

            def arrived() -> int:
                progress = fetch.progress()
                return progress.chunks_present if progress else 0

            while arrived() < LARGE_CHUNKS // 8:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.25)
            before = arrived()
            await pair.fetch("small", small).run()
            passed = arrived() - before
            assert not moving.done()
            await moving
        assert pair.arrived("large")
        assert pair.arrived("small")
        return passed

    assert run_virtual(run()) <= most


class Workers:
    """Takers of slots that hold them until told, and the order in which they got them."""

    def __init__(self, slots: Slots) -> None:
        self.order: list[str] = []
        self._slots = slots
        self._release: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, priority: Priority) -> None:
        self._release[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._hold(name, priority))
        await settle()

    async def go(self, name: str) -> None:
        self._release[name].set()
        await self._tasks[name]
        await settle()

    async def give_up(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.wait([self._tasks[name]])
        await settle()

    async def _hold(self, name: str, priority: Priority) -> None:
        async with self._slots.taken(priority):
            self.order.append(name)
            await self._release[name].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_go_by_class_and_then_by_arrival() -> None:
    """A queue of bulk requests waits; what is normal overtakes it as soon as a slot is free."""
    workers = Workers(Slots(1))
    await workers.come("normal 1", Priority.NORMAL)
    for name in ("bulk 1", "bulk 2"):
        await workers.come(name, Priority.BULK)
    for name in ("normal 2", "normal 3"):
        await workers.come(name, Priority.NORMAL)
    for name in ("normal 1", "normal 2", "normal 3", "bulk 1", "bulk 2"):
        await workers.go(name)
    assert ["normal 1", "normal 2", "normal 3", "bulk 1", "bulk 2"] == workers.order


async def test_the_first_of_a_higher_class_waits_for_no_lower_one() -> None:
    """Bulk holds every slot: one normal and one urgent request get in, and no second."""
    workers = Workers(Slots(2))
    for name in ("bulk 1", "bulk 2", "bulk 3"):
        await workers.come(name, Priority.BULK)
    for name, priority in (("normal", Priority.NORMAL), ("urgent", Priority.URGENT)):
        await workers.come(f"{name} 1", priority)
        await workers.come(f"{name} 2", priority)
    assert ["bulk 1", "bulk 2", "normal 1", "urgent 1"] == workers.order
    await workers.go("urgent 1")
    assert ["urgent 2"] == workers.order[4:]
    await workers.go("urgent 2")
    await workers.go("normal 1")
    assert ["normal 2"] == workers.order[5:]
    for name in ("bulk 1", "bulk 2", "normal 2", "bulk 3"):
        await workers.go(name)
    assert "bulk 3" == workers.order[-1]


async def test_who_gives_up_holds_nobody_up() -> None:
    """A cancelled request leaves the queue, and a slot that it was just given."""
    workers = Workers(Slots(1))
    for name in ("one", "two", "three"):
        await workers.come(name, Priority.NORMAL)
    await workers.give_up("two")
    await workers.give_up("one")
    assert ["one", "three"] == workers.order
    await workers.go("three")


def test_room_is_left_to_who_goes_first() -> None:
    """While others go first a batch of the window is theirs; nothing else of it changes."""
    window, first = Window(64), False
    view = yielding(window, lambda: first)
    assert (4, 4, 4) == (view.limit, view.room, window.room)
    first = True
    assert (3, 4) == (view.room, window.room)
    view.sent(0.0)
    assert (1, 2, 3) == (window.outstanding, view.room, window.room)
    window._limit = 64.0
    assert 1 < window.batch < 63
    assert (63 - window.batch, 63) == (view.room, window.room)
