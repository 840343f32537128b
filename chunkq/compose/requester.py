"""This site as a requester: its links, its mailboxes, its transfers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from dataclasses import replace
from typing import Final

from chunkq.compose.clock import SystemClock
from chunkq.compose.links import close_link, make_transport
from chunkq.compose.peers import ref_of
from chunkq.compose.process import POOL_THREADS
from chunkq.ports import (
    Heard,
    Identity,
    Log,
    Transport,
)
from chunkq.protocol.limits import (
    DEFAULT_CHUNK_SIZE_BYTES,
    KEY_SIZE_BYTES,
    MAX_WINDOW_BYTES,
)
from chunkq.protocol.succession import Said
from chunkq.runtime.asking import Order, Place
from chunkq.runtime.disk import DiskShares
from chunkq.runtime.fetch import FileFetch
from chunkq.runtime.peer import PeerLink, Requester
from chunkq.runtime.slots import Slots
from chunkq.settings import Link, Peer, Settings
from chunkq.storage.destination import Destination
from chunkq.storage.instances import Instance, claim_instance
from chunkq.storage.kept import KeptManifests
from chunkq.storage.mending import Mend, open_mending
from chunkq.storage.places import Places
from chunkq.storage.receipts import FileRecord
from chunkq.storage.received import ReceivedLog
from chunkq.storage.room import Floor
from chunkq.storage.staged import StagedFile, open_staged
from chunkq.storage.statefile import StateHeader
from chunkq.storage.transferid import mending_id, transfer_id
from chunkq.telemetry.logs import write as write_log

#: A commit group and a window of chunks may be unacknowledged at once, and some more in between.
REPLY_PREFETCH: Final = 4 * MAX_WINDOW_BYTES // DEFAULT_CHUNK_SIZE_BYTES


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
        #: Takes requests that come to a mailbox for replies.
        self.commanded: Callable[[bytes], None] | None = None
        self._opened: tuple[Link, Transport] | None = None
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
    def requesters(self) -> list[Requester]:
        return [requester for _, requester in self._requesters.values()]

    @property
    def peers(self) -> list[PeerLink]:
        """The ways to peers that are open, one for each."""
        return list(self._peers.values())

    @property
    def opening(self) -> Transport | None:
        """The transport that is being opened now."""
        return None if self._opened is None else self._opened[1]

    def ends(self) -> Iterator[tuple[Link, Transport]]:
        """The transports that are open, or being opened."""
        for name, (_, requester) in self._requesters.items():
            yield self.settings.links[name], requester.transport
        if self._opened is not None:
            yield self._opened

    @property
    def instance(self) -> str:
        """What this process's mailbox for replies is called first. Raises `StorageError`."""
        if self._instance is None:
            self._instance = claim_instance(self.settings.directories.state, None)
        return self._instance.label

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
        instance, site = self._instance_on(link), self.settings.site_name
        transport = make_transport(link, site, self.clock)
        self._opened = link, transport
        try:
            async with AsyncExitStack() as opening:
                opening.push_async_callback(close_link, link, transport, self.log)
                await transport.open()
                requester = Requester(
                    keys=self.identity,
                    heed=self.heed,
                    site=site,
                    instance=instance,
                    next_instance=self._next_instance,
                    transport=transport,
                    clock=self.clock,
                    entropy=secrets.token_bytes,
                    log=self.log,
                )
                requester.commanded = self.commanded
                opening.push_async_callback(requester.close)
                await requester.start(REPLY_PREFETCH)
                self._requesters[link.name] = opening.pop_all(), requester
        finally:
            self._opened = None
        return requester

    def _instance_on(self, link: Link) -> str:
        """Whose mailbox a link has: two links to one place, as a slow one, would share one."""
        links = self.settings.links
        taken = any(links[name].url == link.url for name in self._requesters)
        return self._next_instance() if taken else self.instance

    def _next_instance(self) -> str:
        """One more label, this process's own until its end."""
        claimed = claim_instance(self.settings.directories.state)
        self._stack.callback(claimed.close)
        return claimed.label
