"""The commit: in which order, what it says to the disk and to the carrier, and what if it fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from chunkq.errors import ChunkqError, DiskFull, SyncFailed
from chunkq.ports import Delivery, Staging, TransferState
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.manifest import Head
from chunkq.protocol.transfer_events import Phase
from chunkq.runtime.committing import Committer

CHUNKS = 4
HEAD = Head(Geometry(CHUNKS * 4096, 4096), bytes(32), bytes(32))


class Disk:
    """Staging that writes down what it is asked for, and fails at a call if so told."""

    def __init__(self, told: list[str]) -> None:
        self.told = told
        self.fails: dict[str, ChunkqError] = {}
        self.stored: list[TransferState] = []
        self.part = self.state = self

    def sync(self) -> None:
        self._call("sync")

    def settle(self) -> None:
        self._call("settle")

    def store(self, state: TransferState) -> None:
        self._call("store")
        self.stored.append(state)

    def free_bytes(self) -> int:
        return 1 << 40

    def _call(self, name: str) -> None:
        self.told.append(name)
        if name in self.fails:
            raise self.fails.pop(name)


class Held:
    """A transfer, as far as a commit looks at it."""

    head = HEAD

    def __init__(self) -> None:
        self.bitmap = Bitmap(CHUNKS)


class Bench:
    """A committer on such a disk; what happens is in `told`, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.disk = Disk(self.told)
        self.transfer = Held()
        staging = cast("Staging", self.disk)
        self.committer = Committer(staging, self._in_thread, lambda *_, **__: None)
        self.committer.begin(0, Bitmap(CHUNKS))

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return work()

    def done(self, *deliveries: Delivery) -> None:
        self.told.append(f"let go of {sorted(each.tag for each in deliveries)}")

    def write(self, index: int) -> None:
        """A chunk is in the part file; its delivery's tag is its index."""
        self.transfer.bitmap.add(index)
        self.committer.keep(Delivery(b"body", index, 1), self.done)

    async def commit(self) -> ev.Event:
        return await self.committer.commit(self.transfer, Phase.RUNNING)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_data_then_names_then_bitmap_then_acknowledgement(bench: Bench) -> None:
    """In no other order; nothing is let go of before."""
    bench.write(0)
    bench.write(2)
    assert [] == bench.told
    event = await bench.commit()

    assert ["sync", "settle", "store", "let go of [0, 2]"] == bench.told
    assert ev.Committed(Phase.RUNNING) == event


async def test_generations_rise(bench: Bench) -> None:
    """Each commit is one more than the last that was stored, whatever was there before."""
    bench.committer.begin(6, Bitmap(CHUNKS))
    for index in range(3):
        bench.write(index)
        await bench.commit()

    assert [7, 8, 9] == [state.generation for state in bench.disk.stored]


async def test_the_bitmap_is_that_of_before_the_sync(bench: Bench) -> None:
    """What is written while the disk syncs is for the next commit."""
    bench.write(0)
    bench.disk.settle = lambda: bench.transfer.bitmap.add(1)  # type: ignore[method-assign]
    await bench.commit()

    assert [0] == [i for i in range(CHUNKS) if i in bench.disk.stored[0].bitmap]
    assert 1 not in bench.committer.durable


@pytest.mark.parametrize("call", ["sync", "settle", "store"])
async def test_after_a_failed_sync_only_what_was_durable_before_counts(
    bench: Bench, call: str
) -> None:
    """The event says what that is; the deliveries go: their chunks are asked for again."""
    bench.write(0)
    await bench.commit()
    bench.write(1)
    bench.disk.fails[call] = SyncFailed("the disk says no")
    event = await bench.commit()

    assert isinstance(event, ev.SyncLost)
    assert [0] == [i for i in range(CHUNKS) if i in event.durable]
    assert "let go of [1]" == bench.told[-1]
    assert 1 == len(bench.disk.stored)


@pytest.mark.parametrize("call", ["sync", "settle", "store"])
async def test_without_room_nothing_is_let_go_of(bench: Bench, call: str) -> None:
    """It is committed, and let go of, once there is room."""
    bench.write(3)
    bench.disk.fails[call] = DiskFull("no room")
    full = await bench.commit()

    assert isinstance(full, ev.SpaceGone)
    assert full.step
    assert not [told for told in bench.told if told.startswith("let go")]

    assert ev.Committed(Phase.RUNNING) == await bench.commit()
    assert "let go of [3]" == bench.told[-1]
    assert [1] == [state.generation for state in bench.disk.stored]
