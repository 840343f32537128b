"""A simulated link: a broker somewhere between two sites, reached at a rate and over a distance.

Each direction is one queue that is emptied at the link's rate, and then a distance. A packet is
published (its publisher may go on) when the word of the broker has come back; at most so many
bytes are on the way to it, as with a real one. Losses, uneven delays and rates that change are
drawn from a seed or given in advance, so that a run can be repeated.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from chunkq.errors import TransportClosed, Unroutable
from chunkq.ports import Buffer, Delivery, LinkHealth, Mailbox, Traffic, TransportLimits
from chunkq.protocol.limits import MIB
from chunkq.protocol.priority import Priority

#: What RabbitMQ takes from 4.0 on, unless it is told otherwise.
MAX_MESSAGE_BYTES = 16 * MIB


@dataclass(frozen=True, kw_only=True)
class LinkShape:
    """What a link is like.

    `round_trip_s`: site to site and back, of an empty link. `bytes_per_s`: of each direction.
    `rates`: later rates of the direction to the requester, as (from when, bytes a second).
    `loss`: the share of packets that vanish after the broker took them. `jitter`: a packet's way
    takes up to this fraction more or less. `broker_at`: 0 is at the requester, 1 at the origin.
    `unconfirmed_bytes`: on the way to the broker from one site, as `RabbitMQOptions` has it.
    """

    round_trip_s: float
    bytes_per_s: float
    rates: tuple[tuple[float, float], ...] = ()
    loss: float = 0.0
    jitter: float = 0.0
    broker_at: float = 0.5
    unconfirmed_bytes: int = 40 * MIB
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Passage:
    """One packet's way: published when, queued how long before it was sent, and sent when."""

    published_s: float
    queued_s: float
    sent_s: float
    size_bytes: int


class Direction:
    """One way of the link: a queue emptied at the link's rate."""

    def __init__(self, rates: list[tuple[float, float]]) -> None:
        self._rates = rates
        self._free_at_s = 0.0

    def pass_through(self, size_bytes: int, now: float) -> tuple[float, float]:
        """When the packet has left the queue, and how long it stood there before it was sent."""
        began = max(now, self._free_at_s)
        self._free_at_s = self._sent_at(began, size_bytes)
        return self._free_at_s, began - now

    def _sent_at(self, at_s: float, left_bytes: float) -> float:
        for number, (_, bytes_per_s) in enumerate(self._rates):
            until = self._rates[number + 1][0] if number + 1 < len(self._rates) else float("inf")
            if at_s >= until:
                continue
            if (done := at_s + left_bytes / bytes_per_s) <= until:
                return done
            left_bytes -= (until - at_s) * bytes_per_s
            at_s = until
        raise AssertionError("the last rate lasts for ever")


@dataclass(slots=True)
class _Queue:
    """A mailbox at the broker."""

    waiting: deque[Buffer] = field(default_factory=deque)
    consumer: SimulatedConsumer | None = None


class SimulatedLink:
    """The link with its broker. `end` gives a site its transport.

    `watch` hears of each packet to the requester that is not lost, when it is published.
    """

    def __init__(self, shape: LinkShape, watch: Callable[[Buffer, Passage], None]) -> None:
        self.shape = shape
        self.loop = asyncio.get_running_loop()
        self.watch = watch
        self._random = Random(shape.seed)
        self._queues: dict[str, _Queue] = {}

    def end(self, site: str, *, is_origin: bool) -> SimulatedTransport:
        """The end of the link at `site`."""
        shape = self.shape
        one_way_s = shape.round_trip_s / 2
        to_broker_s = one_way_s * (1 - shape.broker_at if is_origin else shape.broker_at)
        rates = [(0.0, shape.bytes_per_s)]
        if is_origin:
            rates += shape.rates
        return SimulatedTransport(self, site, Direction(rates), to_broker_s, watched=is_origin)

    # ------------------------------------------------------------ the broker

    def queue(self, mailbox: Mailbox) -> _Queue:
        return self._queues.setdefault(str(mailbox), _Queue())

    def has(self, mailbox: Mailbox) -> bool:
        return str(mailbox) in self._queues

    def lost(self) -> bool:
        return self._random.random() < self.shape.loss

    def varied(self, delay_s: float) -> float:
        jitter = self.shape.jitter
        return delay_s * (1 + self._random.uniform(-jitter, jitter)) if jitter else delay_s

    def take(self, mailbox: Mailbox, body: Buffer) -> None:
        """A packet has reached the broker."""
        queue = self.queue(mailbox)
        queue.waiting.append(body)
        self.push(queue)

    def push(self, queue: _Queue) -> None:
        """Send on what waits, as far as the consumer's prefetch allows."""
        consumer = queue.consumer
        while (
            consumer is not None and queue.waiting and consumer.unacknowledged < consumer.prefetch
        ):
            consumer.unacknowledged += 1
            delay_s = self.varied(consumer.from_broker_s)
            self.loop.call_later(delay_s, consumer.arrived, queue.waiting.popleft())


