"""A carrier inside one process: for embedders' tests, for the simulator, and to try things out.

A `MemoryCarrier` is the hub; each site gets a `MemoryTransport` of it. It keeps what the other
carriers keep (order, redelivery, lifetimes, dead letters, a bound on the bytes that wait), so that
code which works on it meets no new rule on a broker. Nothing survives the process. Everything runs
on one event loop; time comes from the clock that is passed in.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from chunkq.errors import BrokerRefused, Nacked, TransportClosed, Unroutable
from chunkq.ports import Buffer, Clock, Delivery, LinkHealth, Mailbox, Traffic, TransportLimits
from chunkq.protocol.limits import MIB
from chunkq.protocol.priority import Priority

#: The same as RabbitMQ's default from 4.0 on, so that what fits here fits there.
DEFAULT_MAX_MESSAGE_BYTES: Final = 16 * MIB
#: Four windows of 64 MiB: more than any requester lets wait.
DEFAULT_QUEUE_BYTES: Final = 256 * MIB
#: What a packet costs besides its body, so that empty packets are bounded too.
PACKET_OVERHEAD_BYTES: Final = 256
#: What a fleeting mailbox keeps: ten seconds of a hundred processes' reports, of the usual size.
FLEETING_BYTES: Final = 8 * MIB
#: A packet that came back so often is put aside; the limit of the other carriers.
DELIVERY_LIMIT: Final = 20


@dataclass(frozen=True, slots=True)
class _Packet:
    body: bytes
    expires_s: float | None
    deliveries: int = 0

    @property
    def cost_bytes(self) -> int:
        return len(self.body) + PACKET_OVERHEAD_BYTES


class _Queue:
    """One mailbox. `cost_bytes` counts what waits and what is out unacknowledged."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[_Packet] = deque()
        self._earliest_expiry_s = math.inf
        self.cost_bytes = 0
        self.dead: list[bytes] = []
        self.consumers: list[MemoryConsumer] = []

    def put(self, packet: _Packet) -> None:
        self._waiting.append(packet)
        self._note_expiry(packet)
        self.cost_bytes += packet.cost_bytes
        self.wake()

    def put_back(self, packets: list[_Packet]) -> None:
        """Return delivered packets to the front, in their order."""
        for packet in reversed(packets):
            again = replace(packet, deliveries=packet.deliveries + 1)
            if again.deliveries >= DELIVERY_LIMIT:
                self.put_aside(again)
            else:
                self._waiting.appendleft(again)
                self._note_expiry(again)
        self.wake()

    def put_aside(self, packet: _Packet) -> None:
        self.dead.append(packet.body)
        self.let_go(packet)

    def let_go(self, packet: _Packet) -> None:
        self.cost_bytes -= packet.cost_bytes

    def take(self, count: int) -> list[_Packet]:
        self._drop_expired()
        return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]

    def depth(self) -> int:
        self._drop_expired()
        return len(self._waiting)

    def make_way(self, most_bytes: int) -> None:
        """Let go of the oldest, until no more than so much is left."""
        while self._waiting and self.cost_bytes > most_bytes:
            self.let_go(self._waiting.popleft())

    def wake(self) -> None:
        for consumer in self.consumers:
            consumer.wake.set()

    def _note_expiry(self, packet: _Packet) -> None:
        if packet.expires_s is not None:
            self._earliest_expiry_s = min(self._earliest_expiry_s, packet.expires_s)

    def _drop_expired(self) -> None:
        """Look through the queue, but only once the first of it can have expired."""
        now_s = self._clock.monotonic_s()
        if now_s < self._earliest_expiry_s:
            return
        self._earliest_expiry_s = math.inf
        packets, self._waiting = self._waiting, deque()
        for packet in packets:
            if packet.expires_s is None or packet.expires_s > now_s:
                self._waiting.append(packet)
                self._note_expiry(packet)
            else:
                self.let_go(packet)


