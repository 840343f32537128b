"""The RabbitMQ transport keeps every rule of a transport, on a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pika
import pytest

from chunkq.ports import Mailbox, Transport
from chunkq.transport.rabbitmq import RabbitMQOptions, RabbitMQTransport
from chunkq.transport.rabbitmq.topology import DEAD_LETTER_QUEUE, queue_name

from .conformance import DeadLetters, Elapse, Make, TransportConformance


@pytest.mark.rabbitmq
class TestRabbitMQTransport(TransportConformance):
    """The RabbitMQ transport keeps every rule of a transport."""

    @pytest.fixture
    async def make(self, amqp_url: str) -> AsyncIterator[Make]:
        made: list[Transport] = []

        async def make(site: str) -> Transport:
            transport = RabbitMQTransport(RabbitMQOptions(url=amqp_url, site=site))
            await transport.open()
            made.append(transport)
            return transport

        yield make
        await asyncio.gather(*(transport.close() for transport in made))

    @pytest.fixture
    def elapse(self) -> Elapse:
        return lambda seconds: None

    @pytest.fixture
    def dead_letters(self, amqp_url: str) -> DeadLetters:
        def count(queue: str) -> int:
            with pika.BlockingConnection(pika.URLParameters(amqp_url)) as connection:
                channel, found = connection.channel(), 0
                while True:
                    method, properties, _ = channel.basic_get(DEAD_LETTER_QUEUE)
                    if method is None:
                        return found
                    found += properties.headers["x-first-death-queue"] == queue

        async def dead_letters(mailbox: Mailbox) -> int:
            return await asyncio.to_thread(count, queue_name(mailbox))

        return dead_letters
