"""An origin worker: takes requests from its mailbox, judges them, answers, acknowledges.

A pool is any number of these, in any number of processes and hosts, on one mailbox. They share
nothing but the manifest and the replay store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from time import gmtime, strftime
from typing import Final

from chunkq.errors import (
    PacketError,
    Replayed,
    SenderDistrusted,
    StorageError,
    TransportError,
)
from chunkq.ports import (
    Clock,
    Delivery,
    Directory,
    Entropy,
    Identity,
    Log,
    Mailbox,
    PeerRef,
    ReplayRecord,
    Transport,
    Usage,
)
from chunkq.protocol.identity import SiteCard, SiteKeys
from chunkq.protocol.limits import KEY_SIZE_BYTES
from chunkq.protocol.messages import Chunks, Files, Probe, Refusal, Request, Statement
from chunkq.protocol.origin import Admitted, Gate
from chunkq.protocol.priority import Priority
from chunkq.protocol.quota import Account, Quota, asked_bytes, busy, counts_for_the_day
from chunkq.protocol.seal import ReplySealer
from chunkq.runtime.answers import Answers
from chunkq.runtime.drops import Drops
from chunkq.runtime.identity import identity_of
from chunkq.runtime.inbox import Inbox
from chunkq.runtime.outflow import Outflow
from chunkq.runtime.replies import Replies
from chunkq.runtime.served import Served
from chunkq.runtime.slots import Slots
from chunkq.runtime.statements import Statements
from chunkq.runtime.tasks import Tasks

#: Requests taken from the queue and not finished: what a killed worker holds up for a while.
PREFETCH: Final = 256
#: Above so many the oldest are acknowledged before they are answered. A requester has fewer under
#: way, so this happens where somebody floods the queue.
CROWDED: Final = PREFETCH // 2
#: Packets judged before others get their turn on the loop: some milliseconds' worth.
TAKEN_IN_ONE_GO: Final = 32
#: Requests for chunks worked on at once: one reads and seals while the other is being sent.
CHUNK_REQUESTS: Final = 2
#: A peer that is frozen here asks again after this: it is done for a while, and thawing is seen.
FROZEN_RETRY_MS: Final = 5000
#: How long a stopping worker may take to finish the requests it has; service managers wait 90 s.
DRAIN_S: Final = 20.0


class OriginWorker:
    """Serves one mailbox on one transport until cancelled; `drain` lets it finish what it has."""

    def __init__(
        self,
        *,
        keys: SiteKeys | Identity,
        address: str,
        transport: Transport,
        directory: Directory,
        replays: ReplayRecord,
        answers: Answers,
        clock: Clock,
        entropy: Entropy,
        log: Log,
        requests_per_s: float,
        concurrency: int,
        quota: Quota | None = None,
        usage: Usage | None = None,
        frozen: Callable[[str], str] | None = None,
    ) -> None:
        """`quota`: of each peer of which nothing else is said; `requests_per_s` and the defaults.

        `usage`: what remembers how much each peer was sent; without it there is no such limit.
        `frozen`: what a peer, by its alias, is told that is to come back later; empty: nothing.
        """
        self._identity = identity = identity_of(keys)
        self._statements = Statements(identity=identity, directory=directory, log=log)
        self._mailbox = Mailbox("req", address)
        self._transport = transport
        self._directory = directory
        self._replays = replays
        self._answers = answers
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._quota = quota or Quota(requests_per_s=requests_per_s)
        self._usage = usage
        self._frozen = frozen or (lambda _: "")
        #: What became of packets, and of peers' requests, since the start.
        self.drops = Drops(log, clock)
        self.served = Served()
        #: Those that packets of one batch are from; looked up again for the next.
        self._peers: dict[bytes, PeerRef | None] = {}
        self._gate = Gate(
            keys=identity.ring.keys,
            peer=self._card_of,
            seen=replays.seen,
            requests_per_s=requests_per_s,
            holder=self._holder,
            account=self._account,
            quota=self._quota_of,
        )
        self._slots = Slots(concurrency)
        self._chunk_slots = Slots(CHUNK_REQUESTS)
        self._outflow = Outflow()
        self._tasks = Tasks(self._on_crash)
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._inbox: Inbox | None = None

    @property
    def mailbox(self) -> Mailbox:
        """Where requests come from."""
        return self._mailbox

    @property
    def transport(self) -> Transport:
        return self._transport

    async def run(self, on_ready: Callable[[], None] | None = None) -> None:
        """Serve; `on_ready` hears when requests are taken.

        Ends only by an error that starting again would not mend, by cancellation, or before it was
        ready by `BrokerUnreachable`.
        """
        consumer = await self._transport.consume(self._mailbox, prefetch=PREFETCH)
        inbox = self._inbox = Inbox(consumer)
        self._log("serving", mailbox=str(self._mailbox))
        if on_ready is not None:
            on_ready()
        receiving = asyncio.ensure_future(self._receive(inbox))
        try:
            await asyncio.wait((receiving, self._failed), return_when=asyncio.FIRST_COMPLETED)
            for future in (receiving, self._failed):
                if future.done():
                    future.result()
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
            await self._finish()
            self.drops.flush()
            await inbox.close()
            self._failed.cancel()

    async def _finish(self) -> None:
        """Let what has begun come to its end, for a bounded time."""
        try:
            async with asyncio.timeout(DRAIN_S):
                await self._tasks.drain()
        except TimeoutError:  # the carrier takes nothing; what is not acknowledged comes again
            await self._tasks.cancel()

    async def _receive(self, inbox: Inbox) -> None:
        while True:
            if len(inbox) > CROWDED:
                # All of them are recorded, and none would be acted upon a second time here. Were
                # they kept, one slow answer would hold up what others have in the queue behind.
                inbox.let_go()
            deliveries = await inbox.receive()
            try:
                self._peers.clear()
                self._statements.refresh()
                self._directory.refresh()
            except StorageError as error:
                self._log("directory_unreadable", level="error", detail=error.message)
            for number, delivery in enumerate(deliveries, 1):
                self._take(inbox, delivery)
                if not number % TAKEN_IN_ONE_GO:
                    await asyncio.sleep(0)

    def _take(self, inbox: Inbox, delivery: Delivery) -> None:
        """One packet, through all checks; what passes them waits for its turn."""
        try:
            admitted = self._gate.admit(
                delivery.body, self._clock.monotonic_s(), self._clock.wall_ms()
            )
            header = admitted.raw.header
            if admitted.recordable and not self._replays.record(header.sender, header.request_id):
                raise Replayed("another worker took it")
            body = self._gate.decode(admitted)
        except PacketError as error:
            self.drops(error.code, error.message)
        except StorageError as error:  # no replay record, no act: the requester asks again
            self._log("request_not_recorded", level="error", detail=error.message)
        else:
            if admitted.account is not None:
                admitted.account.pending += 1
            self._tasks.spawn(self._handle(inbox, delivery, admitted, body))
            return
        inbox.done(delivery)

    async def _handle(
        self, inbox: Inbox, delivery: Delivery, admitted: Admitted, body: Request
    ) -> None:
        """One request that was recorded, to the acknowledgement."""
        try:
            peer = self._directory.peer(admitted.raw.header.sender)
            if isinstance(body, Statement) and admitted.refusal is None:
                peer = await self._statements.heed(admitted, body)
            if peer is not None:
                await self._account_for(peer, admitted, body)
        except PacketError as error:
            self.drops(error.code, error.message)
        except StorageError as error:
            self._log("request_not_recorded", level="error", detail=error.message)
        except TransportError as error:
            self._log("reply_undeliverable", level="warning", detail=error.message)
        finally:
            if admitted.account is not None:
                admitted.account.pending -= 1
        inbox.done(delivery)

    async def _account_for(self, peer: PeerRef, admitted: Admitted, body: Request) -> None:
        """Answer it within the peer's quota, or say that it is used up, or the peer is frozen."""
        if admitted.refusal is None and (detail := self._frozen(peer.alias)):
            admitted = replace(admitted, refusal=busy(detail, FROZEN_RETRY_MS))
        account, name = admitted.account, self._account(admitted.raw.header.sender)
        if account is None or admitted.refusal is not None:
            await self._answer(peer, admitted, body, name)
            return
        size = asked_bytes(body)
        refusal = account.take_bytes(size) or self._take_of_day(account.quota, name, size, body)
        if refusal is not None:
            await self._answer(peer, replace(admitted, refusal=refusal), body, name)
            return
        with account.sending(size):
            sent = size  # if it fails, some of it may have been sent
            try:
                sent = await self._answer(peer, admitted, body, name)
            finally:
                if self._usage is not None and counts_for_the_day(body):
                    await self._settle(self._usage, name, size, sent)

    def _take_of_day(self, quota: Quota, name: bytes, size: int, body: Request) -> Refusal | None:
        if self._usage is None or not counts_for_the_day(body):
            return None
        wait_ms = self._usage.take(name, size, quota.bytes_per_day)
        if not wait_ms:
            return None
        again = strftime("%Y-%m-%d %H:%M", gmtime((self._clock.wall_ms() + wait_ms) // 1000))
        return busy(f"{quota.bytes_per_day} bytes a day are used up until {again} UTC", wait_ms)

    async def _settle(self, usage: Usage, name: bytes, counted: int, sent: int) -> None:
        if usage.settle(name, sent - counted, sent):
            await asyncio.to_thread(usage.sync, name)

    async def _answer(
        self, peer: PeerRef, admitted: Admitted, body: Request, account: bytes
    ) -> int:
        """Returns how many bytes of content were sent."""
        keys = self._gate.keys_of(admitted.raw)
        sealer = ReplySealer(
            raw=admitted.raw, keys=keys, ephemeral_secret=self._entropy(KEY_SIZE_BYTES)
        )
        to = Mailbox("rep", peer.address, body.instance)
        priority = Priority.of(body.priority)
        counts = self.served.of(peer.alias)
        counts.requests += 1
        counts.heard_ms = self._clock.wall_ms()
        replies = Replies(
            self._transport,
            to,
            sealer,
            admitted.raw.header.request_id,
            self._outflow,
            priority=priority,
            keys=keys if self._identity.ring.succession is not None else None,
            account=account,
            most_hashes=(admitted.account or Account(self._quota)).quota.pending_hashes,
        )
        try:
            if await self._statements.answer(peer, admitted, body, replies):
                pass  # that was all
            elif admitted.refusal is not None:
                await replies.refuse(admitted.refusal)
            elif isinstance(body, Chunks | Files | Probe):
                chunk_slot = self._chunk_slots.taken(priority, account)
                async with chunk_slot, self._slots.taken(priority, account):
                    await self._answers.act(peer, body, replies)
            else:
                async with self._slots.taken(priority, account):
                    await self._answers.act(peer, body, replies)
            # No slot is held meanwhile: where the broker is far, its word takes a round trip.
            await replies.finish()
        finally:
            counts.sent_bytes += replies.content_bytes
            if replies.refused is not None:
                counts.refusals[replies.refused] += 1
            await replies.abort()
        return replies.content_bytes

    def _peer(self, site_id: bytes) -> PeerRef | None:
        if site_id not in self._peers:
            if len(self._peers) >= PREFETCH:
                self._peers.clear()
            self._peers[site_id] = self._directory.peer(site_id)
        return self._peers[site_id]

    def _card_of(self, site_id: bytes) -> SiteCard | None:
        peer = self._peer(site_id)
        if peer is None:
            return None
        if peer.distrust:
            raise SenderDistrusted(f"{peer.alias} is not trusted: {peer.distrust}")
        return peer.card_of(site_id)

    def _account(self, site_id: bytes) -> bytes:
        """All keys of a peer go on the account of its first."""
        peer = self._peer(site_id)
        return (peer.first_id if peer is not None else b"") or site_id

    def _quota_of(self, site_id: bytes) -> Quota:
        peer = self._peer(site_id)
        return self._quota if peer is None else peer.quota.over(self._quota)

    def _holder(self, site_id: bytes) -> SiteKeys | None:
        return self._identity.ring.holder(site_id, self._clock.wall_ms())

    def _on_crash(self, error: Exception) -> None:
        """A fault of ours (or a fatal one of the broker): end, so that the supervisor sees it."""
        if not self._failed.done():
            self._failed.set_exception(error)
