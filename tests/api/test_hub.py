"""The library in use: two federated servers, each origin and requester, one spool or one broker."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import chunkq
from chunkq.errors import NotFound
from tests.api.hub import Hub

MIB = 1 << 20


@asynccontextmanager
async def two_hubs(root: Path, link: str) -> AsyncIterator[tuple[Hub, Hub]]:
    async with Hub.start("north", root, link) as north, Hub.start("south", root, link) as south:
        north.befriend(south)
        south.befriend(north)
        yield north, south


@pytest.fixture
async def hubs(tmp_path: Path) -> AsyncIterator[tuple[Hub, Hub]]:
    """Two servers that know each other, a spool between them."""
    (tmp_path / "spool").mkdir()
    async with two_hubs(tmp_path, f"spool://{tmp_path}/spool") as pair:
        yield pair


async def exchange(one: Hub, other: Hub, directory: Path) -> None:
    """A packet with a file each way at the same time; both files arrive, with progress."""

    async def one_way(sender: Hub, receiver: Hub) -> None:
        content = os.urandom(8 * MIB) + b"\x01"  # a zero alone would be a hole
        await sender.post(receiver.name, "look at this", content)
        packet = await receiver.inbox.get()
        target = directory / f"at-{receiver.name}"

        transfer = receiver.fetch(packet, target)
        seen = [progress async for progress in transfer]
        result = await transfer

        assert (sender.name, "look at this") == (packet.sender, packet.text)
        assert content == target.read_bytes()
        assert (len(content), len(content)) == (result.size_bytes, result.new_bytes)
        present = [progress.bytes_present for progress in seen]
        assert sorted(present) == present
        assert ("done", len(content), sender.name) == (
            seen[-1].phase,
            seen[-1].bytes_present,
            seen[-1].peer,
        )

    await asyncio.gather(one_way(one, other), one_way(other, one))


async def test_packets_with_files_behind_them(hubs: tuple[Hub, Hub], tmp_path: Path) -> None:
    """Each server is origin and requester at once, in one process and on one loop."""
    await exchange(*hubs, tmp_path)

    assert {"at-north", "at-south"} <= set(os.listdir(tmp_path))


@pytest.mark.rabbitmq
async def test_packets_with_files_behind_them_over_rabbitmq(amqp_url: str, tmp_path: Path) -> None:
    """The same program with another link."""
    async with two_hubs(tmp_path, amqp_url) as hubs:
        await exchange(*hubs, tmp_path)

    assert {"at-north", "at-south"} <= set(os.listdir(tmp_path))


async def test_a_cancelled_transfer_goes_on_later(hubs: tuple[Hub, Hub], tmp_path: Path) -> None:
    """`cancel` commits what there is; the same fetch takes it from there."""
    north, south = hubs
    content = os.urandom(48 * MIB)
    await north.post("south", "large", content)
    packet = await south.inbox.get()
    target = tmp_path / "large"

    transfer = south.fetch(packet, target)
    while transfer.progress().chunks_present < 8:  # noqa: ASYNC110 - the stream is too seldom
        await asyncio.sleep(0)
    transfer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await transfer
    there = target.exists()
    result = await south.fetch(packet, target)

    assert (False, "stopped") == (there, transfer.progress().phase)
    assert result.resumed_chunks >= 8
    assert result.new_bytes <= len(content) - 8 * 262144
    assert content == target.read_bytes()


async def test_a_timeout_around_a_transfer(tmp_path: Path) -> None:
    """asyncio's own means of cancellation work, too; here on a peer that went away."""
    (tmp_path / "spool").mkdir()
    link = f"spool://{tmp_path}/spool"
    async with Hub.start("gone", tmp_path, link) as gone:
        card = gone.site.card
    async with Hub.start("left", tmp_path, link) as left:
        left.cards["gone"] = card

        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await left.site.fetch("gone:files/x", tmp_path / "never")

        assert not (tmp_path / "never").exists()


async def test_a_site_that_is_left_stops_its_transfers(tmp_path: Path) -> None:
    """Resumably, though nobody awaited them."""
    (tmp_path / "spool").mkdir()
    async with Hub.start("alone", tmp_path, f"spool://{tmp_path}/spool") as hub:
        hub.cards["self"] = hub.site.card
        transfer = hub.site.fetch("self:files/x", tmp_path / "x", patience_s=60)
        await asyncio.sleep(0)

    assert transfer.progress().phase in {"stopped", "failed"}


async def test_only_the_one_it_was_meant_for(hubs: tuple[Hub, Hub], tmp_path: Path) -> None:
    """What `find` does not offer is not there; typed errors say so."""
    north, south = hubs
    await north.post("south", "private", b"private")
    packet = await south.inbox.get()
    north.offered = {key: (path, "somebody-else") for key, (path, _) in north.offered.items()}

    with pytest.raises(NotFound) as caught:
        await south.fetch(packet, tmp_path / "x")
    assert isinstance(caught.value, chunkq.ChunkqError)
    assert not (tmp_path / "x").exists()


async def test_peers_come_and_go(hubs: tuple[Hub, Hub], tmp_path: Path) -> None:
    """The mapping of cards is looked at for every request."""
    north, south = hubs
    await north.post("south", "x", b"x")
    packet = await south.inbox.get()
    card = north.cards.pop("south")

    transfer = south.fetch(packet, tmp_path / "x")
    async for _ in transfer:
        if "request_dropped" in north.events:
            north.cards["south"] = card

    assert 1 == (await transfer).size_bytes
    with pytest.raises(NotFound):
        south.site.fetch("nobody:files/x", tmp_path / "y")


async def test_many_at_once(hubs: tuple[Hub, Hub], tmp_path: Path) -> None:
    """Transfers of one site share its link."""
    north, south = hubs
    contents = {f"f{number}": os.urandom(300_000 + number) for number in range(20)}
    for name, content in contents.items():
        await north.post("south", name, content)
    packets = [await south.inbox.get() for _ in contents]

    await asyncio.gather(*(south.fetch(packet, tmp_path / packet.text) for packet in packets))

    assert contents == {name: (tmp_path / name).read_bytes() for name in contents}


def test_no_more_than_ten_names() -> None:
    """All of them resolve; nothing else is promised."""
    assert len(chunkq.__all__) <= 10
    assert {name for name in chunkq.__all__ if getattr(chunkq, name) is None} == set()
    with pytest.raises(AttributeError):
        _ = chunkq.Fetcher  # type: ignore[attr-defined]
