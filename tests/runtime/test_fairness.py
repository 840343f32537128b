"""Several peers at one worker: who gets a slot, room on the way, and a hash, and when."""

from __future__ import annotations

import asyncio

import pytest

from chunkq.errors import DiskFull, OverQuota
from chunkq.ports import Delivery
from chunkq.protocol.limits import MIB
from chunkq.protocol.priority import Priority
from chunkq.runtime.disk import DiskShares
from chunkq.runtime.drops import PERIOD_S, TOLD_ONE_BY_ONE, Drops
from chunkq.runtime.inbox import Inbox
from chunkq.runtime.outflow import NEAR_BYTES, PARTS, Outflow
from chunkq.runtime.slots import Slots

ALICE, MALLORY, NORMAL = b"alice", b"mallory", Priority.NORMAL
CHUNK = MIB // 4


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Way:
    """What may be on its way at once, and who got on it in which order."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.came: list[bytes] = []
        self.waiting: set[asyncio.Task[None]] = set()

    def send(self, account: bytes, count: int, size: int, priority: Priority = NORMAL) -> None:
        async def one() -> None:
            await self.slots.take(priority, size, account)
            self.came.append(account)

        self.waiting |= {asyncio.ensure_future(one()) for _ in range(count)}

    def stop(self) -> None:
        for task in self.waiting:
            task.cancel()


async def test_a_flood_leaves_others_their_places() -> None:
    """A hundred of one wait; who comes later gets in at once, and then each in turn."""
    way = Way(Slots(2))
    way.send(MALLORY, 100, 1)
    await settle()
    way.send(ALICE, 3, 1)
    await settle()
    assert [MALLORY, MALLORY, ALICE] == way.came
    for account in (MALLORY, MALLORY, ALICE, MALLORY, ALICE, ALICE):
        way.slots.give_back(NORMAL, account=account)
        await settle()
    way.stop()
    assert [MALLORY, ALICE, MALLORY, ALICE, MALLORY] == way.came[3:]


async def test_urgency_is_no_way_past_others() -> None:
    """Whoever asks says the class himself: it counts among his own only."""
    way = Way(Slots(2))
    way.send(MALLORY, 100, 1, Priority.URGENT)
    way.send(ALICE, 2, 1, Priority.BULK)
    await settle()
    assert [MALLORY, MALLORY, ALICE] == way.came
    for account in (ALICE, MALLORY):
        way.slots.give_back(Priority.URGENT if account == MALLORY else Priority.BULK, 1, account)
        await settle()
    way.stop()
    assert [ALICE] == way.came[3:]


async def test_who_takes_nothing_keeps_nobody_from_taking() -> None:
    """All is taken by what does not move: another has its share even so, and all that is set
    aside; the one that stands still gets no more than everything once.
    """
    outflow = Outflow()
    way = Way(outflow)
    way.send(MALLORY, 100, CHUNK)
    await settle()
    assert NEAR_BYTES // CHUNK == len(way.came)
    assert not outflow.shared
    way.send(ALICE, 100, CHUNK)
    await settle()
    assert NEAR_BYTES // PARTS // CHUNK == way.came.count(ALICE)
    assert outflow.shared
    outflow.set_aside(NEAR_BYTES)
    await settle()
    way.stop()
    assert NEAR_BYTES // CHUNK == way.came.count(ALICE) == way.came.count(MALLORY)


def test_a_flood_does_not_fill_the_log() -> None:
    """The first ones of a kind each, then how many more there were."""

    class Clock:
        now_s = 0.0

        def monotonic_s(self) -> float:
            return self.now_s

        def wall_ms(self) -> int:
            return 0

    lines: list[tuple[str, object]] = []

    def log(event: str, /, *, level: str = "info", **fields: object) -> None:
        lines.append((event, fields.get("count")))

    clock = Clock()
    drops = Drops(log, clock)
    for _ in range(1000):
        drops("unknown_sender", "no peer")
    drops("malformed", "rubbish")
    assert [("request_dropped", None)] * (TOLD_ONE_BY_ONE + 1) == lines
    clock.now_s += PERIOD_S
    drops("malformed", "rubbish")
    assert [("requests_dropped", 1000 - TOLD_ONE_BY_ONE), ("request_dropped", None)] == lines[-2:]


async def test_what_is_let_go_may_be_done_later() -> None:
    """Each delivery is acknowledged once, also where its work ends long after."""
    acknowledged: list[int] = []

    class Carrier:
        async def receive(self) -> list[Delivery]:
            return [Delivery(b"x", tag, 1, False) for tag in (1, 2, 3)]

        def acknowledge(self, delivery: Delivery) -> None:
            acknowledged.append(delivery.tag)

        def reject(self, delivery: Delivery) -> None:
            raise AssertionError

        async def close(self) -> None:
            raise AssertionError

    inbox = Inbox(Carrier())
    deliveries = await inbox.receive()
    inbox.done(deliveries[1])
    assert 3 == len(inbox)
    inbox.let_go()
    for delivery in deliveries:
        inbox.done(delivery)
    assert ([3], 0) == (acknowledged, len(inbox))


def test_the_disk_is_shared_by_size_before_anything_is_allocated() -> None:
    """Alone too large is an error; too much together waits; what is done makes room."""
    disk = DiskShares()
    disk.take("bob", "one", 60, 100)
    disk.take("eve", "one", 60, 100)
    with pytest.raises(DiskFull, match="60 bytes"):
        disk.take("bob", "two", 41, 100)
    disk.take("bob", "two", 40, 100)
    disk.take("bob", "one", 60, 100)
    with pytest.raises(OverQuota, match="more than bob may take"):
        disk.take("bob", "three", 101, 100)
    disk.give_back("bob", "one")
    disk.take("bob", "three", 60, 100)
    disk.take("bob", "four", 1000, 0)
