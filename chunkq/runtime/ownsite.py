"""What this process says to others of its own site: reports to who listens, control to one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from chunkq.errors import ChunkqError, PacketError
from chunkq.ports import STATUS_INSTANCE, Clock, Entropy, Identity, Log, Mailbox, Transport
from chunkq.protocol import cbor
from chunkq.protocol.control import Command
from chunkq.protocol.identity import card_of
from chunkq.protocol.limits import KEY_SIZE_BYTES
from chunkq.protocol.ownsite import OwnGate
from chunkq.protocol.packet import RequestId, RequestKind, Suite
from chunkq.protocol.report import Report, fitting
from chunkq.protocol.seal import LARGEST_REQUEST_BODY_BYTES, seal_request
from chunkq.runtime.drops import Drops
from chunkq.runtime.epochs import Epochs

#: A report is of use until the next ones; a command until a broker that is away is back.
REPORT_LIFETIME_S: Final = 10.0
CONTROL_LIFETIME_S: Final = 30.0
#: Commands taken at once: each is small, and they are rare.
CONTROL_PREFETCH: Final = 32
#: Where nobody listens, or the carrier takes nothing, it is tried again after this.
RETRY_S: Final = 5.0
#: Of a link with a rate, reports take no more than this part.
RATE_SHARE: Final = 0.02


class OwnSealer:
    """Seals and signs what this site says to itself, by its newest keys."""

    def __init__(self, identity: Identity, site: str, clock: Clock, entropy: Entropy) -> None:
        self.mailbox_site = site
        self._identity = identity
        self._clock = clock
        self._entropy = entropy
        self._epoch = Epochs(clock, entropy).begin()
        self._counter = 0

    def seal(self, kind: RequestKind, body: bytes, lifetime_s: float) -> bytes:
        """A packet that any process of this site takes, for so long."""
        keys = self._identity.ring.keys
        self._counter += 1
        issued_ms = self._clock.wall_ms()
        return seal_request(
            keys=keys,
            recipient=card_of(keys, self.mailbox_site),
            ephemeral_secret=self._entropy(KEY_SIZE_BYTES),
            kind=kind,
            request_id=RequestId(self._epoch, self._counter),
            issued_ms=issued_ms,
            expires_ms=issued_ms + int(lifetime_s * 1000),
            body=body,
            suite=Suite.XCHACHA20POLY1305,
        )


class StatusSender:
    """Publishes reports on links, one at a time on each; `rate(link)` in bytes a second, or None.

    Nothing waits for it, and nothing that goes wrong is of interest to anybody but who listens.
    """

    def __init__(
        self, sealer: OwnSealer, clock: Clock, rate: Callable[[str], int | None] = lambda _: None
    ) -> None:
        self._sealer = sealer
        self._clock = clock
        self._rate = rate
        self._mailbox = Mailbox("rep", sealer.mailbox_site, STATUS_INSTANCE)
        self._due_s: dict[str, float] = {}
        self._sending: dict[str, asyncio.Task[None]] = {}

    def send(self, report: Report, links: Iterable[tuple[str, Transport]]) -> None:
        """Say it wherever somebody may listen. Returns at once."""
        now_s = self._clock.monotonic_s()
        wanted: dict[str, Transport] = {}
        for link, transport in links:
            if link in self._sending or now_s < self._due_s.get(link, now_s):
                continue
            if transport.health.ok:
                wanted.setdefault(link, transport)
        if not wanted:
            return
        _, body = fitting(report, LARGEST_REQUEST_BODY_BYTES, cbor.encode)
        for link, transport in wanted.items():
            packet = self._sealer.seal(RequestKind.REPORT, body, REPORT_LIFETIME_S)
            task = asyncio.ensure_future(self._publish(link, transport, packet))
            self._sending[link] = task
            task.add_done_callback(partial(self._sent, link))

    def _sent(self, link: str, task: asyncio.Task[None]) -> None:
        del self._sending[link]
        if not task.cancelled():
            task.result()

    async def _publish(self, link: str, transport: Transport, packet: bytes) -> None:
        wait_s = 0.0
        if rate := self._rate(link):
            wait_s = len(packet) / (RATE_SHARE * rate)
        try:
            await transport.publish(self._mailbox, packet, lifetime_s=REPORT_LIFETIME_S)
        except ChunkqError:
            wait_s = max(wait_s, RETRY_S)
        self._due_s[link] = self._clock.monotonic_s() + wait_s

    async def close(self) -> None:
        tasks = list(self._sending.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class ControlDesk:
    """Takes commands that came by a link. `apply` blocks, and may raise a `ChunkqError`.

    Each is done in its turn, on a thread, so that pause and resume do not overtake each other.
    """

    def __init__(
        self,
        identity: Identity,
        incarnation: str,
        clock: Clock,
        *,
        apply: Callable[[Command], None],
        log: Log,
    ) -> None:
        #: What was no command of this site's.
        self.drops = Drops(log, clock)
        self._incarnation = incarnation
        self._clock = clock
        self._apply = apply
        self._log = log
        self._gate: OwnGate[Command] = OwnGate(
            RequestKind.CONTROL,
            Command,
            lambda site_id: identity.ring.holder(site_id, clock.wall_ms()),
        )
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, packet: bytes) -> None:
        """Act on it in the background, if it counts. Raises nothing that a packet can cause."""
        try:
            command = self._gate.admit(packet, self._clock.monotonic_s(), self._clock.wall_ms())
        except PacketError as error:
            self.drops(f"control_{error.code}", error.message)
            return
        if command.incarnation != self._incarnation:
            self._log("control_stale", level="info", action=command.action, by=command.by)
            return
        task = asyncio.ensure_future(self._do(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, command: Command) -> None:
        async with self._turn:
            self._log("control", action=command.action, by=command.by)
            try:
                await asyncio.to_thread(self._apply, command)
            except ChunkqError as error:
                fields = {"action": command.action, "by": command.by, "detail": error.message}
                self._log("control_failed", level="warning", **fields)

    async def close(self) -> None:
        """Let what has begun come to its end."""
        if self._tasks:
            await asyncio.wait(self._tasks)


async def listen_for_control(transport: Transport, mailbox: Mailbox, desk: ControlDesk) -> None:
    """Take commands from a mailbox of its own until cancelled, or until the carrier refuses it.

    Raises a `TransportError`, or `BrokerUnreachable`.
    """
    consumer = await transport.consume(mailbox, prefetch=CONTROL_PREFETCH)
    try:
        while True:
            deliveries = await consumer.receive()
            for delivery in deliveries:
                desk.take(delivery.body)
            consumer.acknowledge(deliveries[-1])
    finally:
        await consumer.close()
