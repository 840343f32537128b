"""A requester's end of one link, and its way to one origin on it.

`Requester` owns the reply mailbox and gives each reply to whoever asked; `PeerLink` seals and
sends requests to one origin and holds what all transfers from it share: the window and the
difference of the clocks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from chunkq.errors import BrokerUnreachable, MailboxAway, PacketError, TransportError
from chunkq.ports import (
    Clock,
    Delivery,
    Entropy,
    Heard,
    Identity,
    Log,
    Mailbox,
    PeerRef,
    Transport,
)
from chunkq.protocol import cbor
from chunkq.protocol.bucket import TokenBucket
from chunkq.protocol.compression import Appetite
from chunkq.protocol.identity import SiteCard, SiteKeys
from chunkq.protocol.limits import KEY_SIZE_BYTES, MAX_WINDOW_BYTES, MIB
from chunkq.protocol.messages import Receipt, Refusal, RefusalReason, Request
from chunkq.protocol.packet import (
    REQUEST_MAGIC,
    RawReply,
    ReplyHeader,
    RequestId,
    RequestKind,
    Suite,
    parse_reply,
)
from chunkq.protocol.priority import Priority
from chunkq.protocol.seal import ReplyOpener, has_aes, seal_request
from chunkq.protocol.signers import Signers
from chunkq.protocol.succession import Said
from chunkq.protocol.window import Window
from chunkq.protocol.yielding import yielding
from chunkq.runtime.epochs import LAST_EPOCH, MAX_NEW_EPOCHS, Epochs
from chunkq.runtime.identity import identity_of
from chunkq.runtime.inbox import Inbox
from chunkq.runtime.newest import Newest
from chunkq.runtime.pages import Pages
from chunkq.runtime.skew import Skew
from chunkq.runtime.tasks import Tasks
from chunkq.runtime.telling import introduce

#: Requests whose replies are still known by name; later ones of older requests are dropped.
MAX_PENDING: Final = 4096
#: Ephemerals (workers that answer) kept for one request; a forger's would push out the oldest.
MAX_OPENERS: Final = 4
#: Keys of transfers tried a second on replies to requests of no process known, all together: a
#: fifth of a core (0.2 ms each), however many replies somebody makes up. At once, as after a start:
#: a window of chunks that were asked for one by one, on eight transfers.
TRIES_PER_S: Final = 1000
TRIES_BURST: Final = 10_000
#: Bytes of chunks taken from the carrier and not yet written; above it no more are taken, so that a
#: slow disk slows the carrier down instead of filling memory.
MAX_BACKLOG_BYTES: Final = 6 * MIB
#: A loop that is later than this was held up, by a busy machine or by work of ours; what came in
#: the meantime is taken in about as long again.
HELD_UP_S: Final = 0.1
HELD_UP_FACTOR: Final = 2.0
#: Mailboxes that are tried one after the other; one that is new is made where there is a broker.
MAX_MAILBOXES: Final = 16
#: How long a requester that ends waits for the carrier to take its last packets.
LAST_WORDS_S: Final = 1.0


@dataclass(slots=True)
class Asked:
    """A request under way: what opens its replies, and who takes them."""

    peer: PeerLink
    request_id: RequestId
    #: Which of our keys signed it, and which of the peer's it is sealed to.
    sender: bytes
    recipient: SiteCard
    ephemeral: bytes
    handler: ReplyHandler
    token: int
    version: int = 0
    clock_offset_ms: int = 0
    openers: OrderedDict[tuple[bytes, Suite], ReplyOpener] = field(default_factory=OrderedDict)

    def open(self, raw: RawReply, size: int | None = None) -> bytes:
        """The body of a reply, which has `size` bytes if it is packed and that is known.

        Raises `BadSeal`, `BadFrame`. May be called from any one thread at a time.
        """
        body = self._opener(raw.header).open(raw, size)
        self.peer.answered(self.sender)
        return body

    def open_into(self, raw: RawReply, room: memoryview) -> None:
        """As `open`, into `room`, which is as long as the body (`raw.body_size`)."""
        self._opener(raw.header).open_into(raw, room)
        self.peer.answered(self.sender)

    def _opener(self, header: ReplyHeader) -> ReplyOpener:
        which = (header.ephemeral, header.suite)
        opener = self.openers.get(which)
        if opener is None:
            opener = ReplyOpener(
                header=header,
                sender=self.sender,
                recipient=self.recipient,
                ephemeral_secret=self.ephemeral,
            )
            self.openers[which] = opener
            while len(self.openers) > MAX_OPENERS:
                self.openers.popitem(last=False)
        return opener


class ReplyHandler(Protocol):
    """Takes a reply; gives the delivery back through `Requester.done` in the end."""

    def __call__(self, asked: Asked, raw: RawReply, delivery: Delivery, /) -> None: ...


class Requester:
    """One reply mailbox on one link. `instance` names it; it outlives this process.

    Where it is held by a node of a cluster that is lost, the next one is used: what is asked from
    then on is answered there.
    """

    def __init__(
        self,
        *,
        keys: SiteKeys | Identity,
        site: str,
        instance: str,
        transport: Transport,
        clock: Clock,
        entropy: Entropy,
        log: Log,
        heed: Callable[[Said], Heard] | None = None,
        next_instance: Callable[[], str] | None = None,
    ) -> None:
        """`heed`: what a peer says of its keys has its effect; without it, it has none.

        `next_instance`: another label, for when the mailbox is lost; without it, that is the end.
        """
        self.identity = identity_of(keys)
        self.heed = heed
        self._next_instance = next_instance
        self._prefetch = 1
        self.instance = instance
        self.transport = transport
        self.clock = clock
        self.entropy = entropy
        self.log = log
        self.mailbox = Mailbox("rep", site, instance)
        self.pages = Pages()
        #: Replies that were of no use, by code, since the start.
        self.drops: Counter[str] = Counter()
        #: Takes a request that came here: only this site itself may have one.
        self.commanded: Callable[[bytes], None] | None = None
        self.adopters: list[Callable[[RawReply], Asked | None]] = []
        self._inbox: Inbox | None = None
        self._late: ReplyHandler = lambda _, __, delivery: self.done(delivery)
        self._pending: Newest[RequestId, Asked] = Newest(MAX_PENDING)
        #: Requests that no transfer asked; kept apart, so that made up ones push out no real one.
        self._unknown: Newest[RequestId, None] = Newest(MAX_PENDING)
        self._tries = TokenBucket(TRIES_PER_S, TRIES_BURST)
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks = Tasks(self._on_error)
        self._sending: set[asyncio.Task[None]] = set()
        self._backlog_bytes = 0
        self._appetite = Appetite()
        self._backlog_low = asyncio.Event()
        self._backlog_low.set()
        self._deaf_s = 0.0
        self._deaf_since: float | None = None
        self.epochs = Epochs(clock, entropy)

    async def start(self, prefetch: int) -> None:
        """Begin to take replies, at most `prefetch` unfinished."""
        self._prefetch = prefetch
        await self._open_inbox()
        self._tasks.spawn(self._receive())

    async def _open_inbox(self) -> None:
        """Raises `MailboxAway` if no mailbox can be had."""
        for left in reversed(range(MAX_MAILBOXES)):
            try:
                consumer = await self.transport.consume(self.mailbox, prefetch=self._prefetch)
            except MailboxAway as error:
                if self._next_instance is None or not left:
                    raise
                self._move(error, self._next_instance())
            else:
                self._inbox = Inbox(consumer)
                return

    async def _reopen_inbox(self) -> None:
        """As `_open_inbox`, for as long as it takes: the transport's health says why."""
        while True:
            try:
                return await self._open_inbox()
            except MailboxAway:
                raise
            except BrokerUnreachable as error:
                self.log("broker_unreachable", level="warning", detail=error.message)

    def _move(self, error: MailboxAway, instance: str) -> None:
        self.log("mailbox_away", level="warning", mailbox=str(self.mailbox), detail=error.message)
        self.instance = instance
        self.mailbox = Mailbox("rep", self.mailbox.site, instance)

    async def close(self) -> None:
        """End; what is on its way to the carrier (receipts) gets a moment to get there."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=LAST_WORDS_S)
        await self._tasks.cancel()
        if self._inbox is not None:
            await self._inbox.close()
        if self._failed.done():
            self._failed.exception()
        else:
            self._failed.cancel()

    @property
    def failed(self) -> asyncio.Future[None]:
        """Resolves with the error that ended this link for good."""
        return self._failed

    def done(self, *deliveries: Delivery) -> None:
        assert self._inbox is not None
        self._inbox.done(*deliveries)

    def drop(self, code: str, *, level: str = "warning") -> None:
        """A reply is of no use."""
        self.drops[code] += 1
        self.log("reply_dropped", level=level, code=code)

    def landed(self, size_bytes: int) -> None:
        """So many bytes are in memory until they are `written`."""
        if not self._backlog_bytes:
            self._appetite.backlog(size_bytes, self.clock.monotonic_s())
        self._backlog_bytes += size_bytes
        if self._backlog_bytes > MAX_BACKLOG_BYTES and self._deaf_since is None:
            self._backlog_low.clear()
            self._deaf_since = self.clock.monotonic_s()

    def written(self, size_bytes: int) -> None:
        self._backlog_bytes -= size_bytes
        if not self._backlog_bytes:
            self._appetite.backlog(0, self.clock.monotonic_s())
        if self._backlog_bytes <= MAX_BACKLOG_BYTES and self._deaf_since is not None:
            self._deaf_s, self._deaf_since = self.deaf_s, None
            self._backlog_low.set()

    @property
    def deaf_s(self) -> float:
        """Seconds in which no replies were taken, in all: what came meanwhile is not late."""
        if self._deaf_since is None:
            return self._deaf_s
        return self._deaf_s + self.clock.monotonic_s() - self._deaf_since

    def held_up(self, seconds: float) -> None:
        """The loop came to a timer so late: replies wait, and taking them takes its time, too."""
        if seconds > HELD_UP_S:
            self._deaf_s += HELD_UP_FACTOR * seconds

    @property
    def starving(self) -> bool:
        """Whether this end waits for the link: then it pays to unpack."""
        return self._appetite.starving(self.clock.monotonic_s())

    def expect(self, asked: Asked) -> None:
        self._pending.put(asked.request_id, asked)

    def forget(self, handler: ReplyHandler) -> None:
        """Whose it was has ended: late replies are none of its, and must not keep it in memory."""
        for asked in self._pending.values():
            if asked.handler == handler:
                asked.handler = self._late
                asked.openers.clear()

    def spawn(self, asked: Asked, packet: bytes, lifetime_s: float, failed: AskFailure) -> None:
        """Send a request in the background; `failed` hears if the carrier does not take it."""
        sending = self._tasks.spawn(self._publish(asked, packet, lifetime_s, failed))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)

    async def _publish(
        self, asked: Asked, packet: bytes, lifetime_s: float, failed: AskFailure
    ) -> None:
        try:
            await self.transport.publish(
                Mailbox("req", asked.peer.ref.address),
                packet,
                lifetime_s=lifetime_s,
                priority=Priority.CONTROL,
            )
        except TransportError as error:
            failed(asked, error)

    async def _receive(self) -> None:
        assert self._inbox is not None
        while True:
            inbox = self._inbox
            try:
                deliveries = await inbox.receive()
            except MailboxAway as error:
                if self._next_instance is None:
                    raise
                self._move(error, self._next_instance())
                await inbox.close()
                await self._reopen_inbox()
                continue
            for delivery in deliveries:
                await self._backlog_low.wait()
                try:
                    raw = parse_reply(delivery.body)
                except PacketError as error:
                    if self.commanded is not None and delivery.body.startswith(REQUEST_MAGIC):
                        self.commanded(delivery.body)
                    else:
                        self.drop(error.code)
                    inbox.done(delivery)
                    continue
                asked = self._find(raw)
                if asked is None:
                    self.drop("unasked", level="debug")
                    inbox.done(delivery)
                else:
                    asked.handler(asked, raw, delivery)

    def _find(self, raw: RawReply) -> Asked | None:
        """Who asked for this; a transfer of an earlier process may own it (its key opens it).

        Not what this process asked and has forgotten: trying every transfer's key costs 0.2 ms
        each, and a peer that was silent for long answers thousands of such requests at once.
        """
        request_id = raw.header.request_id
        if (asked := self._pending.get(request_id)) is not None:
            return asked
        if request_id.epoch in self.epochs or request_id in self._unknown:
            return None
        now_s = self.clock.monotonic_s()
        for adopt in self.adopters:
            if not self._tries.take(now_s):
                return None
            if (asked := adopt(raw)) is not None:
                self._pending.put(request_id, asked)
                return asked
        self._unknown.put(request_id, None)
        return None

    def _on_error(self, error: Exception) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)


class AskFailure(Protocol):
    def __call__(self, asked: Asked, error: TransportError, /) -> None: ...


class Hungry(Protocol):
    """Who waits for room in the window."""

    @property
    def priority(self) -> Priority: ...

    @property
    def starved(self) -> bool:
        """Whether it has nothing under way at all."""
        ...


class PeerLink:
    """The way to one origin."""

    def __init__(
        self,
        requester: Requester,
        ref: PeerRef,
        *,
        lifetime_s: float,
        largest_chunk_bytes: int,
        zstd: bool = False,
    ) -> None:
        """`zstd`: the origin may pack its replies, while this end waits for them."""
        self.requester = requester
        self.ref = ref
        self.signers = self._new_signers()
        self.lifetime_s = lifetime_s
        self.largest_chunk_bytes = largest_chunk_bytes
        self.window = Window(max_chunks=MAX_WINDOW_BYTES // largest_chunk_bytes)
        self.skew = Skew(requester.clock, requester.log, ref.alias)
        #: Requests to each origin are counted apart: one that refuses an epoch, or pushes it up,
        #: changes nothing for the others.
        self._epoch = requester.epochs.begin()
        self._epochs_left = MAX_NEW_EPOCHS
        self._counter = 0
        self.hungry: dict[Hungry, Callable[[], None]] = {}
        self._zstd = zstd
        self._suite = Suite.AES256GCM if has_aes() else Suite.XCHACHA20POLY1305
        self._feeding = False

    @property
    def clock_offset_ms(self) -> int:
        """The origin's clock minus ours, as far as it has said so."""
        return self.skew.offset_ms

    def answered(self, sender: bytes) -> None:
        """A reply to a request by that key of ours opened. On any thread."""
        self.signers.answered(sender)
        self.skew.answered()

    def ask(
        self,
        kind: RequestKind,
        body: Request,
        *,
        ephemeral: bytes,
        handler: ReplyHandler,
        failed: AskFailure,
        token: int = 0,
        version: int = 0,
    ) -> Asked:
        """Seal, sign and send a request; replies go to `handler`."""
        requester = self.requester
        if kind is RequestKind.STATEMENT:  # the newest keys tell of themselves
            keys = self.signers.ring.keys
        else:
            introduce(self)
            keys = self.signers.pick(requester.clock.monotonic_s())
        self.skew.doubt(2 * self.window.rto_s)
        issued_ms = requester.clock.wall_ms() + self.clock_offset_ms
        self._counter += 1
        request_id = RequestId(self._epoch, self._counter)
        if self._zstd and requester.starving:
            body = body.model_copy(update={"zstd": True})
        packet = seal_request(
            keys=keys,
            recipient=self.ref.card,
            ephemeral_secret=ephemeral,
            kind=kind,
            request_id=request_id,
            issued_ms=issued_ms,
            expires_ms=issued_ms + int(self.lifetime_s * 1000),
            body=cbor.encode(body),
            suite=self._suite,
        )
        offset = self.clock_offset_ms
        card = self.ref.card
        asked = Asked(
            self, request_id, keys.site_id, card, ephemeral, handler, token, version, offset
        )
        requester.expect(asked)
        requester.spawn(asked, packet, self.lifetime_s, failed)
        return asked

    def tell(self, receipt: Receipt) -> None:
        """Send a receipt; it is not answered, and nobody waits for what becomes of it."""
        self.ask(
            RequestKind.RECEIPT,
            receipt,
            ephemeral=self.requester.entropy(KEY_SIZE_BYTES),
            handler=lambda _, __, delivery: self.requester.done(delivery),
            failed=lambda _, __: None,
        )

    def adopt(self, raw: RawReply, ephemeral: bytes, handler: ReplyHandler) -> Asked | None:
        """The request behind a reply to an earlier process, if `ephemeral` opens it."""
        now_ms = self.requester.clock.wall_ms()
        for keys in self.signers.ring.counting(now_ms):
            for card in self.ref.cards:
                asked = Asked(
                    self, raw.header.request_id, keys.site_id, card, ephemeral, handler, token=0
                )
                with contextlib.suppress(PacketError):
                    asked.open(raw)
                    return asked
        return None

    def use_newest_keys(self) -> None:
        """Look whether this site's keys were changed. Raises `IdentityError`."""
        self.requester.identity.refresh()
        if self.requester.identity.ring is not self.signers.ring:
            self.signers = self._new_signers()

    def _new_signers(self) -> Signers:
        ring, now_ms = self.requester.identity.ring, self.requester.clock.wall_ms()
        return Signers(ring, now_ms, new_first=self.ref.pinned_ms > ring.changed_ms)

    def heed(self, asked: Asked, refusal: Refusal) -> None:
        """Take from a refusal what concerns every later request to this origin."""
        if (
            refusal.reason is RefusalReason.CLOCK_SKEW
            and asked.clock_offset_ms == self.clock_offset_ms  # else it was heeded meanwhile
        ):
            self.skew.heed(refusal.offset_ms)
        current = asked.request_id.epoch == self._epoch
        if refusal.reason is RefusalReason.EXPIRED and refusal.epoch_floor and current:
            if refusal.epoch_floor >= LAST_EPOCH or self._epochs_left <= 0:
                self.requester.log("epoch_refused", level="warning", peer=self.ref.alias)
                return
            self._epochs_left -= 1
            self._epoch = self.requester.epochs.begin(refusal.epoch_floor)
            self._counter = 0

    def window_for(self, transfer: Hungry) -> Window:
        """The window for one transfer: it leaves room to hungry ones of a higher class, and to
        those of its own that have nothing while it has something.
        """

        def others_first() -> bool:
            return any(
                each.priority < transfer.priority
                or (each.priority == transfer.priority and each.starved and not transfer.starved)
                for each in self.hungry
            )

        return yielding(self.window, others_first)

    def room_appeared(self) -> None:
        """Let the transfers that found the window full ask again, soon and once, by class."""
        if self.hungry and not self._feeding and self.window.room:
            self._feeding = True
            asyncio.get_running_loop().call_soon(self._feed)

    def _feed(self) -> None:
        self._feeding = False
        for hungry in sorted(self.hungry, key=lambda each: (each.priority, not each.starved)):
            if not self.window.room:
                break
            if (wake := self.hungry.pop(hungry, None)) is not None:
                wake()
