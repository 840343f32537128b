"""The spool between real processes: shared by many, and with some of them killed."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

import chunkq
from chunkq.ports import Mailbox
from chunkq.transport.spool import SpoolOptions, SpoolTransport

from .conformance import DEADLINE_S, create, eventually, take

BOB = Mailbox("req", "bob")
SCRIPT = Path(__file__).with_name("spool_process.py")

Process = asyncio.subprocess.Process
Start = Callable[..., Awaitable[Process]]


class SystemClock:
    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return int(time.time() * 1000)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[SpoolTransport]:
    spool = SpoolTransport(SpoolOptions(root=tmp_path, site="bob"), SystemClock())
    await spool.open()
    await create(spool, BOB)
    yield spool
    await spool.close()


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    processes: list[Process] = []

    async def start(*arguments: str) -> Process:
        pipe = asyncio.subprocess.PIPE
        source = str(Path(chunkq.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": source}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(SCRIPT), str(tmp_path), *arguments),
            stdin=pipe,
            stdout=pipe,
            env=environment,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def lines(process: Process) -> list[str]:
    """What it prints until it ends."""
    assert process.stdout is not None
    return (await process.stdout.read()).decode().split()


async def line(process: Process) -> str:
    assert process.stdout is not None
    return (await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)).decode().strip()


async def test_worker_killed_while_holding_requests(
    spool: SpoolTransport, start: Start, tmp_path: Path
) -> None:
    """Kill -9 gives a consumer's unacknowledged packets, and only those, to another that runs."""
    for number in range(5):
        await spool.publish(BOB, str(number).encode())
    holder = await start("hold", "5", "2")
    assert "held" == await line(holder)

    async def two_are_gone() -> bool:
        return len(list((tmp_path / "req.bob" / "cur").glob("*/0*"))) == 3

    await eventually(two_are_gone)
    consumer = await spool.consume(BOB, prefetch=100)
    await spool.publish(BOB, b"new")
    (new,) = await take(consumer, 1)
    assert (b"new", False) == (new.body, new.redelivered)
    holder.kill()
    returned = await take(consumer, 3)
    assert [b"2", b"3", b"4"] == [delivery.body for delivery in returned]
    assert all(delivery.redelivered for delivery in returned)
    assert 1 == len(os.listdir(tmp_path / "req.bob" / "cur"))


async def test_many_processes_each_packet_exactly_once(
    spool: SpoolTransport, start: Start, tmp_path: Path
) -> None:
    """Three publishing and three consuming processes: nothing is lost, nothing comes twice."""
    consumers = [await start("consume") for _ in range(3)]
    outputs = [asyncio.ensure_future(lines(consumer)) for consumer in consumers]
    publishers = [await start("publish", prefix, "300") for prefix in "abc"]
    sent = [name for part in await asyncio.gather(*map(lines, publishers)) for name in part]
    assert 900 == len(sent)

    async def all_acknowledged() -> bool:
        box = tmp_path / "req.bob"
        return not os.listdir(box / "new") and not list((box / "cur").glob("*/0*"))

    async with asyncio.timeout(DEADLINE_S):
        while not await all_acknowledged():
            assert [None] * 3 == [consumer.returncode for consumer in consumers]
            await asyncio.sleep(0.01)
    for consumer in consumers:
        assert consumer.stdin is not None
        consumer.stdin.close()
    received = [name for part in await asyncio.gather(*outputs) for name in part]
    assert sorted(sent) == sorted(received)
    assert [0, 0, 0] == [await consumer.wait() for consumer in consumers]
    assert [] == os.listdir(tmp_path / "req.bob" / "cur")


async def test_worker_pool_shrinks_and_grows_by_kill_9(spool: SpoolTransport, start: Start) -> None:
    """Publishers and consumers killed in the middle: what the spool took arrives, never torn."""
    first = await start("consume")
    publishers = [await start("publish", prefix, "1000") for prefix in "ab"]
    confirmed = [[await line(publisher) for _ in range(100)] for publisher in publishers]
    for publisher in publishers:
        with suppress(ProcessLookupError):  # it was that quick
            publisher.kill()
    for names, publisher in zip(confirmed, publishers, strict=True):
        names += await lines(publisher)  # a line is one write: it is whole or not there
    handled = {await line(first) for _ in range(20)}
    first.kill()
    handled.update(await lines(first))

    second = await start("consume")
    sent = {name for names in confirmed for name in names}
    async with asyncio.timeout(DEADLINE_S):
        while not sent <= handled:
            handled.add(await line(second))
    assert second.returncode is None
