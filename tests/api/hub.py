"""A small federated server, as one that embeds chunkq would be written: against `import chunkq`."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import chunkq


@dataclass(frozen=True)
class Packet:
    """What the federation sends around by its own means: who says what, and the file behind it."""

    sender: str
    text: str
    source: str


@dataclass
class Hub:
    """One server: its site, its channels' files, and the packets that came."""

    site: chunkq.Site
    cards: dict[str, str]
    blobs: Path
    events: list[str]
    others: dict[str, Hub] = field(default_factory=dict)
    inbox: asyncio.Queue[Packet] = field(default_factory=asyncio.Queue)
    #: File id to where it lies here and who may have it.
    offered: dict[str, tuple[Path, str]] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        name: str,
        root: Path,
        link: str,
        keys: chunkq.SiteKeys | None = None,
        **options: object,
    ) -> AsyncIterator[Hub]:
        settings = chunkq.Settings(
            name=name,
            directories={"config": root / name / "config", "state": root / name / "state"},
            links={"default": {"url": link, **options}},
        )
        blobs = root / name / "blobs"
        blobs.mkdir(parents=True, exist_ok=True)
        cards: dict[str, str] = {}
        keys = keys or chunkq.SiteKeys.generate(secrets.token_bytes)
        events: list[str] = []

        def log(event: str, /, *, level: str = "info", **fields: object) -> None:
            events.append(event)

        async with chunkq.Site.open(settings, keys=keys, peers=cards, log=log) as site:
            hub = cls(site, cards, blobs, events)
            ready = asyncio.Event()
            serving = asyncio.ensure_future(
                site.serve(lambda *asked: hub.find(*asked), on_ready=ready.set)
            )
            await ready.wait()
            try:
                yield hub
            finally:
                serving.cancel()
                with suppress(asyncio.CancelledError):
                    await serving

    @property
    def name(self) -> str:
        return self.site.settings.site_name

    def befriend(self, other: Hub) -> None:
        self.cards[other.name] = other.site.card
        self.others[other.name] = other

    def find(self, peer: str, share: str, path: str) -> Path | chunkq.Share | None:
        """Decides what `peer` may have; called for each of its requests."""
        where, for_whom = self.offered.get(path, (None, ""))
        return where if share == "files" and peer == for_whom else None

    async def post(self, to: str, text: str, content: bytes) -> None:
        """Send a packet with a file behind it."""
        file_id = secrets.token_hex(8)
        path = self.blobs / file_id
        await asyncio.to_thread(path.write_bytes, content)
        self.offered[file_id] = path, to
        await self.others[to].inbox.put(Packet(self.name, text, f"{self.name}:files/{file_id}"))

    def fetch(self, packet: Packet, to: Path) -> chunkq.Transfer:
        return self.site.fetch(packet.source, to, patience_s=20)
