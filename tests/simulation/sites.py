"""Two whole sites on a simulated link: the requester and the origin of the product, wired up.

Nothing of `chunkq.runtime` or `chunkq.protocol` is replaced here; only what lies below the ports.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from random import Random

from chunkq.compose.requester import REPLY_PREFETCH
from chunkq.ports import PeerRef
from chunkq.protocol.identity import SiteKeys, card_of
from chunkq.protocol.limits import DEFAULT_CHUNK_SIZE_BYTES, DEFAULT_LIFETIME_MS
from chunkq.protocol.manifest import Head
from chunkq.runtime.answers import Answers
from chunkq.runtime.asking import Order
from chunkq.runtime.fetch import FileFetch
from chunkq.runtime.manifests import Manifests
from chunkq.runtime.origin import OriginWorker
from chunkq.runtime.peer import PeerLink, Requester
from tests.simulation.clock import VirtualClock
from tests.simulation.files import (
    PATH,
    SHARE,
    ComparingPart,
    Content,
    MemoryDirectory,
    MemoryReplays,
    MemoryStaging,
    PreparedManifests,
)
from tests.simulation.link import SimulatedLink

#: What `chunkq serve` does unless told otherwise.
REQUESTS_PER_S = 1000.0
CONCURRENCY = 8
INSTANCE = "aaaaaaaaaaaa"


class Log:
    """`ports.Log` that keeps the names of events and how often each came."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def __call__(self, event: str, /, *, level: str = "info", **fields: object) -> None:
        name = f"{event}:{fields['code']}" if "code" in fields else event
        self.counts[name] = self.counts.get(name, 0) + 1


@dataclass
class Sites:
    """alice, who gets, and bob, who serves; `peer` is her way to him."""

    clock: VirtualClock
    link: SimulatedLink
    content: Content
    random: Random
    peer: PeerLink
    pool: ThreadPoolExecutor
    log: Log

    def fetch(self, *, patience_s: float = 3600.0) -> FileFetch:
        """A transfer of the one file that there is; `run` it."""
        staging = MemoryStaging(ComparingPart(self.content), self.random.randbytes(32))
        return FileFetch(
            self.peer,
            Order(share=SHARE, path=PATH, patience_s=patience_s),
            open_staging=lambda: staging,
            pool=self.pool,
        )


@asynccontextmanager
async def two_sites(
    clock: VirtualClock,
    link: SimulatedLink,
    content: Content,
    *,
    chunk_size_bytes: int = DEFAULT_CHUNK_SIZE_BYTES,
    seed: int = 1,
) -> AsyncIterator[Sites]:
    """Both sites at work, until the end."""
    random, log = Random(seed), Log()
    alice, bob = (SiteKeys(random.randbytes(32), random.randbytes(32)) for _ in range(2))
    refs = {
        name: PeerRef(name, card_of(keys, name), name)
        for name, keys in (("alice", alice), ("bob", bob))
    }
    pool = ThreadPoolExecutor(1)  # never starts a thread: the loop does the work itself
    serving, here = link.end("bob", is_origin=True), link.end("alice", is_origin=False)
    worker = OriginWorker(
        keys=bob,
        address="bob",
        transport=serving,
        directory=(directory := MemoryDirectory(refs["alice"], content, chunk_size_bytes)),
        replays=MemoryReplays(),
        answers=Answers(
            keys=bob,
            directory=directory,
            manifests=Manifests(
                keys=bob, store=PreparedManifests(content, bob), build=_never, pool=pool
            ),
            pool=pool,
            max_message_bytes=serving.limits.max_message_bytes,
            largest_chunk_bytes=chunk_size_bytes,
            log=log,
        ),
        clock=clock,
        entropy=random.randbytes,
        log=log,
        requests_per_s=REQUESTS_PER_S,
        concurrency=CONCURRENCY,
    )
    requester = Requester(
        keys=alice,
        site="alice",
        instance=INSTANCE,
        transport=here,
        clock=clock,
        entropy=random.randbytes,
        log=log,
    )
    origin = asyncio.ensure_future(worker.run())
    await requester.start(REPLY_PREFETCH)
    peer = PeerLink(
        requester,
        refs["bob"],
        lifetime_s=DEFAULT_LIFETIME_MS / 1000,
        largest_chunk_bytes=chunk_size_bytes,
    )
    try:
        yield Sites(clock, link, content, random, peer, pool, log)
    finally:
        await requester.close()
        origin.cancel()
        with suppress(asyncio.CancelledError):
            await origin
        pool.shutdown()


def _never(*_arguments: object) -> tuple[Head, bytes]:
    raise AssertionError("the manifest was prepared")
