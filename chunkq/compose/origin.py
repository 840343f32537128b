"""This site as an origin: what it offers to whom, and the worker that does so."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

from chunkq.compose.clock import SystemClock
from chunkq.compose.peers import ref_for
from chunkq.compose.process import POOL_THREADS
from chunkq.ports import (
    Heard,
    Identity,
    ListingPage,
    Log,
    PeerRef,
    Share,
    SmallFile,
    SourceFile,
    Transport,
)
from chunkq.protocol.limits import (
    DEFAULT_CHUNK_SIZE_BYTES,
)
from chunkq.protocol.messages import RefusalReason
from chunkq.protocol.succession import Said
from chunkq.runtime.answers import Answers
from chunkq.runtime.manifests import Manifests
from chunkq.runtime.origin import OriginWorker
from chunkq.runtime.packing import Packing
from chunkq.settings import Link, Peer, Registry, Settings
from chunkq.storage.hashing import build_manifest
from chunkq.storage.manifests import ManifestStore
from chunkq.storage.replays import ReplayStore
from chunkq.storage.source import DirectoryShare
from chunkq.storage.usage import UsageStore
from chunkq.telemetry.logs import write as write_log


class RegistryDirectory:
    """The registry on disk as the origin's `Directory`."""

    def __init__(self, registry: Registry, trust: Callable[[Said], Heard]) -> None:
        self._registry = registry
        self._trust = trust
        self._clock = SystemClock()
        self._shares: dict[str, tuple[object, DirectoryShare]] = {}

    def refresh(self) -> None:
        self._registry.refresh()

    def peer(self, site_id: bytes) -> PeerRef | None:
        peer = self._registry.peer_by_key(site_id)
        return None if peer is None else ref_for(peer, site_id, self._clock.wall_ms())

    async def heed(self, statement: Said) -> Heard:
        return await asyncio.to_thread(self._trust, statement)

    def share(self, peer: PeerRef, share: str, path: str) -> Share | None:
        if not self._registry.allows(peer.alias, share, path):
            return None
        config = self._registry.shares[share]
        known = self._shares.get(share)
        if known is None or known[0] != config:
            opened = DirectoryShare(
                config.path, follow_links=config.follow_links, hidden=config.hidden
            )
            known = self._shares[share] = (config, opened)
        return known[1]

    def chunk_size(self, share: str) -> int:
        config = self._registry.shares.get(share)
        return DEFAULT_CHUNK_SIZE_BYTES if config is None else config.chunk_size_bytes


@dataclass(frozen=True, slots=True)
class OfferedPath:
    """One file or directory on this disk, whatever path it was asked for under (`ports.Share`)."""

    path: str

    def open(self, path: str) -> SourceFile:  # noqa: ARG002
        parent, name = os.path.split(os.path.abspath(self.path))
        return DirectoryShare(parent).open(name)

    def read_small(
        self,
        directory: str,  # noqa: ARG002
        names: Sequence[str],
        largest_bytes: int,
    ) -> Iterator[SmallFile | RefusalReason]:
        parent, name = os.path.split(os.path.abspath(self.path))
        return DirectoryShare(parent).read_small("", [name] * len(names), largest_bytes)

    def list(self, path: str, cursor: str | None, limit: int) -> ListingPage:  # noqa: ARG002
        return DirectoryShare(self.path).list("", cursor, limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferedShares:
    """Shares that a program decides on itself, instead of those on disk.

    `peers()` are the pinned peers now; `find(peer alias, share, path)` returns what to offer;
    `trust` has the word on what peers say of their keys.
    """

    peers: Callable[[], Mapping[str, Peer]]
    trust: Callable[[Said], Heard]
    find: Callable[[str, str, str], Share | os.PathLike[str] | None]

    def refresh(self) -> None:
        """Nothing to read: `peers` is asked each time."""

    def peer(self, site_id: bytes) -> PeerRef | None:
        now_ms = SystemClock().wall_ms()
        found = (ref_for(peer, site_id, now_ms) for peer in self.peers().values())
        return next((ref for ref in found if ref is not None), None)

    async def heed(self, statement: Said) -> Heard:
        # On the loop, as `find`: it is the program that decides, and its things are the loop's.
        return self.trust(statement)

    def share(self, peer: PeerRef, share: str, path: str) -> Share | None:
        offered = self.find(peer.alias, share, path)
        return OfferedPath(os.fspath(offered)) if isinstance(offered, os.PathLike) else offered

    def chunk_size(self, share: str) -> int:  # noqa: ARG002
        return DEFAULT_CHUNK_SIZE_BYTES


@asynccontextmanager
async def origin_worker(
    settings: Settings,
    identity: Identity,
    link: Link,
    transport: Transport,
    *,
    directory: RegistryDirectory | OfferedShares,
    frozen: Callable[[str], str] | None = None,
    log: Log = write_log,
) -> AsyncIterator[OriginWorker]:
    """A worker on an open transport; hashes under way are stopped at the end."""
    places, clock = settings.directories, SystemClock()
    pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="origin")
    manifests = Manifests(
        keys=identity.ring.keys,
        store=ManifestStore(places.manifests),
        build=build_manifest,
        pool=pool,
    )
    replays = ReplayStore(places.replays)
    answers = Answers(
        keys=identity.ring.keys,
        directory=directory,
        manifests=manifests,
        pool=pool,
        max_message_bytes=transport.limits.max_message_bytes,
        largest_chunk_bytes=link.largest_chunk_bytes,
        log=log,
        packing=Packing(clock) if link.packs else None,
    )
    try:
        yield OriginWorker(
            keys=identity,
            address=settings.site_name,
            transport=transport,
            directory=directory,
            replays=replays,
            answers=answers,
            clock=clock,
            entropy=secrets.token_bytes,
            log=log,
            requests_per_s=settings.origin.requests_per_second,
            concurrency=settings.origin.concurrency,
            quota=settings.origin.quota,
            usage=UsageStore(places.usage),
            frozen=frozen,
        )
    finally:
        await manifests.close()
        pool.shutdown(wait=True)
        replays.close()
