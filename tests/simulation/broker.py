"""A broker in virtual time: queues, connections that end, and a network between it and the sites.

It keeps the rules of a real one (order, redelivery on a new generation, confirms, dead letters,
lifetimes, full queues) and breaks those that none can keep, as often as its `Faults` say.
`Watch` hears of everything that passes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from chunkq.errors import (
    BrokerRefused,
    ChunkqError,
    Nacked,
    OutcomeUnknown,
    TransportClosed,
    Unroutable,
)
from chunkq.ports import Buffer, Delivery, LinkHealth, Mailbox, Traffic, TransportLimits
from chunkq.protocol.limits import MIB
from chunkq.protocol.priority import Priority
from tests.simulation.faults import Faults
from tests.simulation.loop import Running, WorldLoop
from tests.simulation.process import Killed
from tests.simulation.trace import Trace

MAX_MESSAGE_BYTES = 16 * MIB
#: A packet that came back so often is put aside.
DELIVERY_LIMIT = 20
#: Between a site and the broker, without faults.
DELAY_S = (0.001, 0.05)
#: How long a connection that was lost, or a broker that went down, stays so.
AWAY_S = (0.05, 5.0)
#: Between two packets of one connection, so that none overtakes another.
APART_S = 1e-6
QUEUE_BYTES = 64 * MIB
#: A queue that is soon full: some requests, or some chunks of 4 KiB.
SMALL_QUEUE_BYTES = 24 * 1024


class Watch(Protocol):
    """Hears of packets at the broker."""

    def published(self, by: Running, to: Mailbox, body: bytes) -> None: ...

    def delivered(self, to: Running, mailbox: Mailbox, packet: Packet) -> None: ...

    def acknowledged(self, by: Running, mailbox: Mailbox, packets: list[Packet]) -> None: ...


@dataclass(slots=True, eq=False)
class Packet:
    """One packet in a queue. `number` tells it from its copies."""

    number: int
    to: Mailbox
    body: bytes
    expires_s: float | None
    deliveries: int = 0


@dataclass(slots=True, eq=False)
class _Queue:
    mailbox: Mailbox
    waiting: list[Packet] = field(default_factory=list)
    consumers: list[SimConsumer] = field(default_factory=list)
    dead: list[Packet] = field(default_factory=list)
    size_bytes: int = 0


@dataclass(slots=True, eq=False)
class _Outgoing:
    """A packet that a publisher waits for."""

    to: Mailbox
    body: bytes
    lifetime_s: float | None
    confirmed: asyncio.Future[None]


class Broker:
    """All queues. `faults` may be exchanged at any time."""

    def __init__(
        self, loop: WorldLoop, random: Random, faults: Faults, trace: Trace, watch: Watch
    ) -> None:
        self.loop = loop
        self.random = random
        self.faults = faults
        self.trace = trace
        self.watch = watch
        self.queues: dict[str, _Queue] = {}
        self.connections: list[SimTransport] = []
        self.down_until_s = 0.0
        self.published = 0
        #: Sees each packet that reaches the broker; returns what is put into which queues.
        self.adversary: Callable[[Mailbox, bytes], list[tuple[Mailbox, bytes]]] | None = None
        self._numbers = 0

    # ------------------------------------------------------------ chance

    def fault(self, name: str, what: str) -> None:
        self.trace.fault(self.loop.clock.now_s, name, what)

    def happens(self, name: str) -> bool:
        share: float = getattr(self.faults, name)
        return share > 0.0 and self.random.random() < share

    def delay_s(self) -> float:
        low, high = DELAY_S
        delay_s = low + (high - low) * self.random.random()
        if self.faults.delay and self.random.random() < 0.1:
            delay_s += self.faults.delay * self.random.random()
        return delay_s

    def away_s(self) -> float:
        low, high = AWAY_S
        return low * float((high / low) ** self.random.random())

    # ------------------------------------------------------------ queues

    def declare(self, mailbox: Mailbox) -> _Queue:
        queue = self.queues.get(str(mailbox))
        if queue is None:
            queue = self.queues[str(mailbox)] = _Queue(mailbox)
        return queue

    def route(self, outgoing: _Outgoing) -> ChunkqError | None:
        """A packet has arrived; the error that its publisher hears of."""
        to = outgoing.to
        if self.happens("lose"):
            self.fault("lose", f"{to} {len(outgoing.body)}")
            return None
        queue = self.queues.get(str(to))
        if queue is None:
            return Unroutable(f"there is no mailbox {to}")
        most = SMALL_QUEUE_BYTES if self.faults.small_queues else QUEUE_BYTES
        if queue.size_bytes + len(outgoing.body) > most and queue.waiting:
            self._drop_expired(queue)
            if queue.size_bytes + len(outgoing.body) > most and queue.waiting:
                self.fault("small_queues", str(to))
                return Nacked(f"mailbox {to} is full")
        placed = [(to, outgoing.body)]
        if self.adversary is not None:
            placed = self.adversary(to, outgoing.body)
        for mailbox, body in placed:
            self.put(mailbox, body, outgoing.lifetime_s)
        if self.happens("duplicate"):
            self.fault("duplicate", f"{to} {len(outgoing.body)}")
            self.loop.later(self.delay_s() * 4, self.put, to, outgoing.body, outgoing.lifetime_s)
        return None

    def late(self, outgoing: _Outgoing) -> None:
        """What was on its way when its connection ended arrives."""
        self.route(outgoing)

    def put(self, to: Mailbox, body: bytes, lifetime_s: float | None = None) -> None:
        """Into the queue, if there is one."""
        queue = self.queues.get(str(to))
        if queue is None:
            return
        self._numbers += 1
        expires_s = None if lifetime_s is None else self.loop.clock.now_s + lifetime_s
        queue.waiting.append(Packet(self._numbers, to, body, expires_s))
        queue.size_bytes += len(body)
        self.push(queue)

    def put_back(self, queue: _Queue, packets: list[Packet]) -> None:
        """These were delivered and not acknowledged."""
        if self.queues.get(str(queue.mailbox)) is not queue:
            return
        for packet in reversed(packets):
            packet.deliveries += 1
            if packet.deliveries >= DELIVERY_LIMIT and queue.mailbox.kind == "req":
                queue.dead.append(packet)
                queue.size_bytes -= len(packet.body)
            else:
                queue.waiting.insert(0, packet)
        self.push(queue)

    def push(self, queue: _Queue) -> None:
        """Send on what waits, as far as the consumers' prefetch allows."""
        if self.down_until_s > self.loop.clock.now_s:
            return
        self._drop_expired(queue)
        while queue.waiting:
            free = [each for each in queue.consumers if each.has_room]
            if not free:
                return
            consumer = free[0] if len(free) == 1 else self.random.choice(free)
            number = 0
            if len(queue.waiting) > 1 and self.happens("reorder"):
                number = self.random.randrange(len(queue.waiting))
                self.fault("reorder", str(queue.mailbox))
            consumer.send(queue.waiting.pop(number))

    def _drop_expired(self, queue: _Queue) -> None:
        now = self.loop.clock.now_s
        kept = [each for each in queue.waiting if each.expires_s is None or each.expires_s > now]
        if len(kept) < len(queue.waiting):
            queue.waiting = kept
            held = sum(len(p.body) for c in queue.consumers for p in c.unacknowledged.values())
            queue.size_bytes = held + sum(len(packet.body) for packet in kept)

    # ------------------------------------------------------------ its troubles

    def connect(self, process: Running, site: str) -> SimTransport:
        transport = SimTransport(self, process, site)
        self.connections.append(transport)
        return transport

    def disconnect(self, process: Running) -> None:
        """The process is dead, and so are its connections."""
        for transport in [each for each in self.connections if each.process is process]:
            self.connections.remove(transport)
            transport.lose_connection(for_good=True)

    def reset(self, transport: SimTransport) -> None:
        self.fault("reset_every", transport.process.name)
        transport.lose_connection()

    def restart(self) -> None:
        """Down for a while; transient packets are lost, or a clean stop has kept them."""
        self.fault("restart_every", "")
        for transport in list(self.connections):
            transport.lose_connection()
        self.down_until_s = self.loop.clock.now_s + self.away_s()
        if self.random.random() < 0.7:
            for queue in self.queues.values():
                if queue.mailbox.kind == "rep":
                    queue.waiting.clear()
                    queue.size_bytes = 0

    def block(self) -> None:
        """An alarm: nothing is taken from publishers for a while."""
        for transport in self.connections:
            self.fault("block_every", transport.process.name)
            transport.block(self.away_s())

    def delete_queue(self) -> None:
        """Somebody deletes a queue; whoever consumed from it declares it again."""
        if not self.queues:
            return
        name = self.random.choice(sorted(self.queues))
        self.fault("delete_queue_every", name)
        queue = self.queues.pop(name)
        for consumer in list(queue.consumers):
            consumer.transport.lose_connection()


