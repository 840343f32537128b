"""What travels between two sites when packing pays, and when it does not: bytes counted, no time.

The carrier is the memory transport at the rate of a slow link; the sites are whole.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import chunkq
from chunkq import compose
from chunkq.api import serving as serving_module
from chunkq.errors import IntegrityError
from chunkq.ports import Buffer, Clock, Mailbox
from chunkq.protocol.compression import MAX_PASSED, Appetite
from chunkq.protocol.packet import ReplyKind, parse_reply
from chunkq.protocol.packing import pack
from chunkq.runtime.packing import Packer
from chunkq.transport.limited import ByteRate, LimitedTransport
from chunkq.transport.memory import MemoryCarrier, MemoryTransport

MIB = 1 << 20
#: Slow enough that packing text pays tenfold, whatever else the machine does.
SLOW = ByteRate(bytes_per_s=20 * MIB, burst_bytes=64 * 1024)
TEXT = b"".join(b"line %d of a log says nothing new\n" % number for number in range(250_000))


class CountingTransport(MemoryTransport):
    """Counts the bytes of replies, those that are packed and the others, by kind."""

    def __init__(self, carrier: MemoryCarrier, site: str) -> None:
        super().__init__(carrier, site)
        self.plain: dict[ReplyKind, int] = {}
        self.packed: dict[ReplyKind, int] = {}

    async def publish(self, to: Mailbox, body: Buffer, **options: Any) -> None:
        if to.kind == "rep":
            header = parse_reply(body).header
            counts = self.packed if header.packed else self.plain
            counts[header.kind] = counts.get(header.kind, 0) + len(body)
        await super().publish(to, body, **options)


class World:
    """bob, who offers `files`, and alice, who gets; `serving` is bob's end of the link."""

    def __init__(self, root: Path) -> None:
        self.files, self.inbox = root / "files", root / "inbox"
        for path in (self.files, self.inbox):
            path.mkdir()
        self.alice: chunkq.Site
        self.transports: dict[str, list[CountingTransport]] = {}

    @property
    def serving(self) -> CountingTransport:
        (found,) = (each for each in self.transports["bob"] if each.plain or each.packed)
        return found

    async def get(self, name: str, content: bytes) -> int:
        """Fetch it whole; returns how many bytes of replies carried its chunks."""
        (self.files / name).write_bytes(content)
        await self.alice.fetch(f"bob:files/{name}", self.inbox / name, patience_s=20)
        assert content == (self.inbox / name).read_bytes()
        chunk = ReplyKind.CHUNK
        return self.serving.plain.get(chunk, 0) + self.serving.packed.get(chunk, 0)


@asynccontextmanager
async def world(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    alice: str = "auto",
    bob: str = "auto",
) -> AsyncIterator[World]:
    """Both sites at work; `alice` and `bob` say what each one's link has for `compression`.

    alice takes packed replies however busy this machine is.
    """
    monkeypatch.setattr(Appetite, "starving", lambda self, now_s: True)
    made = World(root)
    carriers: list[MemoryCarrier] = []

    def make_transport(link: object, site: str, clock: Clock) -> LimitedTransport:
        if not carriers:
            carriers.append(MemoryCarrier(clock))
        carrier = CountingTransport(carriers[0], site)
        made.transports.setdefault(site, []).append(carrier)
        return LimitedTransport(carrier, clock, send=SLOW, receive=None)

    for module in (compose.requester, serving_module):
        monkeypatch.setattr(module, "make_transport", make_transport)

    def settings(name: str, compression: str) -> chunkq.Settings:
        return chunkq.Settings(
            name=name,
            directories={"config": root / name / "config", "state": root / name / "state"},
            links={"default": {"compression": compression}},
        )

    keys = {name: chunkq.SiteKeys.generate(os.urandom) for name in ("alice", "bob")}
    cards: dict[str, str] = {}
    opened = chunkq.Site.open(settings("alice", alice), keys=keys["alice"], peers=cards)
    offering = chunkq.Site.open(settings("bob", bob), keys=keys["bob"], peers=cards)
    async with opened as made.alice, offering as origin:
        cards |= {"alice": made.alice.card, "bob": origin.card}
        ready = asyncio.Event()
        work = asyncio.ensure_future(
            origin.serve(lambda _peer, _share, path: made.files / path, on_ready=ready.set)
        )
        await ready.wait()
        try:
            yield made
        finally:
            work.cancel()
            with suppress(asyncio.CancelledError):
                await work


