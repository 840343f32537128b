"""The only place that chooses and stacks adapters: settings in, running parts out."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

from chunkq.errors import StorageError
from chunkq.ports import (
    Clock,
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
from chunkq.protocol.identity import SiteCard
from chunkq.protocol.limits import (
    DEFAULT_CHUNK_SIZE_BYTES,
    KEY_SIZE_BYTES,
    MAX_WINDOW_BYTES,
    MIB,
)
from chunkq.protocol.messages import RefusalReason
from chunkq.protocol.succession import Said
from chunkq.runtime.answers import Answers
from chunkq.runtime.asking import Order, Place
from chunkq.runtime.disk import DiskShares
from chunkq.runtime.fetch import FileFetch
from chunkq.runtime.manifests import Manifests
from chunkq.runtime.origin import OriginWorker
from chunkq.runtime.packing import Packing
from chunkq.runtime.peer import PeerLink, Requester
from chunkq.runtime.slots import Slots
from chunkq.settings import Link, Peer, Registry, Settings
from chunkq.settings.trust import millis
from chunkq.storage.destination import Destination
from chunkq.storage.hashing import build_manifest
from chunkq.storage.instances import Instance, claim_instance
from chunkq.storage.kept import KeptManifests
from chunkq.storage.keys import KeyFile, change_ring
from chunkq.storage.manifests import ManifestStore
from chunkq.storage.mapping import storage_errors
from chunkq.storage.mending import Mend, open_mending
from chunkq.storage.places import Places
from chunkq.storage.receipts import FileRecord
from chunkq.storage.received import ReceivedLog
from chunkq.storage.replays import ReplayStore
from chunkq.storage.room import Floor
from chunkq.storage.source import DirectoryShare
from chunkq.storage.staged import StagedFile, open_staged
from chunkq.storage.statefile import StateHeader
from chunkq.storage.transferid import mending_id, transfer_id
from chunkq.storage.usage import UsageStore
from chunkq.telemetry.logs import write as write_log
from chunkq.telemetry.malloc import keep_buffers
from chunkq.telemetry.openfiles import allow_open_files
from chunkq.transport.limited import ByteRate, LimitedTransport

#: Threads of a process: hashing, sealing, writing. Two cores are fed by twice as many.
POOL_THREADS: Final = 4
#: A spool is its owner's, or a group's whose new files stay the group's.
PRIVATE_SPOOL_MODE: Final = 0o700
SHARED_SPOOL_MODE: Final = 0o2770
#: Bytes taken from a broker's socket and not yet by the runtime, which has a backlog of its own.
WAITING_BYTES: Final = 4 * MIB
#: A commit group and a window of chunks may be unacknowledged at once, and some more in between.
REPLY_PREFETCH: Final = 4 * MAX_WINDOW_BYTES // DEFAULT_CHUNK_SIZE_BYTES


class SystemClock:
    """The clocks of this machine."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


# ---------------------------------------------------------------- transports


def make_transport(link: Link, site: str, clock: Clock) -> Transport:
    """The transport of a link at its rate, not yet open. `site`: what this site is called on it."""
    carrier = _make_carrier(link, site, clock)
    if link.slowest_rate_bytes_per_s is None:
        return carrier
    return LimitedTransport(
        carrier,
        clock,
        send=ByteRate.of(link.send_rate_bytes_per_s, link.burst_bytes),
        receive=ByteRate.of(link.receive_rate_bytes_per_s, link.burst_bytes),
    )


async def close_link(link: Link, transport: Transport, log: Log) -> None:
    """Close its transport and log what it has moved."""
    await transport.close()
    moved = transport.traffic
    counters = {"sent_bytes": moved.sent_bytes, "received_bytes": moved.received_bytes}
    log("link_closed", link=link.name, counters=counters)


def _make_carrier(link: Link, site: str, clock: Clock) -> Transport:
    if link.transport == "spool":
        from chunkq.transport.spool import SpoolOptions, SpoolTransport

        options = SpoolOptions(
            root=link.spool_path,
            site=site,
            max_message_bytes=link.max_message_bytes,
            dir_mode=SHARED_SPOOL_MODE if link.shared_group else PRIVATE_SPOOL_MODE,
        )
        return SpoolTransport(options, clock)
    from chunkq.transport.rabbitmq import RabbitMQOptions, RabbitMQTransport, frame_max_for

    return RabbitMQTransport(
        RabbitMQOptions(
            url=link.url,
            site=site,
            waiting_bytes=WAITING_BYTES,
            max_message_bytes=link.max_message_bytes,
            frame_max=frame_max_for(link.slowest_rate_bytes_per_s),
            tls_ca=_text(link.ca),
            tls_cert=_text(link.cert),
            tls_key=_text(link.key),
            external=link.external,
            by_policy=link.by_policy,
        )
    )