@dataclass(slots=True)
class _Outgoing:
    """A packet that a publisher waits for."""

    to: Mailbox
    body: Buffer
    asked_at_s: float
    confirmed: asyncio.Future[None]

    @property
    def size_bytes(self) -> int:
        return len(self.body)


class SimulatedTransport:
    """`ports.Transport` at one end of the link."""

    def __init__(
        self,
        link: SimulatedLink,
        site: str,
        direction: Direction,
        to_broker_s: float,
        *,
        watched: bool,
    ) -> None:
        self._link = link
        self._site = site
        self._direction = direction
        self._to_broker_s = to_broker_s
        self._watched = watched
        self._unconfirmed_bytes = 0
        self._outgoing: deque[_Outgoing] = deque()
        self._consumers: list[SimulatedConsumer] = []

    @property
    def limits(self) -> TransportLimits:
        return TransportLimits(MAX_MESSAGE_BYTES)

    @property
    def health(self) -> LinkHealth:
        return LinkHealth(ok=True)

    @property
    def traffic(self) -> Traffic:
        return Traffic()

    async def open(self) -> None:
        """There from the beginning."""

    async def publish(
        self,
        to: Mailbox,
        body: Buffer,
        *,
        lifetime_s: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """Returns when the broker's word is back. Nothing expires or overtakes here."""
        del lifetime_s, priority
        loop = self._link.loop
        if not self._link.has(to):
            raise Unroutable(f"there is no mailbox {to}")
        packet = _Outgoing(to, body, loop.time(), loop.create_future())
        self._outgoing.append(packet)
        self._pump()
        await packet.confirmed

    def _pump(self) -> None:
        """Send what the bound on unconfirmed bytes allows, in order."""
        most, waiting = self._link.shape.unconfirmed_bytes, self._outgoing
        while waiting:
            if waiting[0].confirmed.done():  # its caller gave up
                waiting.popleft()
                continue
            if self._unconfirmed_bytes and self._unconfirmed_bytes + waiting[0].size_bytes > most:
                return
            self._send(waiting.popleft())

    def _send(self, packet: _Outgoing) -> None:
        link, now, size = self._link, self._link.loop.time(), packet.size_bytes
        self._unconfirmed_bytes += size
        sent_at, queued_s = self._direction.pass_through(size, now)
        at_broker_s = sent_at - now + link.varied(self._to_broker_s)
        if not link.lost():
            link.loop.call_later(at_broker_s, link.take, packet.to, packet.body)
            if self._watched:
                waited_s = now - packet.asked_at_s + queued_s
                link.watch(packet.body, Passage(packet.asked_at_s, waited_s, sent_at, size))
        link.loop.call_later(at_broker_s + self._to_broker_s, self._confirm, packet)

    def _confirm(self, packet: _Outgoing) -> None:
        self._unconfirmed_bytes -= packet.size_bytes
        if not packet.confirmed.done():
            packet.confirmed.set_result(None)
        self._pump()

    async def consume(self, mailbox: Mailbox, *, prefetch: int) -> SimulatedConsumer:
        queue = self._link.queue(mailbox)
        consumer = SimulatedConsumer(self._link, queue, prefetch, self._to_broker_s)
        queue.consumer = consumer
        self._consumers.append(consumer)
        self._link.push(queue)
        return consumer

    async def depth(self, mailbox: Mailbox) -> int:
        return len(self._link.queue(mailbox).waiting)

    async def close(self) -> None:
        for consumer in self._consumers:
            await consumer.close()


class SimulatedConsumer:
    """`ports.Consumer`; its acknowledgements, too, take their time to the broker."""

    def __init__(
        self, link: SimulatedLink, queue: _Queue, prefetch: int, from_broker_s: float
    ) -> None:
        self.prefetch = prefetch
        self.from_broker_s = from_broker_s
        #: As the broker knows it.
        self.unacknowledged = 0
        self._link = link
        self._queue = queue
        self._here: list[Delivery] = []
        self._next_tag = 1
        self._acknowledged_to = 0
        self._closed = False
        self._woken = asyncio.Event()

    async def receive(self) -> list[Delivery]:
        while not self._here:
            if self._closed:
                raise TransportClosed("the consumer was closed")
            self._woken.clear()
            await self._woken.wait()
        here, self._here = self._here, []
        return here

    def arrived(self, body: Buffer) -> None:
        if self._closed:
            return
        self._here.append(Delivery(bytes(body), self._next_tag, 1))
        self._next_tag += 1
        self._woken.set()

    def acknowledge(self, delivery: Delivery) -> None:
        count = delivery.tag - self._acknowledged_to
        if count > 0:
            self._acknowledged_to = delivery.tag
            self._link.loop.call_later(self.from_broker_s, self._free, count)

    def reject(self, delivery: Delivery) -> None:
        raise AssertionError("nothing here is ever rejected")

    async def close(self) -> None:
        self._closed = True
        if self._queue.consumer is self:
            self._queue.consumer = None
        self._woken.set()

    def _free(self, count: int) -> None:
        self.unacknowledged -= count
        self._link.push(self._queue)