class SimTransport:
    """`ports.Transport`: one process's connections to the broker."""

    def __init__(self, broker: Broker, process: Running, site: str) -> None:
        self.broker = broker
        self.process = process
        self.site = site
        self._is_up = True
        self._is_blocked = False
        self._closed = False
        self._generation = 1
        self._waiting: deque[_Outgoing] = deque()
        self._unconfirmed: dict[_Outgoing, None] = {}
        self._consumers: list[SimConsumer] = []

    # ------------------------------------------------------------ the port

    @property
    def limits(self) -> TransportLimits:
        return TransportLimits(MAX_MESSAGE_BYTES)

    @property
    def health(self) -> LinkHealth:
        if not self._is_up:
            return LinkHealth(ok=False, reason="broker_unreachable", detail="no connection")
        if self._is_blocked:
            return LinkHealth(ok=False, reason="broker_blocked", detail="an alarm")
        return LinkHealth(ok=True)

    @property
    def traffic(self) -> Traffic:
        return Traffic()

    async def open(self) -> None:
        self._check()

    async def publish(
        self,
        to: Mailbox,
        body: Buffer,
        *,
        lifetime_s: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        del priority
        self._check()
        packet = bytes(body)
        if len(packet) > MAX_MESSAGE_BYTES:
            raise BrokerRefused(f"a packet of {len(packet)} bytes")
        broker = self.broker
        broker.published += 1
        broker.trace(broker.loop.clock.now_s, f"{self.process.name} publishes {to} {_told(packet)}")
        broker.watch.published(self.process, to, packet)
        outgoing = _Outgoing(to, packet, lifetime_s, broker.loop.create_future())
        self._waiting.append(outgoing)
        self._pump()
        await outgoing.confirmed

    async def consume(self, mailbox: Mailbox, *, prefetch: int) -> SimConsumer:
        self._check()
        consumer = SimConsumer(self, self.broker.declare(mailbox), prefetch)
        self._consumers.append(consumer)
        if self._is_up:
            consumer.attach(self._generation)
        return consumer

    async def depth(self, mailbox: Mailbox) -> int:
        self._check()
        queue = self.broker.queues.get(str(mailbox))
        return len(queue.waiting) if queue else 0

    async def close(self) -> None:
        self._check_alive()
        self._closed = True
        for consumer in self._consumers:
            await consumer.close()
        for outgoing in [*self._waiting, *self._unconfirmed]:
            _fail(outgoing, TransportClosed("the transport was closed"))

    # ------------------------------------------------------------ what befalls it

    def lose_connection(self, *, for_good: bool = False) -> None:
        """The connection ends; what was not confirmed may have arrived or not."""
        broker = self.broker
        if self._is_up:
            self._is_up = False
            for consumer in self._consumers:
                consumer.detach()
            unconfirmed, self._unconfirmed = self._unconfirmed, {}
            for outgoing in unconfirmed:
                if broker.random.random() < 0.5:
                    broker.loop.later(broker.delay_s(), broker.late, outgoing)
                _fail(outgoing, OutcomeUnknown("the connection was lost"))
        if not for_good:
            broker.loop.later(broker.away_s(), self._reconnect)

    def block(self, seconds: float) -> None:
        self._is_blocked = True
        self.broker.loop.later(seconds, self._unblock)

    def _unblock(self) -> None:
        self._is_blocked = False
        self._pump()

    def _reconnect(self) -> None:
        if self._is_up or self._closed or not self.process.alive:
            return
        down_s = self.broker.down_until_s - self.broker.loop.clock.now_s
        if down_s > 0:
            self.broker.loop.later(down_s + self.broker.away_s(), self._reconnect)
            return
        self._is_up = True
        self._generation += 1
        self.broker.trace(self.broker.loop.clock.now_s, f"{self.process.name} reconnects")
        for consumer in self._consumers:
            consumer.attach(self._generation)
        self._pump()

    # ------------------------------------------------------------ sending

    def _pump(self) -> None:
        while self._waiting and self._is_up and not self._is_blocked:
            outgoing = self._waiting.popleft()
            if outgoing.confirmed.done():  # its caller gave up
                continue
            self._unconfirmed[outgoing] = None
            self.broker.loop.later(self.broker.delay_s(), self._arrive, outgoing)

    def _arrive(self, outgoing: _Outgoing) -> None:
        if outgoing not in self._unconfirmed:  # the connection was lost meanwhile
            return
        error = self.broker.route(outgoing)
        self.broker.loop.later(self.broker.delay_s(), self._confirm, outgoing, error)

    def _confirm(self, outgoing: _Outgoing, error: ChunkqError | None) -> None:
        if outgoing not in self._unconfirmed:
            return
        del self._unconfirmed[outgoing]
        if error is not None:
            _fail(outgoing, error)
        elif not outgoing.confirmed.done():
            outgoing.confirmed.set_result(None)

    def _check(self) -> None:
        self._check_alive()
        if self._closed:
            raise TransportClosed(f"the transport of {self.site} was closed")

    def _check_alive(self) -> None:
        if not self.process.alive:
            raise Killed


class SimConsumer:
    """`ports.Consumer`."""

    def __init__(self, transport: SimTransport, queue: _Queue, prefetch: int) -> None:
        self.transport = transport
        self.unacknowledged: dict[int, Packet] = {}
        self._queue = queue
        self._prefetch = prefetch
        self._here: list[Delivery] = []
        self._generation = 0
        self._next_tag = 1
        self._arrives_s = 0.0
        self._attached = False
        self._closed = False
        self._woken = asyncio.Event()

    @property
    def has_room(self) -> bool:
        return len(self.unacknowledged) < self._prefetch

    @property
    def mailbox(self) -> Mailbox:
        return self._queue.mailbox

    # ------------------------------------------------------------ the port

    async def receive(self) -> list[Delivery]:
        while True:
            self.transport._check_alive()
            if self._closed:
                raise TransportClosed("the consumer was closed")
            if self._here:
                here, self._here = self._here, []
                return here
            self._woken.clear()
            await self._woken.wait()

    def acknowledge(self, delivery: Delivery) -> None:
        self.transport._check_alive()
        if delivery.generation != self._generation or not self._attached:
            return
        packets = [each for tag, each in self.unacknowledged.items() if tag <= delivery.tag]
        self._broker.trace(
            self._broker.loop.clock.now_s,
            f"{self.transport.process.name} acknowledges {self.mailbox} {len(packets)}",
        )
        self._broker.watch.acknowledged(self.transport.process, self.mailbox, packets)
        self._broker.loop.later(
            self._broker.delay_s(), self._let_go, delivery.generation, delivery.tag
        )

    def reject(self, delivery: Delivery) -> None:
        self.transport._check_alive()
        packet = self.unacknowledged.pop(delivery.tag, None)
        if packet is not None and delivery.generation == self._generation:
            self._queue.dead.append(packet)
            self._queue.size_bytes -= len(packet.body)

    async def close(self) -> None:
        self.transport._check_alive()
        self._closed = True
        self.detach()
        self._woken.set()

    # ------------------------------------------------------------ the broker's side

    @property
    def _broker(self) -> Broker:
        return self.transport.broker

    def attach(self, generation: int) -> None:
        """A connection is there."""
        if self._closed:
            return
        self._queue = self._broker.declare(self.mailbox)
        self._generation = generation
        self._next_tag = 1
        self._attached = True
        self._queue.consumers.append(self)
        self._broker.push(self._queue)

    def detach(self) -> None:
        """It is gone; what was not acknowledged goes back."""
        if not self._attached:
            return
        self._attached = False
        self._queue.consumers.remove(self)
        held, self.unacknowledged = list(self.unacknowledged.values()), {}
        broker, queue = self._broker, self._queue
        if held:
            broker.trace(broker.loop.clock.now_s, f"{queue.mailbox} gets back {len(held)}")
            broker.loop.later(broker.delay_s(), broker.put_back, queue, held)

    def send(self, packet: Packet) -> None:
        """On its way to the consumer, in order."""
        loop, tag = self._broker.loop, self._next_tag
        self._next_tag += 1
        self.unacknowledged[tag] = packet
        arrives_s = loop.clock.now_s + self._broker.delay_s()
        self._arrives_s = max(self._arrives_s + APART_S, arrives_s)
        delay_s = self._arrives_s - loop.clock.now_s
        loop.later(delay_s, self._arrived, self._generation, tag, packet)

    def _arrived(self, generation: int, tag: int, packet: Packet) -> None:
        process = self.transport.process
        if generation != self._generation or not self._attached or not process.alive:
            return
        self._broker.trace(
            self._broker.loop.clock.now_s, f"{process.name} gets {_told(packet.body)}"
        )
        self._broker.watch.delivered(process, self.mailbox, packet)
        redelivered = packet.deliveries > 0
        self._here.append(Delivery(packet.body, tag, generation, redelivered))
        self._woken.set()

    def _let_go(self, generation: int, last: int) -> None:
        if generation != self._generation or not self._attached:
            return
        for tag in [tag for tag in self.unacknowledged if tag <= last]:
            self._queue.size_bytes -= len(self.unacknowledged.pop(tag).body)
        self._broker.push(self._queue)


def _fail(outgoing: _Outgoing, error: ChunkqError) -> None:
    if not outgoing.confirmed.done():
        outgoing.confirmed.set_exception(error)
        outgoing.confirmed.exception()  # its publisher may be dead


def _told(body: bytes) -> str:
    """Which packet it is, as far as its header tells: kind, epoch and counter, index."""
    if len(body) < 88:
        return f"something {len(body)}"
    if body[:4] == b"CKQ1":
        return f"request {body[4]} {body[72:88].hex()} {len(body)}"
    if body[:4] == b"CKQR":
        index = int.from_bytes(body[64:72], "big")
        return f"reply {body[4]} {body[8:24].hex()} #{index} {len(body)}"
    return f"something {len(body)}"