def _text(path: os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def ref_of(peer: Peer) -> PeerRef:
    earlier = peer.earlier
    return PeerRef(
        peer.alias,
        peer.card,
        peer.address,
        earlier=tuple(each.card for each in earlier if each.until_ms),
        first_id=(earlier[-1].card if earlier else peer.card).site_id,
        pinned_ms=millis(peer.added_at),
        distrust=peer.detail if peer.trouble else "",
        quota=peer.quota,
    )


def ref_for(peer: Peer, site_id: bytes, now_ms: int) -> PeerRef | None:
    """The peer as the sender of a request by that key; None where the key counts no more."""
    counts = site_id == peer.card.site_id or any(
        each.card.site_id == site_id and now_ms < each.until_ms for each in peer.earlier
    )
    return ref_of(peer) if counts else None


# ---------------------------------------------------------------- origin


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

    def heed(self, statement: Said) -> Heard:
        return self._trust(statement)

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

    def heed(self, statement: Said) -> Heard:
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
        )
    finally:
        await manifests.close()
        pool.shutdown(wait=True)
        replays.close()


# ---------------------------------------------------------------- requester


class Fetcher:
    """This site as a requester: one reply mailbox a link, made when first needed."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        *,
        heed: Callable[[Said], Heard] | None = None,
        log: Log = write_log,
    ) -> None:
        """`heed`: where what peers say of their keys has its effect."""
        self.settings = settings
        self.identity = identity
        self.heed = heed
        self.clock = SystemClock()
        self.log = log
        self.places = Places(settings.directories.state)
        self.received = ReceivedLog(settings.directories.state)
        self.kept = KeptManifests(settings.directories.state)
        self.pool = ThreadPoolExecutor(POOL_THREADS, thread_name_prefix="requester")
        self._stack = ExitStack()
        #: What ends each link, and its requester.
        self._requesters: dict[str, tuple[AsyncExitStack, Requester]] = {}
        self._peers: dict[tuple[str, str], PeerLink] = {}
        self._instance: Instance | None = None
        self._opening = asyncio.Lock()
        self._opened: Transport | None = None
        self._disk = DiskShares()
        self._turns: dict[str, Slots] = {}
        self.floor = Floor(settings.requester.disk_floor_bytes)

    def turns(self, peer: Peer) -> Slots:
        """Where the transfers from a peer wait until one of them has ended, if there are many."""
        most = peer.quota.pending_transfers or self.settings.requester.pending_transfers
        turns = self._turns.setdefault(peer.alias, Slots(most))
        turns.count = most
        return turns

    async def peer(self, peer: Peer) -> PeerLink:
        """The way to a peer; opens its link. Raises `BrokerUnreachable`, `BrokerRefused`."""
        ref = ref_of(peer)
        async with self._opening:
            await self._drop_failed(peer.link)
            known = self._peers.get((peer.alias, peer.link))
            if known is not None:
                known.use_newest_keys()
                if known.ref.card in ref.earlier:  # another process followed its succession
                    known.ref = ref
            if known is None or known.ref != ref:  # it may have been pinned anew meanwhile
                link = self.settings.links[peer.link]
                requester = await self._requester(link)
                known = self._peers[peer.alias, peer.link] = PeerLink(
                    requester,
                    ref,
                    lifetime_s=link.request_lifetime_s,
                    largest_chunk_bytes=link.largest_chunk_bytes,
                    zstd=link.packs,
                )
            return known

    @property
    def transports(self) -> list[Transport]:
        return [requester.transport for _, requester in self._requesters.values()]

    @property
    def opening(self) -> Transport | None:
        """The transport that is being opened now."""
        return self._opened

    def file(
        self,
        places: Sequence[Place],
        order: Order,
        destination: Destination,
        parts: tuple[str, ...],
        *,
        named: Peer,
        on_resume: Callable[[int, int], None] | None = None,
        mend: Mend | None = None,
    ) -> FileFetch:
        """The transfer of one file to `parts` below `destination`, from all `places`.

        `named`: the peer that `order` is about. Staging is called after it, be it reached or not,
        and after the first keys it was pinned with, so that it is found again when they changed.
        `mend`: begin with what is right of the file that is there.
        """
        first, *mirrors = places
        instance = first.peer.requester.instance
        origin = ref_of(named).first_id

        def header() -> StateHeader:
            return StateHeader(
                ephemeral=secrets.token_bytes(KEY_SIZE_BYTES),
                instance=instance,
                site=named.alias,
                share=order.share,
                path=order.path,
                created_ms=self.clock.wall_ms(),
            )

        def open_staging() -> StagedFile:
            if mend is not None:
                name = mending_id(origin, order.share, order.path, parts, mend.content_digest)
                return open_mending(destination, parts, name, header(), mend)
            name = transfer_id(origin, order.share, order.path, parts)
            return open_staged(destination, parts, name, header())

        return FileFetch(
            first.peer,
            replace(order, share=first.share, path=first.path),
            open_staging=open_staging,
            pool=self.pool,
            on_resume=on_resume,
            mirrors=mirrors,
            record=FileRecord(
                self.kept,
                self.received,
                path=destination.path_of(parts),
                source=f"{named.alias}:{order.share}/{order.path}",
                wall_ms=self.clock.wall_ms,
                log=self.log,
            ),
            disk=(self._disk, self._disk_limit_bytes(named)),
        )

    def _disk_limit_bytes(self, peer: Peer) -> int:
        own = peer.quota.disk_bytes
        return self.settings.requester.disk_per_peer_bytes if own is None else own

    async def close(self) -> None:
        while self._requesters:
            _, (stack, _) = self._requesters.popitem()
            await stack.aclose()
        self._stack.close()
        self.pool.shutdown(wait=True)
        if self._instance is not None:
            self._instance.close()

    async def _drop_failed(self, name: str) -> None:
        """A link that ended for good is opened anew: somebody may have seen to it meanwhile."""
        if name in self._requesters and self._requesters[name][1].failed.done():
            stack, _ = self._requesters.pop(name)
            self._peers = {key: peer for key, peer in self._peers.items() if key[1] != name}
            await stack.aclose()

    async def _requester(self, link: Link) -> Requester:
        if link.name in self._requesters:
            return self._requesters[link.name][1]
        if self._instance is None:
            self._instance = claim_instance(self.settings.directories.state, None)
        site = self.settings.site_name
        transport = make_transport(link, site, self.clock)
        self._opened = transport
        try:
            async with AsyncExitStack() as opening:
                opening.push_async_callback(close_link, link, transport, self.log)
                await transport.open()
                requester = Requester(
                    keys=self.identity,
                    heed=self.heed,
                    site=site,
                    instance=self._instance.label,
                    next_instance=self._next_instance,
                    transport=transport,
                    clock=self.clock,
                    entropy=secrets.token_bytes,
                    log=self.log,
                )
                opening.push_async_callback(requester.close)
                await requester.start(REPLY_PREFETCH)
                self._requesters[link.name] = opening.pop_all(), requester
        finally:
            self._opened = None
        return requester

    def _next_instance(self) -> str:
        """One more label, this process's own until its end."""
        claimed = claim_instance(self.settings.directories.state)
        self._stack.callback(claimed.close)
        return claimed.label


