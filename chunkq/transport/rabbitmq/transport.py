"""The transport over RabbitMQ: two connections, one publisher, any number of consumers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from pika import exceptions

from chunkq.errors import TransportClosed
from chunkq.ports import Buffer, LinkHealth, Mailbox, Traffic, TransportLimits
from chunkq.protocol.priority import Priority
from chunkq.transport.rabbitmq.consumer import Inflow, RabbitMQConsumer
from chunkq.transport.rabbitmq.options import RabbitMQOptions
from chunkq.transport.rabbitmq.publisher import Publisher
from chunkq.transport.rabbitmq.refusals import connect_failure, refusal
from chunkq.transport.rabbitmq.session import Session
from chunkq.transport.rabbitmq.topology import queue_depth


class RabbitMQTransport:
    """See `ports.Transport`. Make it and use it within one event loop.

    One connection publishes and one consumes: under an alarm the broker reads no more from who
    publishes, and acknowledgements must still get through. `rng` gives numbers from 0 to 1.
    """

    def __init__(
        self, options: RabbitMQOptions, *, rng: Callable[[], float] = random.random
    ) -> None:
        self._options = options
        self._publishing = Session(options, "publishing", rng)
        self._consuming = Session(options, "consuming", rng)
        self._publisher = Publisher(self._publishing)
        self._inflow = Inflow(self._consuming)
        self._consumers: list[RabbitMQConsumer] = []
        self._closed = False

    @property
    def limits(self) -> TransportLimits:
        return TransportLimits(max_message_bytes=self._options.max_message_bytes)

    @property
    def health(self) -> LinkHealth:
        for session in (self._publishing, self._consuming):
            wire = session.current
            if wire is None or session.failure is not None:
                detail = session.trouble or f"the connection to {session.endpoint} was lost"
                return LinkHealth(ok=False, reason="broker_unreachable", detail=detail)
            if wire.blocked is not None:
                detail = f"the broker {session.endpoint} takes no messages now: {wire.blocked}"
                return LinkHealth(ok=False, reason="broker_blocked", detail=detail)
        troubles = [self._publisher.trouble, *(each.trouble for each in self._consumers)]
        if trouble := next(filter(None, troubles), None):
            return LinkHealth(ok=False, reason="broker_unreachable", detail=trouble)
        if late_s := self._publisher.stuck_s:
            detail = (
                f"the broker {self._publishing.endpoint} has confirmed nothing for {late_s:.0f} s: "
                "it is overloaded, or most nodes of its cluster are down"
            )
            return LinkHealth(ok=False, reason="broker_blocked", detail=detail)
        return LinkHealth(ok=True)

    @property
    def traffic(self) -> Traffic:
        """As `Transport.traffic` says: of both connections, frames and heartbeats included."""
        return self._publishing.traffic + self._consuming.traffic

    async def open(self) -> None:
        """As `Transport.open` says. Both connections at once: a far broker takes its time."""
        sessions = (self._publishing, self._consuming)
        opening = [asyncio.ensure_future(session.open()) for session in sessions]
        try:
            await asyncio.gather(*opening)
        except BaseException:
            for each in opening:
                each.cancel()
            await asyncio.wait(opening)
            await self._close_sessions()
            raise
        self._publisher.start()

    async def publish(
        self,
        to: Mailbox,
        body: Buffer,
        *,
        lifetime_s: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """As `Transport.publish` says. `body` must not change before it returns."""
        await self._publisher.publish(to, body, lifetime_s, priority)

    async def consume(self, mailbox: Mailbox, *, prefetch: int) -> RabbitMQConsumer:
        """As `Transport.consume` says."""
        if self._closed:
            raise TransportClosed("the transport was closed")
        consumer = RabbitMQConsumer(self._consuming, self._inflow, mailbox, prefetch)
        self._consumers.append(consumer)
        try:
            await consumer.start()
        except BaseException:
            self._consumers.remove(consumer)
            await consumer.close()
            raise
        return consumer

    async def depth(self, mailbox: Mailbox) -> int:
        """As `Transport.depth` says. Raises `BrokerRefused`, `BrokerUnreachable`."""
        # On the connection that an alarm does not block.
        wire = await self._consuming.wire()
        try:
            with self._inflow.answering():
                return await queue_depth(wire, mailbox)
        except exceptions.AMQPError as error:
            where = self._consuming.endpoint
            raise (refusal(error, where) or connect_failure(error, where)) from error

    async def close(self) -> None:
        """Wait a bounded time for pending confirms, then close; a second time does nothing."""
        if self._closed:
            return
        self._closed = True
        await self._publisher.close()
        for consumer in self._consumers:
            await consumer.close()
        await self._close_sessions()

    async def _close_sessions(self) -> None:
        await asyncio.gather(self._consuming.close(), self._publishing.close())
