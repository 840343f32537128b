"""Sites in this process whose files cross a broker slowly enough for something to happen."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import chunkq
from tests.api.hub import Hub

#: Some seconds on the way, so that something can happen in between.
SIZE_BYTES = 16 << 20
RATE = "6MiB/s"
#: Longest wait for anything that must happen; the machine may be busy.
DEADLINE_S = 90.0


@dataclass
class Crossing:
    """A file on its way from bob."""

    transfer: chunkq.Transfer
    source: Path
    destination: Path

    async def until(self, condition: Callable[[chunkq.Progress], object]) -> list[chunkq.Progress]:
        """Wait until it holds; returns what was shown until then."""
        seen = []
        async with asyncio.timeout(DEADLINE_S):
            while not condition(now := self.transfer.progress()):
                seen.append(now)
                await asyncio.sleep(0.02)
        return seen

    async def under_way(self) -> None:
        """Wait until a part of it is here, and much is not."""
        await self.until(lambda now: now.bytes_present > SIZE_BYTES // 8)
        assert self.transfer.progress().bytes_present < SIZE_BYTES // 2

    async def arrived(self) -> set[str]:
        """Wait for its end: it is the same. Returns the reasons shown until then."""
        seen = await self.until(lambda now: now.phase in ("done", "failed"))
        await self.transfer
        assert self.source.read_bytes() == self.destination.read_bytes()
        return {now.waiting.reason for now in seen if now.waiting is not None}

    async def waits(self, reason: str) -> str:
        """Wait until that is shown; returns its detail."""
        await self.until(lambda now: now.waiting is not None and now.waiting.reason == reason)
        waiting = self.transfer.progress().waiting
        return waiting.detail if waiting is not None else ""


class Party:
    """bob, who serves, and those who get from him; each connects to one node first."""

    def __init__(self, root: Path, bob: Hub, stack: AsyncExitStack) -> None:
        self._root = root
        self.bob = bob
        self._stack = stack
        self._count = 0
        self.events: list[str] = []

    async def join(
        self, name: str, url: str, stack: AsyncExitStack | None = None, **link: str
    ) -> chunkq.Site:
        """A site on a slow link, until the end of `stack`; its state directory stays."""
        settings = chunkq.Settings(
            name=name,
            directories={
                "config": self._root / name / "config",
                "state": self._root / name / "state",
            },
            links={"default": {"url": url, "receive_rate": RATE, **link}},
        )
        keys = chunkq.SiteKeys.generate(os.urandom)
        peers = {"bob": self.bob.site.card}

        def log(event: str, /, **_: object) -> None:
            self.events.append(event)

        opening = chunkq.Site.open(settings, keys=keys, peers=peers, log=log)
        site = await (stack or self._stack).enter_async_context(opening)
        self.bob.cards[name] = site.card
        return site

    def begin(self, site: chunkq.Site, size_bytes: int = SIZE_BYTES) -> Crossing:
        self._count += 1
        source = self._root / f"source{self._count}"
        source.write_bytes(os.urandom(size_bytes))
        self.bob.offered[source.name] = source, site.settings.site_name
        destination = self._root / f"arrived{self._count}"
        transfer = site.fetch(f"bob:files/{source.name}", destination, patience_s=DEADLINE_S)
        return Crossing(transfer, source, destination)


@asynccontextmanager
async def party(root: Path, bob_url: str) -> AsyncIterator[Party]:
    async with Hub.start("bob", root, bob_url) as bob, AsyncExitStack() as stack:
        yield Party(root, bob, stack)