# ---------------------------------------------------------------- both


def load_identity(settings: Settings) -> KeyFile:
    """The keys of this site; those whose time is over are erased. Raises `IdentityError`."""
    path = settings.directories.keys_file
    now_ms = SystemClock().wall_ms()
    found = KeyFile(path)
    if found.ring.pruned(now_ms) is not found.ring:
        with suppress(StorageError):  # not writable for this process; they count no more anyway
            change_ring(path, lambda ring: ring.pruned(now_ms))
        found.refresh()
    return found


def prepare_process() -> None:
    """What every process that moves data does first."""
    keep_buffers()
    allow_open_files()


def make_own_spool(settings: Settings) -> None:
    """Create the spool in the state directory if a link leads to it. Raises `StorageError`.

    Only that one: another directory may be a stick that is not plugged in.
    """
    spool = settings.directories.spool
    links = settings.links.values()
    if any(link.transport == "spool" and link.spool_path == spool for link in links):
        with storage_errors("mkdir", str(spool)):
            spool.mkdir(parents=True, exist_ok=True, mode=PRIVATE_SPOOL_MODE)


__all__ = [
    "Fetcher",
    "OfferedShares",
    "RegistryDirectory",
    "SiteCard",
    "SystemClock",
    "close_link",
    "load_identity",
    "make_own_spool",
    "make_transport",
    "origin_worker",
    "prepare_process",
    "ref_of",
    "write_log",
]
