"""Keys that change under a program that keeps them itself: it is told, and decides."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import chunkq
from chunkq.api import KeyNews, KeyRing
from chunkq.errors import IdentityError, NotFound, PeerSilent
from chunkq.protocol.succession import Reason


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Program:
    """A program with one site, which serves one file to everybody it knows."""

    site: chunkq.Site
    ring: KeyRing
    cards: dict[str, str | list[str]]
    file: Path
    news: list[KeyNews] = field(default_factory=list)
    follows: bool = True
    #: Where it was told.
    threads: set[int] = field(default_factory=set)

    @classmethod
    @asynccontextmanager
    async def start(cls, name: str, root: Path) -> AsyncIterator[Program]:
        settings = chunkq.Settings(
            name=name,
            directories={"config": root / name / "config", "state": root / name / "state"},
            links={"default": {"url": f"spool://{root / 'spool'}"}},
        )
        (root / "spool").mkdir(exist_ok=True)
        (root / name).mkdir()
        file = root / name / "file"
        file.write_bytes(name.encode())
        ring = KeyRing(keys=chunkq.SiteKeys.generate(secrets.token_bytes))
        cards: dict[str, str | list[str]] = {}
        made: list[Program] = []

        def on_keys(news: KeyNews) -> bool:
            return made[0].on_keys(news)

        opening = chunkq.Site.open(settings, keys=ring, peers=cards, on_keys=on_keys)
        async with opening as site:
            program = cls(site, ring, cards, file)
            made.append(program)
            ready = asyncio.Event()
            serving = asyncio.ensure_future(
                site.serve(lambda peer, share, path: file, on_ready=ready.set)
            )
            await ready.wait()
            try:
                yield program
            finally:
                serving.cancel()
                with suppress(asyncio.CancelledError):
                    await serving

    def on_keys(self, news: KeyNews) -> bool:
        self.news.append(news)
        self.threads.add(threading.get_ident())
        if not self.follows:
            return False
        if news.kind == "succession":
            self.cards[news.alias] = [news.card, *news.earlier]
        elif news.kind != "grace_ended":
            del self.cards[news.alias]
        return True

    def change_keys(self) -> None:
        """As a program does: keep first, then use."""
        name = self.site.settings.site_name
        ring = self.ring.rotate(name, secrets.token_bytes, now_ms())
        self.ring = KeyRing.decode(ring.encode())
        self.site.use_keys(self.ring)


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[tuple[Program, Program]]:
    """North and south, which know each other."""
    async with Program.start("north", tmp_path) as north, Program.start("south", tmp_path) as south:
        north.cards["south"] = south.site.card
        south.cards["north"] = north.site.card
        yield north, south


async def fetch(program: Program, source: str, to: Path, patience_s: float = 20) -> bytes:
    await program.site.fetch(source, to, patience_s=patience_s)
    return to.read_bytes()


async def test_a_program_hears_of_new_keys_and_follows(
    both: tuple[Program, Program], tmp_path: Path
) -> None:
    """Told by `announce`; both ways go on, and the old card stays beside the new one."""
    north, south = both
    old = north.site.card
    north.change_keys()
    told = await north.site.announce()

    assert {"south": True} == told
    assert [("north", "succession")] == [(each.alias, each.kind) for each in south.news]
    assert [north.site.card, old] == south.cards["north"]
    assert b"north" == await fetch(south, "north:files/x", tmp_path / "a")
    assert b"south" == await fetch(north, "south:files/x", tmp_path / "b")
    assert 1 == len(south.news)
    assert {threading.get_ident()} == south.threads


async def test_new_keys_are_heard_of_in_passing(
    both: tuple[Program, Program], tmp_path: Path
) -> None:
    """Without a word to the peers: whoever asks, or is asked, hears of it."""
    north, south = both
    north.change_keys()
    south.change_keys()

    assert b"north" == await fetch(south, "north:files/x", tmp_path / "a")
    assert ["succession"] == [each.kind for each in south.news]
    assert ["succession"] == [each.kind for each in north.news]
    assert isinstance(north.cards["south"], list)


async def test_a_program_that_does_not_follow(
    both: tuple[Program, Program], tmp_path: Path
) -> None:
    """It is the program's decision: the old keys count while they are in their time."""
    north, south = both
    south.follows = False
    card = south.cards["north"]
    north.change_keys()
    assert {"south": False} == await north.site.announce(patience_s=1)

    assert card == south.cards["north"]
    assert b"north" == await fetch(south, "north:files/x", tmp_path / "a")
    assert b"south" == await fetch(north, "south:files/x", tmp_path / "b")


async def test_a_program_takes_the_old_card_away(
    both: tuple[Program, Program], tmp_path: Path
) -> None:
    """What it does not name counts no more, whatever the succession says."""
    north, south = both
    before = north.ring
    north.change_keys()
    await north.site.announce()
    south.cards["north"] = north.site.card
    north.site.use_keys(before)

    with pytest.raises(PeerSilent):
        await fetch(north, "south:files/x", tmp_path / "a", patience_s=1)


async def test_a_program_hears_of_a_revocation(
    both: tuple[Program, Program], tmp_path: Path
) -> None:
    """And takes the peer away; the revoked one asks nobody any more."""
    north, south = both
    north.site.use_keys(north.ring.revoke("north", Reason.COMPROMISED, now_ms()))
    assert {"south": True} == await north.site.announce()

    assert [("revoked", "revoked by its owner (compromised)")] == [
        (each.kind, each.detail) for each in south.news
    ]
    with pytest.raises(NotFound):
        await fetch(south, "north:files/x", tmp_path / "a")
    with pytest.raises(IdentityError, match="revoked"):
        await fetch(north, "south:files/x", tmp_path / "b")


async def test_a_program_hears_of_a_conflict(both: tuple[Program, Program]) -> None:
    """As long as it names the old card, a second succession of it is told."""
    north, south = both
    stolen = north.ring
    north.change_keys()
    await north.site.announce()
    thief = stolen.rotate("north", secrets.token_bytes, now_ms())
    north.site.use_keys(thief)

    assert {"south": False} == await north.site.announce(patience_s=1)
    assert ["succession", "conflict"] == [each.kind for each in south.news]
    assert "north" not in south.cards
