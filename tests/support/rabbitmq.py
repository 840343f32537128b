"""Opening transports in tests, and looking at the broker from outside of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

from chunkq.errors import TransportError
from chunkq.ports import Buffer, Consumer, Delivery, Mailbox, Transport
from chunkq.transport.rabbitmq import RabbitMQOptions, RabbitMQTransport

#: Longest wait for anything that must happen; the machine may be busy.
DEADLINE_S = 30.0
#: So that a test does not wait out the delays that are right for the world.
QUICK: dict[str, Any] = {
    "reconnect_base_s": 0.05,
    "reconnect_cap_s": 0.2,
    "connect_timeout_s": 5.0,
    "close_timeout_s": 1.0,
}


class Sites:
    """Opens transports on one virtual host and closes them all."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: list[RabbitMQTransport] = []

    async def open(self, site: str, **options: Any) -> RabbitMQTransport:
        transport = RabbitMQTransport(
            RabbitMQOptions(**{"url": self.url, "site": site, **QUICK, **options})
        )
        await transport.open()
        self._opened.append(transport)
        return transport

    async def close(self) -> None:
        await asyncio.gather(*(transport.close() for transport in self._opened))


async def until(condition: Callable[[], bool]) -> None:
    """Wait until `condition` holds; fails after the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)


async def take(consumer: Consumer, count: int) -> list[Delivery]:
    """Receive until there are `count`."""
    taken: list[Delivery] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(taken) < count:
            taken += await consumer.receive()
    return taken


async def publish_at_last(transport: Transport, to: Mailbox, body: Buffer) -> list[type]:
    """Publish, trying again after what may be tried again; returns the errors met before."""
    met: list[type] = []
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                await transport.publish(to, body)
            except TransportError as error:
                met.append(type(error))
                await asyncio.sleep(0.02)
            else:
                return met


@contextmanager
def plain_channel(url: str) -> Iterator[BlockingChannel]:
    """A channel of stock pika, for what an administrator or a stranger would do."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        yield connection.channel()
