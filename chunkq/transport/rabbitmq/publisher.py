"""Handing packets to the broker: confirmed, bounded in bytes, by class and then by arrival."""

from __future__ import annotations

import asyncio
import copy
import math
from typing import Final

from pika import spec
from pika.exceptions import AMQPError

from chunkq.errors import (
    BrokerRefused,
    ChunkqError,
    Nacked,
    OutcomeUnknown,
    TransportClosed,
    Unroutable,
)
from chunkq.ports import Buffer, Mailbox
from chunkq.protocol.limits import KIB
from chunkq.protocol.priority import Lanes, Priority
from chunkq.transport.rabbitmq.channel import Channel
from chunkq.transport.rabbitmq.refusals import ACCESS_REFUSED, refusal, too_large
from chunkq.transport.rabbitmq.session import Session, keep, supervise
from chunkq.transport.rabbitmq.topology import address, set_up_exchanges
from chunkq.transport.rabbitmq.wire import Wire

#: What a packet costs beside its bytes (frames, the record here): so that empty ones are bounded.
PACKET_OVERHEAD_BYTES: Final = 1024
#: RabbitMQ refuses longer lifetimes than 32 bits of milliseconds (49 days).
MAX_EXPIRATION_MS: Final = (1 << 32) - 1
#: A broker that is well confirms at once, a busy one within a second or two.
CONFIRM_LATE_S: Final = 5.0
#: Half a Mbit/s: on a link as slow as that, what was sent may still be on its way.
SLOW_BYTES_PER_S: Final = 64 * KIB
_TRANSIENT: Final = 1
_PERSISTENT: Final = 2


class _Packet:
    """One publish that waits: for its turn first, then for the broker's confirm."""

    __slots__ = (
        "body",
        "exchange",
        "expiration",
        "outcome",
        "returned",
        "routing_key",
        "sent_at",
        "size",
        "to",
    )

    def __init__(self, to: Mailbox, own_site: str, body: memoryview, lifetime_s: float | None):
        self.to = to
        self.exchange, self.routing_key = address(to, own_site)
        self.body: memoryview | None = body
        self.size = body.nbytes
        self.expiration = None if lifetime_s is None else _expiration(lifetime_s)
        self.returned: str | None = None
        self.sent_at = 0.0
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def cost(self) -> int:
        return self.size + PACKET_OVERHEAD_BYTES

    def fail(self, error: ChunkqError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)

    def __str__(self) -> str:
        return f"a packet of {self.size} bytes to {self.to}"


