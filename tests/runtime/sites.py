"""A requester and an origin of the product in virtual time: real files, and a link with a rate."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from chunkq.ports import PeerRef, Share
from chunkq.protocol.identity import SiteKeys, card_of
from chunkq.protocol.limits import DEFAULT_CHUNK_SIZE_BYTES, KEY_SIZE_BYTES
from chunkq.protocol.priority import PriorityWord
from chunkq.runtime.answers import Answers
from chunkq.runtime.asking import Order
from chunkq.runtime.fetch import FileFetch
from chunkq.runtime.manifests import Manifests
from chunkq.runtime.origin import OriginWorker
from chunkq.runtime.peer import PeerLink, Requester
from chunkq.storage.destination import Destination
from chunkq.storage.hashing import build_manifest
from chunkq.storage.manifests import ManifestStore
from chunkq.storage.replays import ReplayStore
from chunkq.storage.source import DirectoryShare
from chunkq.storage.staged import open_staged
from chunkq.storage.statefile import StateHeader
from chunkq.storage.transferid import transfer_id
from chunkq.transport.limited import ByteRate, LimitedTransport
from chunkq.transport.memory import MemoryCarrier, MemoryTransport
from tests.support.virtual import InlineExecutor, LoopClock

CHUNK_BYTES = DEFAULT_CHUNK_SIZE_BYTES
SHARE = "docs"
INSTANCE = "aaaaaaaaaaaa"


@dataclass
class _Directory:
    """One peer, which sees one share."""

    alice: PeerRef
    files: Path

    def refresh(self) -> None:
        """Nothing changes."""

    def peer(self, site_id: bytes) -> PeerRef | None:
        return self.alice if site_id == self.alice.card.site_id else None

    def share(self, peer: PeerRef, share: str, path: str) -> Share | None:
        return DirectoryShare(self.files) if share == SHARE else None

    def chunk_size(self, share: str) -> int:
        return CHUNK_BYTES


class Pair:
    """alice, who gets into `inbox`, and bob, who serves `files` at a rate."""

    def __init__(
        self,
        root: Path,
        send: ByteRate,
        *,
        largest_asked: int = CHUNK_BYTES,
        hers: LoopClock | None = None,
    ) -> None:
        """`hers`: alice's clock, if it is another one."""
        self.files, self.inbox = root / "files", root / "inbox"
        self.files.mkdir()
        self.inbox.mkdir()
        self._root = root
        self._random = Random(1)
        self.clock = self._clock = LoopClock()
        self._pool = InlineExecutor()
        self.carrier = MemoryCarrier(self._clock)
        self._keys = {name: SiteKeys.generate(self._random.randbytes) for name in ("alice", "bob")}
        self._refs = {
            name: PeerRef(name, card_of(keys, name), name) for name, keys in self._keys.items()
        }
        self.requester = Requester(
            keys=self._keys["alice"],
            site="alice",
            instance=INSTANCE,
            transport=MemoryTransport(self.carrier, "alice"),
            clock=hers or self._clock,
            entropy=self._random.randbytes,
            log=_say_nothing,
        )
        self.peer = PeerLink(
            self.requester, self._refs["bob"], lifetime_s=600, largest_chunk_bytes=largest_asked
        )
        self.worker = self._worker(send)

    def offer(self, name: str, chunks: int) -> None:
        (self.files / name).write_bytes(self._random.randbytes(chunks * CHUNK_BYTES))

    def fetch(self, name: str, priority: PriorityWord) -> FileFetch:
        destination, parts = Destination.for_file(self.inbox / name), (name,)
        site_id = self.peer.ref.card.site_id
        header = StateHeader(
            ephemeral=self._random.randbytes(KEY_SIZE_BYTES),
            instance=INSTANCE,
            site="bob",
            share=SHARE,
            path=name,
            created_ms=self._clock.wall_ms(),
        )
        return FileFetch(
            self.peer,
            Order(share=SHARE, path=name, priority=priority),
            open_staging=lambda: open_staged(
                destination, parts, transfer_id(site_id, SHARE, name, parts), header
            ),
            pool=self._pool,
        )

    def arrived(self, name: str) -> bool:
        target = self.inbox / name
        return target.exists() and (self.files / name).read_bytes() == target.read_bytes()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        serving = asyncio.ensure_future(self.worker.run())
        await self.requester.start(1000)
        try:
            yield
        finally:
            await self.requester.close()
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving

    def _worker(self, send: ByteRate) -> OriginWorker:
        replays = ReplayStore(self._root / "replays", wall_ms=self._clock.wall_ms)
        replays.create(self._refs["alice"].card.site_id)
        directory = _Directory(self._refs["alice"], self.files)
        manifests = Manifests(
            keys=self._keys["bob"],
            store=ManifestStore(self._root / "manifests"),
            build=partial(build_manifest, wall_ms=_long_after),
            pool=self._pool,
        )
        transport = LimitedTransport(
            MemoryTransport(self.carrier, "bob"), self._clock, send=send, receive=None
        )
        return OriginWorker(
            keys=self._keys["bob"],
            address="bob",
            transport=transport,
            directory=directory,
            replays=replays,
            answers=Answers(
                keys=self._keys["bob"],
                directory=directory,
                manifests=manifests,
                pool=self._pool,
                max_message_bytes=transport.limits.max_message_bytes,
                largest_chunk_bytes=CHUNK_BYTES,
                log=_say_nothing,
            ),
            clock=self._clock,
            entropy=os.urandom,
            log=_say_nothing,
            requests_per_s=1000,
            concurrency=8,
        )


def _say_nothing(event: str, /, *, level: str = "info", **fields: Any) -> None:
    """No log."""


def _long_after() -> int:
    """So that the time stamps of a file that was just written are old."""
    return time.time_ns() // 1_000_000 + 3_600_000
