"""What a link that is lost again and again leaves in memory: nothing that weighs anything."""

from __future__ import annotations

import asyncio
import secrets

import pytest

from chunkq.errors import OutcomeUnknown
from chunkq.ports import Mailbox
from chunkq.protocol.limits import KIB
from chunkq.transport.rabbitmq import RabbitMQTransport
from tests.support.broker import Broker
from tests.support.garbage import uncollected
from tests.support.proxy import Proxy
from tests.support.rabbitmq import DEADLINE_S, Sites, take, until

pytestmark = pytest.mark.rabbitmq

REPLIES = Mailbox("rep", "bob", "one")
LOSSES = 3
PENDING = 4


async def test_lost_connections_leave_no_buffers(broker: Broker, vhost: str, sites: Sites) -> None:
    """Neither their own, of 1 MiB, nor the packets that were under way when they were lost."""
    async with Proxy(broker.ports.amqp) as proxy:
        bob = await sites.open("bob", url=broker.url(vhost=vhost, port=proxy.port))
        consumer = await bob.consume(REPLIES, prefetch=100)
        with uncollected() as waste:
            for _ in range(LOSSES):
                await _lose(bob, proxy)
                # Its own come back to it: what has been received is let go of, too.
                await bob.publish(REPLIES, secrets.token_bytes(64 * KIB))
                for delivery in await take(consumer, 1):
                    consumer.acknowledge(delivery)
        assert [] == waste.buffers


async def test_connections_ended_by_nonsense_leave_no_buffers(
    broker: Broker, vhost: str, sites: Sites
) -> None:
    """The error that says so comes from where frames are read, and would hold what was read."""
    bob = await sites.open("bob")
    consumer = await bob.consume(REPLIES, prefetch=100)
    async with Proxy(broker.ports.amqp) as proxy:
        alice = await sites.open("alice", url=broker.url(vhost=vhost, port=proxy.port))
        with uncollected() as waste:
            for _ in range(LOSSES):
                await alice.publish(REPLIES, secrets.token_bytes(64 * KIB))
                proxy.down.spoil_next = True
                with pytest.raises(OutcomeUnknown):
                    await alice.publish(REPLIES, secrets.token_bytes(64 * KIB))
                for delivery in await take(consumer, 2):
                    consumer.acknowledge(delivery)
        assert [] == waste.buffers


async def _lose(site: RabbitMQTransport, proxy: Proxy) -> None:
    """Reset both connections with packets under way, and wait until it is back."""
    proxy.up.blackhole()
    sending = [
        asyncio.create_task(site.publish(REPLIES, secrets.token_bytes(64 * KIB)))
        for _ in range(PENDING)
    ]
    await asyncio.sleep(0)
    proxy.reset()
    await asyncio.wait(sending, timeout=DEADLINE_S)
    assert [OutcomeUnknown] * PENDING == [type(each.exception()) for each in sending]
    proxy.heal()
    await until(lambda: site.health.ok)