async def test_text_travels_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of text over a slow link: nearly all of it packed, however busy the machine."""
    async with world(tmp_path, monkeypatch) as made:
        sent = await made.get("log.txt", TEXT)
        assert sent < 0.5 * len(TEXT)


async def test_random_bytes_travel_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of them is packed, and nothing is added."""
    content = os.urandom(8 * MIB + 1)
    async with world(tmp_path, monkeypatch) as made:
        sent = await made.get("noise", content)
        assert ReplyKind.CHUNK not in made.serving.packed
        assert len(content) < sent < 1.001 * len(content)


async def test_each_chunk_of_a_mixed_file_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that is half noise the text is packed, but for the chunks passed before it."""
    noise = os.urandom(4 * MIB)
    async with world(tmp_path, monkeypatch) as made:
        sent = await made.get("image", noise + 2 * TEXT)
        assert len(noise) < sent < len(noise) + (MAX_PASSED + 1) * 256 * 1024 + 0.5 * len(TEXT)
        assert made.serving.packed[ReplyKind.CHUNK] > 0


@pytest.mark.parametrize("who", ["alice", "bob"])
async def test_either_side_can_say_no(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """`compression = "off"` on one link is enough: no packet's size tells of the content."""
    async with world(tmp_path, monkeypatch, **{who: "off"}) as made:
        sent = await made.get("log.txt", TEXT)
        assert sent > len(TEXT)
        assert {} == made.serving.packed


async def test_a_listing_travels_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names repeat themselves; a listing of few stays as it is."""
    async with world(tmp_path, monkeypatch) as made:
        for number in range(500):
            (made.files / f"measurement-{number:04d}.csv").touch()
        names = [entry.name async for entry in made.alice.list("bob:files/", patience_s=20)]
        assert sorted(path.name for path in made.files.iterdir()) == names
        assert ReplyKind.LISTING not in made.serving.plain
        assert made.serving.packed[ReplyKind.LISTING] < 500 * len("measurement-0000.csv")


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(lambda body: pack(bytes(64 * MIB)), id="bomb"),
        pytest.param(lambda body: pack(bytes(body)[:-1]), id="short"),
        pytest.param(lambda body: os.urandom(100), id="garbage"),
        pytest.param(lambda body: pack(bytes(len(body))), id="other-content"),
    ],
)
async def test_an_origin_that_packs_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frame: object
) -> None:
    """A frame that is not the chunk counts as the origin's bad chunk: in the end, it is refused."""
    monkeypatch.setattr(Packer, "pack", lambda self, body: frame(body))  # type: ignore[operator]
    async with world(tmp_path, monkeypatch) as made:
        with pytest.raises(IntegrityError, match="do not match the signed manifest"):
            await made.get("file", TEXT[:MIB])
        assert not (made.inbox / "file").exists()


async def test_a_tree_of_small_files_travels_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bundles of text are packed as chunks are."""
    async with world(tmp_path, monkeypatch) as made:
        for number in range(600):
            (made.files / f"{number}.txt").write_bytes(TEXT[number * 4096 : (number + 1) * 4096])
        await made.alice.fetch("bob:files/", made.inbox / "tree", patience_s=20)
        for number in range(600):
            name = f"{number}.txt"
            there = made.inbox / "tree" / name
            assert (made.files / name).read_bytes() == there.read_bytes()
        packed = made.serving.packed[ReplyKind.BUNDLE]
        # How many go before it is known to pay depends on how busy this machine is.
        assert 0 < packed < 600 * 4096 - made.serving.plain.get(ReplyKind.BUNDLE, 0)