class Publisher:
    """Sends on a channel of its own, which is opened again whenever it ends."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._options = session.options
        self._channel: Channel | None = None
        self._queue: Lanes[_Packet] = Lanes()
        self._unconfirmed: dict[int, _Packet] = {}
        self._unconfirmed_bytes = 0
        self._sequence = 0
        self._failure: ChunkqError | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._blocked_at = 0.0
        #: When the broker last confirmed something, or the connection changed.
        self._stirred_at = 0.0
        #: Why the exchanges or the channel could not be set up; empty if all is well.
        self.trouble = ""
        self._tasks: list[asyncio.Task[None]] = []
        session.on_change = self._on_change

    def start(self) -> None:
        work = keep(self._session, self._set_up, self._lost, self._failing)
        self._tasks = [
            asyncio.create_task(supervise(work, self._fail)),
            asyncio.create_task(supervise(self._watch_confirms(), self._fail)),
        ]

    async def publish(
        self, to: Mailbox, body: Buffer, lifetime_s: float | None, priority: Priority
    ) -> None:
        """As `Transport.publish` says."""
        view = memoryview(body).cast("B")
        most = self._options.max_message_bytes
        if view.nbytes > most:
            raise BrokerRefused(
                f"a packet of {view.nbytes} bytes is over this link's limit of {most} bytes",
                hint="choose smaller chunks, or raise max_message_bytes if the broker takes more",
            )
        if self._failure is not None:
            raise copy.copy(self._failure)
        packet = _Packet(to, self._options.site, view, lifetime_s)
        self._queue.add(priority, packet)
        self.pump()
        try:
            await packet.outcome
        finally:
            # A caller that gives up leaves no buffer behind; a sent packet is still accounted for.
            packet.body = None
            # An error's traceback has this frame: if that had the packet, and so the error, the
            # body would be kept until the garbage collector comes by.
            del packet, view, body

    def pump(self) -> None:
        """Send what may be sent now: called whenever one of the conditions changes."""
        queue = self._queue
        while queue:
            turn = queue.turn
            packet = queue.peek(turn)
            if packet.outcome.done():
                queue.pop(turn)
                continue
            wire = self._session.current
            channel = self._channel
            if wire is None or wire.blocked is not None or not wire.writable:
                return
            if channel is None or not channel.is_open:
                return
            full = self._unconfirmed_bytes + packet.cost > self._options.unconfirmed_bytes
            if full and self._unconfirmed:
                return
            self._send(wire, channel, queue.pop(turn))

    async def close(self) -> None:
        """Wait a bounded time for pending confirms; what was not yet sent fails at once."""
        closed = TransportClosed("the transport was closed")
        self._fail(closed)
        try:
            await asyncio.wait_for(self._idle.wait(), self._options.close_timeout_s)
        except TimeoutError:
            self._give_up(closed)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def stuck_s(self) -> float:
        """For how long the broker has confirmed nothing, beyond what is to be expected; 0: it does.

        On slow links what was sent takes its time to get there.
        """
        oldest = next(iter(self._unconfirmed.values()), None)
        if oldest is None:
            return 0.0
        waited_s = asyncio.get_running_loop().time() - max(oldest.sent_at, self._stirred_at)
        usual_s = CONFIRM_LATE_S + self._unconfirmed_bytes / SLOW_BYTES_PER_S
        return waited_s if waited_s > usual_s else 0.0

    # ------------------------------------------------------------ ConfirmSink

    def confirmed(self, tag: int, multiple: bool, taken: bool) -> None:
        self._stirred_at = asyncio.get_running_loop().time()
        if multiple:
            for sequence in list(self._unconfirmed):
                if sequence > tag:
                    break
                self._settle(sequence, taken=taken)
        else:
            self._settle(tag, taken=taken)
        self.pump()

    def returned(self, message_id: str, text: str) -> None:
        if message_id.isdigit() and (packet := self._unconfirmed.get(int(message_id))) is not None:
            packet.returned = text

    # ------------------------------------------------------------ inside

    def _on_change(self) -> None:
        self._stirred_at = asyncio.get_running_loop().time()
        self.pump()

    def _failing(self, failure: ChunkqError) -> None:
        self.trouble = failure.message

    async def _set_up(self, wire: Wire) -> Channel:
        await set_up_exchanges(wire)
        channel = await Channel.open(wire)
        wire.attach_publisher(channel.number, self)
        await channel.call("confirm_delivery", _confirms_come_by_the_wire)
        self._sequence = 0
        self._channel = channel
        self.trouble = ""
        self.pump()
        return channel

    async def _watch_confirms(self) -> None:
        """A broker can be well and confirm nothing; the window must not fill up with that."""
        loop = asyncio.get_running_loop()
        timeout_s = self._options.confirm_timeout_s
        while True:
            await asyncio.sleep(timeout_s / 4)
            wire, oldest = self._session.current, next(iter(self._unconfirmed.values()), None)
            if wire is None or wire.blocked is not None:
                self._blocked_at = loop.time()
            elif oldest is not None and self._channel is not None:
                waited_s = loop.time() - max(oldest.sent_at, self._blocked_at)
                if waited_s > timeout_s:
                    self._channel.give_up(AMQPError(f"no confirm within {timeout_s} s"))

    def _send(self, wire: Wire, channel: Channel, packet: _Packet) -> None:
        assert packet.body is not None
        self._sequence += 1
        self._unconfirmed[self._sequence] = packet
        self._unconfirmed_bytes += packet.cost
        self._idle.clear()
        wire.publish(
            channel.number,
            spec.Basic.Publish(
                exchange=packet.exchange, routing_key=packet.routing_key, mandatory=True
            ),
            spec.BasicProperties(
                delivery_mode=_PERSISTENT if packet.to.kind == "req" else _TRANSIENT,
                expiration=packet.expiration,
                # A return carries no number of its own: this tells which packet it was.
                message_id=str(self._sequence),
            ),
            packet.body,
        )
        packet.body = None
        packet.sent_at = asyncio.get_running_loop().time()

    def _settle(self, sequence: int, *, taken: bool) -> None:
        packet = self._unconfirmed.pop(sequence, None)
        if packet is None:
            return
        self._unconfirmed_bytes -= packet.cost
        if not self._unconfirmed:
            self._idle.set()
        if packet.returned is not None:
            packet.fail(
                Unroutable(
                    f"no queue at the broker takes {packet}: {packet.returned}",
                    hint="the other side has never started there, or its queue has expired",
                )
            )
        elif not taken:
            packet.fail(
                Nacked(f"the broker did not take {packet}: its queue is full or it lacks resources")
            )
        elif not packet.outcome.done():
            packet.outcome.set_result(None)

    def _lost(self, reason: Exception) -> None:
        """The channel has ended: nothing that was unconfirmed will be confirmed any more."""
        self._channel = None
        refused = refusal(reason, self._session.endpoint)
        for packet in self._forget_unconfirmed():
            if refused is not None and _is_about(reason, packet):
                packet.fail(copy.copy(refused))
            else:
                packet.fail(
                    OutcomeUnknown(f"the link ended before the broker confirmed {packet}: {reason}")
                )

    def _fail(self, failure: ChunkqError) -> None:
        if self._failure is None:
            self._failure = failure
        while self._queue:
            self._queue.pop(self._queue.first).fail(copy.copy(failure))

    def _give_up(self, closed: ChunkqError) -> None:
        for packet in self._forget_unconfirmed():
            packet.fail(OutcomeUnknown(f"{closed} before the broker confirmed {packet}"))

    def _forget_unconfirmed(self) -> list[_Packet]:
        packets = list(self._unconfirmed.values())
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0
        self._idle.set()
        return packets


def _is_about(reason: Exception, packet: _Packet) -> bool:
    """Whether the broker closed the channel because of this packet, going by its words.

    It names the size of a message that is too large, and the exchange or, quoted, the routing key
    of one that is not permitted.
    """
    if (sizes := too_large(reason)) is not None:
        return packet.size == sizes[0]
    if getattr(reason, "reply_code", None) != ACCESS_REFUSED:
        return False
    text = str(getattr(reason, "reply_text", ""))
    if "topic" in text:
        return f"'{packet.routing_key}'" in text
    return f"'{packet.exchange}'" in text


def _expiration(lifetime_s: float) -> str:
    return str(min(max(0, math.ceil(lifetime_s * 1000)), MAX_EXPIRATION_MS))


def _confirms_come_by_the_wire(_frame: object) -> None:
    """pika asks for a callback; the wire has taken the confirm before pika sees it."""
