"""What is acknowledged of chunks that come more than once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from chunkq.errors import BadSeal, StorageError
from chunkq.ports import Delivery
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.digest import digest
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.transfer_events import ChunkStored, Phase, Punch
from chunkq.runtime.committing import Committer
from chunkq.runtime.landing import Landing
from chunkq.runtime.pages import Pages
from chunkq.runtime.tally import Tally
from chunkq.storage.partfile import PartFile

CHUNK = 4096
GEOMETRY = Geometry(CHUNK, CHUNK)
CONTENT = b"c" * CHUNK


class Waiting(Executor):
    """Work that is done when the test says so."""

    def __init__(self) -> None:
        self.work: list[tuple[Future[Any], Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.work.append((future, lambda: fn(*args, **kwargs)))
        return future

    def do(self) -> None:
        for future, work in self.work:
            try:
                future.set_result(work())
            except StorageError as error:
                future.set_exception(error)
        self.work.clear()


@dataclass(eq=False)
class Desk:
    """A transfer of one chunk, and who asked for it."""

    part: PartFile
    pool: Waiting = field(default_factory=Waiting)
    acknowledged: list[int] = field(default_factory=list)
    bitmap: Bitmap = field(default_factory=lambda: Bitmap(1))
    stored: asyncio.Event = field(default_factory=asyncio.Event)
    #: So many copies do not open.
    unsealed: int = 0
    page_known: bool = True

    def __post_init__(self) -> None:
        self.head = SimpleNamespace(geometry=GEOMETRY, root=bytes(32))
        self.requester = _Requester(self.acknowledged)
        self.asked = SimpleNamespace(
            peer=SimpleNamespace(requester=self.requester),
            token=1,
            version=1,
            open_into=self._open_into,
        )
        self.version, self.in_flight = 1, 1
        staging = SimpleNamespace(
            part=self.part,
            settle=lambda: None,
            state=SimpleNamespace(store=lambda state: None),
            free_bytes=lambda: 1 << 40,
        )
        self.committer = Committer(cast("Any", staging), self._in_thread, lambda *_, **__: None)
        self.landing = Landing(
            cast("Any", self),
            self.part,
            GEOMETRY,
            self.pool,
            committer=self.committer,
            tally=Tally("a", ["bob"]),
            feed=self._feed,
            lanes=cast("Any", _Lanes()),
            pages=Pages(),
            broken=lambda error: None,
            log=lambda *_, **__: None,
        )

    def wants(self, index: int) -> bool:
        return index not in self.bitmap

    def leaf(self, index: int) -> bytes | None:
        return digest(CONTENT) if self.page_known else None

    def come(self, tag: int) -> None:
        """One copy of the chunk."""
        raw = SimpleNamespace(header=SimpleNamespace(index=0, packed=False), body_size=CHUNK)
        self.landing.take(cast("Any", self.asked), cast("Any", raw), Delivery(CONTENT, tag, 1))

    def _open_into(self, raw: Any, room: memoryview) -> None:
        if self.unsealed:
            self.unsealed -= 1
            raise BadSeal("altered on the way")
        room[:] = CONTENT

    def _feed(self, *events: Any) -> None:
        if any(isinstance(event, ChunkStored) for event in events):
            self.bitmap.add(0)
            self.stored.set()

    async def _in_thread(self, work: Any) -> None:
        work()


@dataclass(eq=False)
class _Requester:
    acknowledged: list[int]
    in_memory_bytes: int = 0

    def done(self, *deliveries: Delivery) -> None:
        self.acknowledged += [delivery.tag for delivery in deliveries]

    def landed(self, size_bytes: int) -> None:
        self.in_memory_bytes += size_bytes

    def written(self, size_bytes: int) -> None:
        self.in_memory_bytes -= size_bytes


class _Lanes:
    def __getitem__(self, peer: object) -> int:
        return 0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """One whose part file is on a disk."""
    fd = os.open(tmp_path, os.O_RDONLY)
    part = PartFile(fd, "x.part", str(tmp_path / "x.part"))
    part.allocate(GEOMETRY, None)
    try:
        yield Desk(part)
    finally:
        part.close()
        os.close(fd)


async def test_no_copy_of_a_chunk_is_acknowledged_before_the_chunk_is_durable(desk: Desk) -> None:
    """The first may be of a connection that is gone: then the copy is the one that a broker has."""
    desk.committer.durable = Bitmap(1)

    desk.come(1)
    desk.come(2)  # while the first is on its way to the disk
    desk.landing._assembler.flush()
    desk.pool.do()
    async with asyncio.timeout(20):
        await desk.stored.wait()
    desk.come(3)  # while it is there and not durable
    assert [] == desk.acknowledged
    await desk.committer.commit(cast("Any", desk), Phase.RUNNING)
    assert [1, 2, 3] == sorted(desk.acknowledged)
    desk.come(4)
    assert [1, 2, 3, 4] == sorted(desk.acknowledged)


async def test_a_hole_is_made_before_a_commit_tells_of_it(desk: Desk) -> None:
    """Its bit is set at once: what a reply to an earlier process left there must be gone first."""
    desk.part.write(0, [CONTENT])

    desk.landing.punch(Punch(((0, 1),)))
    punched = asyncio.ensure_future(desk.landing.punched())
    async with asyncio.timeout(20):
        await asyncio.sleep(0)
        assert not punched.done()
        desk.pool.do()
        await punched
    room = bytearray(CHUNK)
    desk.part.read_into(0, memoryview(room))
    assert bytes(CHUNK) == room


async def test_a_good_copy_is_used_if_the_one_before_does_not_open(desk: Desk) -> None:
    """Whoever owns the broker would else have it acknowledged, and gone, before it is durable."""
    desk.committer.durable = Bitmap(1)

    desk.unsealed = 1
    desk.come(1)
    desk.come(2)  # while the altered one is on the thread
    desk.landing._assembler.flush()
    desk.pool.do()
    async with asyncio.timeout(20):
        while not desk.pool.work:
            await asyncio.sleep(0)
            desk.landing._assembler.flush()
        assert [1] == desk.acknowledged
        desk.pool.do()
        await desk.stored.wait()
    await desk.committer.commit(cast("Any", desk), Phase.RUNNING)
    assert [1, 2] == sorted(desk.acknowledged)
    assert 0 == desk.requester.in_memory_bytes


async def test_a_chunk_of_an_earlier_process_that_comes_twice_is_counted_once(desk: Desk) -> None:
    """Until it has been compared it is written as often as it comes; new it is only once."""
    desk.asked.token, desk.page_known = 0, False
    for tag in (1, 2, 3):
        desk.page_known = tag == 3  # the comparison waits for its turn
        desk.come(tag)
        desk.landing._assembler.flush()
        desk.pool.do()
        async with asyncio.timeout(20):
            await desk.landing.drained()
        assert CHUNK == desk.landing._tally.new_bytes


async def test_a_disk_error_gives_deliveries_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stayed would hold up all behind it for as long as the process lives."""

    def fail(*_: object) -> None:
        raise StorageError("the disk reports errors")

    monkeypatch.setattr(desk.part, "write", fail)
    desk.come(1)
    desk.come(2)
    desk.landing._assembler.flush()
    desk.pool.do()
    async with asyncio.timeout(20):
        await desk.landing.drained()
    assert [1, 2] == sorted(desk.acknowledged)


async def test_a_commit_that_the_disk_refuses_keeps_no_deliveries(desk: Desk) -> None:
    """They are given back with the end of the transfer, whatever it was that failed."""
    desk.committer.keep(Delivery(b"", 1, 1), desk.requester.done)

    def fail(state: object) -> None:
        raise StorageError("the disk reports errors")

    desk.committer._staging.state.store = fail  # type: ignore[method-assign]
    with pytest.raises(StorageError):
        await desk.committer.commit(cast("Any", desk), Phase.RUNNING)
    assert [] == desk.acknowledged
    desk.committer.release()
    assert [1] == desk.acknowledged
