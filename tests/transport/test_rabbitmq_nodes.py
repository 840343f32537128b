"""A broker of several addresses, and one that is connected and does not do its part."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from pika.exceptions import ChannelClosedByBroker

from chunkq.errors import BrokerRefused, BrokerUnreachable, MailboxAway
from chunkq.ports import Mailbox
from chunkq.transport.rabbitmq import RabbitMQOptions, publisher
from chunkq.transport.rabbitmq.options import endpoints
from chunkq.transport.rabbitmq.refusals import set_up_failure
from tests.support.broker import Broker
from tests.support.proxy import Proxy
from tests.support.rabbitmq import DEADLINE_S, Sites, publish_at_last, take, until

pytestmark = pytest.mark.rabbitmq

REQUESTS = Mailbox("req", "bob")
REPLIES = Mailbox("rep", "bob", "one")


@pytest.fixture
async def proxies(broker: Broker) -> AsyncIterator[tuple[Proxy, Proxy]]:
    """Two addresses of the one broker."""
    async with Proxy(broker.ports.amqp) as first, Proxy(broker.ports.amqp) as second:
        yield first, second


@pytest.fixture
def dead() -> Iterator[int]:
    """A port where nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def url_of(broker: Broker, vhost: str, *ports: int) -> str:
    """One URL of several ports."""
    (host, own) = ("127.0.0.1", broker.ports.amqp)
    addresses = ",".join(f"{host}:{port}" for port in ports)
    return broker.url(vhost=vhost).replace(f"{host}:{own}", addresses)


async def test_another_node_when_one_is_lost(
    broker: Broker, vhost: str, sites: Sites, proxies: tuple[Proxy, Proxy], dead: int
) -> None:
    """They are tried in their order; what is lost is taken up again at the next that answers."""
    first, second = proxies
    url = url_of(broker, vhost, dead, first.port, second.port)
    bob = await sites.open("bob", url=url)
    consumer = await bob.consume(REQUESTS, prefetch=10)
    assert (2, 0) == (first.connections, second.connections)
    await bob.publish(REQUESTS, b"by the first")
    assert [b"by the first"] == [each.body for each in await take(consumer, 1)]

    first.reset()
    await until(lambda: second.connections == 2 and bob.health.ok)
    await publish_at_last(bob, REQUESTS, b"by the second")
    assert b"by the second" in [each.body for each in await take(consumer, 2)]
    second.reset()
    await until(lambda: first.connections == 4 and bob.health.ok)


async def test_no_node_answers(broker: Broker, vhost: str, sites: Sites, dead: int) -> None:
    """Each is named with its reason; a refusal counts more, for waiting does not mend it."""
    with pytest.raises(BrokerUnreachable, match=f"{dead}.*refused; .*{dead}.*refused"):
        await sites.open("bob", url=url_of(broker, vhost, dead, dead))
    url = url_of(broker, "nowhere", dead, broker.ports.amqp)
    with pytest.raises(BrokerRefused, match="'nowhere'"):
        await sites.open("bob", url=url)
    options = RabbitMQOptions(url=url_of(broker, vhost, 1, 2), site="bob")
    assert ["127.0.0.1:1", "127.0.0.1:2"] == [str(each) for each in endpoints(options)]


async def test_broker_that_confirms_nothing_is_told_of(
    broker: Broker,
    vhost: str,
    sites: Sites,
    proxies: tuple[Proxy, Proxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Connected and well but for that: a cluster without a majority looks so. It ends with it."""
    monkeypatch.setattr(publisher, "CONFIRM_LATE_S", 0.1)
    proxy, _ = proxies
    bob = await sites.open("bob")
    await (await bob.consume(REQUESTS, prefetch=1)).close()
    alice = await sites.open("alice", url=url_of(broker, vhost, proxy.port), heartbeat_s=300)
    await alice.publish(REQUESTS, b"confirmed")
    assert alice.health.ok
    proxy.down.blackhole()
    waiting = asyncio.create_task(alice.publish(REQUESTS, b"not confirmed"))
    await until(lambda: alice.health.reason == "broker_blocked")
    assert "confirmed nothing" in alice.health.detail
    assert not waiting.done()
    proxy.heal()
    await asyncio.wait_for(waiting, DEADLINE_S)
    assert alice.health.ok


async def test_broker_that_sets_up_no_queue(
    broker: Broker, vhost: str, sites: Sites, proxies: tuple[Proxy, Proxy]
) -> None:
    """A consumer that cannot start says so after a while; one that has started goes on trying,
    and the link's health tells it.
    """
    proxy, _ = proxies
    url = url_of(broker, vhost, proxy.port)
    late = await sites.open("late", url=url, heartbeat_s=300, set_up_timeout_s=0.3)
    bob = await sites.open("bob", url=url, heartbeat_s=300, set_up_timeout_s=0.3)
    consumer = await bob.consume(REPLIES, prefetch=1)
    proxy.down.blackhole()
    with pytest.raises(BrokerUnreachable, match=r"0 s.*cq\.rep\.late\.one"):
        await late.consume(Mailbox("rep", "late", "one"), prefetch=1)

    await asyncio.to_thread(broker.eval, _delete(vhost, "cq.rep.bob.one"))
    proxy.down.heal()
    proxy.up.blackhole()
    await until(lambda: not bob.health.ok)
    assert "broker_unreachable" == bob.health.reason
    assert "cq.rep.bob.one was lost" in bob.health.detail
    await until(lambda: "does not answer" in bob.health.detail)
    proxy.heal()
    await until(lambda: bob.health.ok)
    await publish_at_last(bob, REPLIES, b"after")
    assert [b"after"] == [each.body for each in await take(consumer, 1)]


def _delete(vhost: str, queue: str) -> str:
    """Erlang that deletes a queue, as an administrator would."""
    name = f'rabbit_misc:r(<<"{vhost}">>, queue, <<"{queue}">>)'
    return (
        f"{{ok, Q}} = rabbit_amqqueue:lookup({name}), "
        'rabbit_amqqueue:delete(Q, false, false, <<"test">>).'
    )


@pytest.mark.parametrize(
    "text",
    [
        "NOT_FOUND - home node 'a@b' of durable queue 'cq.rep.bob.one' in vhost '/' is down",
        "NOT_FOUND - queue 'cq.rep.bob.one' in vhost 'v' process is stopped by supervisor",
        "NOT_FOUND - queue 'cq.rep.bob.one' in vhost 'v' has crashed and failed to restart",
    ],
)
def test_queue_whose_node_is_down_is_told_from_one_that_is_missing(text: str) -> None:
    """The one cannot be made anew under its name, the other can."""
    (where,) = endpoints(RabbitMQOptions(url="amqp://host", site="bob"))
    away = set_up_failure(ChannelClosedByBroker(404, text), where)
    assert isinstance(away, MailboxAway)
    assert "cq.rep.bob.one" in away.message
    missing = ChannelClosedByBroker(404, "NOT_FOUND - no queue 'cq.rep.bob.one' in vhost '/'")
    assert BrokerUnreachable is type(set_up_failure(missing, where))