class MemoryCarrier:
    """The hub that `MemoryTransport`s share. `queue_bytes` bounds each mailbox."""

    def __init__(
        self,
        clock: Clock,
        *,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
    ) -> None:
        self.clock = clock
        self.limits = TransportLimits(max_message_bytes)
        self._queue_bytes = queue_bytes
        self._queues: dict[str, _Queue] = {}

    def dead_letters(self, mailbox: Mailbox) -> list[bytes]:
        """The bodies that were rejected, or came back too often, oldest first."""
        queue = self._queues.get(str(mailbox))
        return list(queue.dead) if queue else []

    def put(self, to: Mailbox, body: Buffer, lifetime_s: float | None) -> None:
        """Raises `BrokerRefused`, `Unroutable`, `Nacked` as `Transport.publish` does."""
        size = memoryview(body).nbytes
        if size > self.limits.max_message_bytes:
            raise BrokerRefused(
                f"a packet of {size} bytes for {to} is over this carrier's limit of"
                f" {self.limits.max_message_bytes}",
                hint="ask for a smaller chunk size",
            )
        queue = self._queues.get(str(to))
        if queue is None:
            raise Unroutable(f"there is no mailbox {to}", hint="start the other side once")
        expires_s = None if lifetime_s is None else self.clock.monotonic_s() + lifetime_s
        packet = _Packet(bytes(body), expires_s)
        if to.fleeting:
            queue.make_way(FLEETING_BYTES - packet.cost_bytes)
        if queue.cost_bytes + packet.cost_bytes > self._queue_bytes:
            queue.depth()  # drops what has expired
            if queue.cost_bytes + packet.cost_bytes > self._queue_bytes:
                raise Nacked(f"mailbox {to} is full: {queue.cost_bytes} bytes wait there")
        queue.put(packet)

    def queue(self, mailbox: Mailbox) -> _Queue:
        """The mailbox's queue, made if need be."""
        return self._queues.setdefault(str(mailbox), _Queue(self.clock))

    def depth(self, mailbox: Mailbox) -> int:
        queue = self._queues.get(str(mailbox))
        return queue.depth() if queue else 0

    def leave(self, mailbox: Mailbox) -> None:
        """A consumer was closed: a fleeting mailbox goes with its last one."""
        queue = self._queues.get(str(mailbox))
        if mailbox.fleeting and queue is not None and not queue.consumers:
            del self._queues[str(mailbox)]


class MemoryConsumer:
    """Implements `Consumer`. Its generation never changes: this carrier is never lost."""

    def __init__(self, queue: _Queue, prefetch: int, left: Callable[[], None]) -> None:
        self._queue = queue
        self._left = left
        self._prefetch = prefetch
        self._held: dict[int, _Packet] = {}
        self._next_tag = 1
        self._closed = False
        self.received_bytes = 0
        self.wake = asyncio.Event()
        queue.consumers.append(self)

    async def receive(self) -> list[Delivery]:
        # One turn for the others, lest a full queue starve the loop. Nothing is taken before it.
        await asyncio.sleep(0)
        while True:
            if self._closed:
                raise TransportClosed("the consumer was closed")
            taken = self._queue.take(self._prefetch - len(self._held))
            if taken:
                return [self._hand_out(packet) for packet in taken]
            self.wake.clear()
            await self.wake.wait()

    def _hand_out(self, packet: _Packet) -> Delivery:
        tag = self._next_tag
        self._next_tag += 1
        self._held[tag] = packet
        self.received_bytes += len(packet.body)
        return Delivery(packet.body, tag, 1, redelivered=packet.deliveries > 0)

    def acknowledge(self, delivery: Delivery) -> None:
        done = [tag for tag in self._held if tag <= delivery.tag]
        for tag in done:
            self._queue.let_go(self._held.pop(tag))
        self.wake.set()

    def reject(self, delivery: Delivery) -> None:
        packet = self._held.pop(delivery.tag, None)
        if packet is not None:
            self._queue.put_aside(packet)
            self.wake.set()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.consumers.remove(self)
        self._queue.put_back(list(self._held.values()))
        self._held.clear()
        self._left()
        self.wake.set()


class MemoryTransport:
    """Implements `Transport` on a shared `MemoryCarrier`. `site` is for messages to people."""

    def __init__(self, carrier: MemoryCarrier, site: str) -> None:
        self._carrier = carrier
        self._site = site
        self._consumers: list[MemoryConsumer] = []
        self._sent_bytes = 0
        self._closed = False

    @property
    def limits(self) -> TransportLimits:
        return self._carrier.limits

    @property
    def health(self) -> LinkHealth:
        return LinkHealth(ok=True)

    @property
    def traffic(self) -> Traffic:
        received = sum(consumer.received_bytes for consumer in self._consumers)
        return Traffic(self._sent_bytes, received)

    async def open(self) -> None:
        self._require_open()

    async def publish(
        self,
        to: Mailbox,
        body: Buffer,
        *,
        lifetime_s: float | None = None,
        priority: Priority = Priority.NORMAL,  # noqa: ARG002 - nothing waits here
    ) -> None:
        self._require_open()
        self._carrier.put(to, body, lifetime_s)
        self._sent_bytes += memoryview(body).nbytes
        await asyncio.sleep(0)  # as with any carrier, others get their turn meanwhile

    async def consume(self, mailbox: Mailbox, *, prefetch: int) -> MemoryConsumer:
        self._require_open()
        consumer = MemoryConsumer(
            self._carrier.queue(mailbox), prefetch, lambda: self._carrier.leave(mailbox)
        )
        self._consumers.append(consumer)
        return consumer

    async def depth(self, mailbox: Mailbox) -> int:
        self._require_open()
        return self._carrier.depth(mailbox)

    async def close(self) -> None:
        self._closed = True
        for consumer in self._consumers:
            await consumer.close()

    def _require_open(self) -> None:
        if self._closed:
            raise TransportClosed(f"the transport of {self._site} was closed")
