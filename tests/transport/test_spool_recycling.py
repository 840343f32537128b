"""Files of packets that are over: who may write them again, and when there are none."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chunkq.ports import Consumer, Mailbox
from chunkq.protocol.limits import KIB
from chunkq.transport.spool import SpoolOptions, SpoolTransport, recycling
from chunkq.transport.spool.recycling import FRESH_MS

from .conformance import eventually, take
from .test_spool import ShiftedClock, packet_name

BOB = Mailbox("req", "bob")
SIZE = 200 * KIB


class Spool:
    """One site that publishes to itself, and the directories of its mailbox."""

    def __init__(self, root: Path, transport: SpoolTransport, consumer: Consumer) -> None:
        self.transport = transport
        self.consumer = consumer
        self.box = root / "req.bob"

    def inodes(self, directory: str) -> dict[str, int]:
        return {entry.name: entry.inode() for entry in os.scandir(self.box / directory)}

    async def pass_one(self, body: bytes) -> None:
        """Publish, take and acknowledge one packet, and wait until its file is out of the way."""
        await self.transport.publish(BOB, body)
        (delivery,) = await take(self.consumer, 1)
        assert body == delivery.body
        (claims,) = (self.box / "cur").iterdir()
        self.consumer.acknowledge(delivery)

        async def is_over() -> bool:
            return [".lock"] == os.listdir(claims)

        await eventually(is_over)


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
async def spool(tmp_path: Path, clock: ShiftedClock) -> AsyncIterator[Spool]:
    transport = SpoolTransport(SpoolOptions(root=tmp_path, site="bob"), clock)
    await transport.open()
    yield Spool(tmp_path, transport, await transport.consume(BOB, prefetch=100))
    await transport.close()


@pytest.mark.parametrize("second", [SIZE, SIZE - 3 * KIB, SIZE + 3 * KIB])
async def test_a_file_serves_again_for_about_its_size(spool: Spool, second: int) -> None:
    """The same inode, with the new packet's bytes and nothing of the old one's."""
    await spool.pass_one(os.urandom(SIZE))
    (inode,) = spool.inodes("free").values()

    await spool.transport.publish(BOB, os.urandom(second))

    assert {} == spool.inodes("free")
    assert [] == os.listdir(spool.box / "tmp")
    (entry,) = os.scandir(spool.box / "new")
    assert (inode, second) == (entry.inode(), entry.stat().st_size)


async def test_a_packet_of_another_size_gets_another_file(spool: Spool) -> None:
    """Nothing is cut down to a small one, nor grown."""
    await spool.pass_one(os.urandom(SIZE))
    kept = spool.inodes("free")

    await spool.pass_one(b"small")
    await spool.transport.publish(BOB, bytes(2 * SIZE))

    assert kept.items() <= spool.inodes("free").items()
    assert 2 == len(spool.inodes("free"))


async def test_what_is_old_is_not_kept(spool: Spool, clock: ShiftedClock) -> None:
    """A courier brought it: nobody will soon want its file."""
    await spool.transport.publish(BOB, bytes(SIZE))
    (delivery,) = await take(spool.consumer, 1)
    clock.shift_s += FRESH_MS / 1000 + 1

    spool.consumer.acknowledge(delivery)
    await spool.pass_one(b"one more, so that the first is over")

    assert ["0000000035"] == [name.split("-")[3] for name in spool.inodes("free")]


async def test_what_is_kept_is_bounded(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes and in number; the rest is removed."""
    monkeypatch.setattr(recycling, "MOST_FREE_BYTES", 3 * SIZE)
    monkeypatch.setattr(recycling, "MOST_FREE_FILES", 5)

    async def pass_many(count: int, size: int) -> None:
        for _ in range(count):
            await spool.transport.publish(BOB, bytes(size))
        deliveries = await take(spool.consumer, count)
        spool.consumer.acknowledge(deliveries[-1])
        (claims,) = (spool.box / "cur").iterdir()

        async def are_over() -> bool:
            return [".lock"] == os.listdir(claims)

        await eventually(are_over)

    await pass_many(6, SIZE)
    assert 3 == len(spool.inodes("free"))
    for name in os.listdir(spool.box / "free"):
        (spool.box / "free" / name).unlink()
    await pass_many(8, 10)
    assert 5 == len(spool.inodes("free"))


async def test_the_last_to_leave_clears_it(spool: Spool) -> None:
    """No room is held while nothing moves; what is not a packet's file stays."""
    await spool.pass_one(bytes(SIZE))
    (spool.box / "free" / "foreign").write_bytes(b"")

    await spool.consumer.close()

    assert ["foreign"] == os.listdir(spool.box / "free")


@pytest.mark.parametrize("trap", ["link", "second name", "fifo", "directory"])
async def test_nothing_but_a_file_of_ones_own_is_written(
    spool: Spool, tmp_path: Path, trap: str
) -> None:
    """Whoever else may write to the spool cannot make a publisher write elsewhere."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    bait = spool.box / "free" / packet_name(SIZE)
    match trap:
        case "link":
            bait.symlink_to(victim)
        case "second name":
            bait.hardlink_to(victim)
        case "fifo":
            os.mkfifo(bait)
        case _:
            bait.mkdir()
    body = os.urandom(SIZE)

    await spool.transport.publish(BOB, body)

    (delivery,) = await take(spool.consumer, 1)
    assert body == delivery.body
    assert b"precious" == victim.read_bytes()


async def test_a_mailbox_of_an_earlier_release_works(spool: Spool) -> None:
    """Without the directory, files are made and removed as ever."""
    (spool.box / "free").rmdir()

    await spool.pass_one(bytes(SIZE))
    await spool.pass_one(bytes(SIZE))

    assert not (spool.box / "free").exists()
