"""What the RabbitMQ transport does when the broker or the network fails under it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import replace

import psutil
import pytest

from chunkq.errors import (
    BrokerRefused,
    BrokerUnreachable,
    OutcomeUnknown,
    TransportClosed,
    Unroutable,
)
from chunkq.ports import Mailbox
from chunkq.protocol.limits import KIB, MIB
from chunkq.transport.rabbitmq import RabbitMQOptions, RabbitMQTransport, wire
from chunkq.transport.rabbitmq.topology import remove_if_idle
from tests.support.broker import Broker
from tests.support.proxy import Proxy
from tests.support.rabbitmq import (
    DEADLINE_S,
    QUICK,
    Sites,
    plain_channel,
    publish_at_last,
    take,
    until,
)

pytestmark = pytest.mark.rabbitmq

REQUESTS = Mailbox("req", "bob")
REPLIES = Mailbox("rep", "bob", "one")


@pytest.fixture
async def proxy(broker: Broker) -> AsyncIterator[Proxy]:
    async with Proxy(broker.ports.amqp) as running:
        yield running


async def test_broker_sigkill_and_restart_mid_transfer(
    broker: Broker, vhost: str, sites: Sites
) -> None:
    """After kill -9 what was unacknowledged comes again, and a stale ack has no effect."""
    alice, bob = await sites.open("alice"), await sites.open("bob")
    consumer = await bob.consume(REQUESTS, prefetch=100)
    sent = [str(number).encode() for number in range(20)]
    for body in sent:
        await alice.publish(REQUESTS, body)
    before = await take(consumer, 20)
    consumer.acknowledge(before[4])
    await until(lambda: broker.queue_length(vhost, "cq.req.bob") == 15)

    # RabbitMQ 3.10 writes down that a quorum queue exists half a second late; one that is younger
    # comes back without a leader. That is not what is tested here.
    broker.eval("[dets:sync(Table) || Table <- dets:all()].")
    broker.kill()
    await until(lambda: not alice.health.ok and not bob.health.ok)
    assert "broker_unreachable" == alice.health.reason
    while_down = asyncio.create_task(alice.publish(REQUESTS, b"while down"))
    await asyncio.to_thread(broker.restart)
    await asyncio.wait_for(while_down, DEADLINE_S)

    after = await take(consumer, 16)
    assert sorted([*sent[5:], b"while down"]) == sorted(delivery.body for delivery in after)
    assert {delivery.generation for delivery in after}.isdisjoint({before[0].generation})
    assert before[0].generation < after[0].generation
    # Tags begin again: taken at its word, this one would acknowledge ten of them.
    consumer.acknowledge(before[9])
    await consumer.close()
    assert 16 == broker.queue_length(vhost, "cq.req.bob")
    # It publishes as soon as one of its two connections is back.
    await until(lambda: alice.health.ok and bob.health.ok)


async def test_graceful_stop_is_no_refusal(broker: Broker, sites: Sites) -> None:
    """A broker that says goodbye is waited for, by senders and receivers."""
    alice, bob = await sites.open("alice"), await sites.open("bob")
    consumer = await bob.consume(REQUESTS, prefetch=10)
    receiving = asyncio.create_task(consumer.receive())
    await asyncio.to_thread(broker.shut_down)
    await until(lambda: not alice.health.ok and not bob.health.ok)
    sending = asyncio.create_task(alice.publish(REQUESTS, b"after the pause"))
    await asyncio.to_thread(broker.restart)
    await asyncio.wait_for(sending, DEADLINE_S)
    (delivery,) = await asyncio.wait_for(receiving, DEADLINE_S)
    assert b"after the pause" == delivery.body


async def test_tcp_reset_with_confirms_pending(
    broker: Broker, vhost: str, sites: Sites, proxy: Proxy
) -> None:
    """Packets that the broker has, and whose confirms are lost, have an unknown outcome."""
    bob = await sites.open("bob")
    await (await bob.consume(REQUESTS, prefetch=1)).close()
    alice = await sites.open("alice", url=broker.url(vhost=vhost, port=proxy.port))
    await alice.publish(REQUESTS, b"confirmed")
    proxy.down.blackhole()
    pending = [asyncio.create_task(alice.publish(REQUESTS, b"pending")) for _ in range(3)]
    await until(lambda: broker.queue_length(vhost, "cq.req.bob") == 4)
    proxy.reset()
    outcomes = await asyncio.gather(*pending, return_exceptions=True)
    assert [OutcomeUnknown] * 3 == [type(outcome) for outcome in outcomes]
    proxy.heal()
    await asyncio.wait_for(alice.publish(REQUESTS, b"again"), DEADLINE_S)
    assert 5 == broker.queue_length(vhost, "cq.req.bob")


@pytest.mark.parametrize("way", ["both", "up", "down"])
async def test_half_open_connection_and_one_way_blackhole(
    broker: Broker, vhost: str, sites: Sites, proxy: Proxy, way: str
) -> None:
    """Silence in one direction or both is noticed by heartbeat; afterwards all goes on."""
    bob = await sites.open("bob")
    consumer = await bob.consume(REQUESTS, prefetch=10)
    url = broker.url(vhost=vhost, port=proxy.port)
    alice = await sites.open("alice", url=url, heartbeat_s=1, connect_timeout_s=1.0)
    await alice.publish(REQUESTS, b"before")
    if way in {"both", "up"}:
        proxy.up.blackhole()
    if way in {"both", "down"}:
        proxy.down.blackhole()
    pending = asyncio.create_task(alice.publish(REQUESTS, b"pending"))
    await until(lambda: not alice.health.ok)
    with pytest.raises(OutcomeUnknown):
        await asyncio.wait_for(pending, DEADLINE_S)
    proxy.heal()
    await publish_at_last(alice, REQUESTS, b"after")
    bodies = [delivery.body for delivery in await take(consumer, 2)]
    while b"after" not in bodies:
        bodies += [delivery.body for delivery in await take(consumer, 1)]
    assert b"before" == bodies[0]


async def test_cut_in_the_middle_of_a_frame(
    broker: Broker, vhost: str, sites: Sites, proxy: Proxy
) -> None:
    """A connection that ends in mid-frame delivers no half packet, and all come whole."""
    alice = await sites.open("alice")
    bob = await sites.open("bob", url=broker.url(vhost=vhost, port=proxy.port))
    consumer = await bob.consume(REPLIES, prefetch=10)
    await bob.depth(REPLIES)
    proxy.down.cut_after_bytes = 300_000
    sent = [bytes([number]) * 256 * KIB for number in range(4)]
    for body in sent:
        await alice.publish(REPLIES, body)
    await until(lambda: proxy.connections > 2)
    proxy.down.cut_after_bytes = None
    received: set[bytes] = set()
    while received != set(sent):
        for delivery in await take(consumer, 1):
            assert delivery.body in sent
            received.add(delivery.body)


async def test_queue_deleted(sites: Sites) -> None:
    """A consumer whose queue is deleted makes it again, and what is sent then arrives."""
    alice, bob = await sites.open("alice"), await sites.open("bob")
    consumer = await bob.consume(REPLIES, prefetch=10)
    await alice.publish(REPLIES, b"before")
    (before,) = await take(consumer, 1)
    with plain_channel(sites.url) as channel:
        await asyncio.to_thread(channel.queue_delete, "cq.rep.bob.one")
    await publish_at_last(alice, REPLIES, b"after")
    (after,) = await take(consumer, 1)
    assert b"after" == after.body
    assert before.generation < after.generation


async def test_exchange_deleted(sites: Sites) -> None:
    """A deleted exchange is made again, and consumers bind to it again unasked."""
    alice, bob = await sites.open("alice"), await sites.open("bob", rebind_s=0.1)
    consumer = await bob.consume(REQUESTS, prefetch=10)
    await alice.publish(REQUESTS, b"before")
    await take(consumer, 1)
    with plain_channel(sites.url) as channel:
        await asyncio.to_thread(channel.exchange_delete, "cq.req")
    met = await publish_at_last(alice, REQUESTS, b"after")
    assert {OutcomeUnknown, Unroutable} >= set(met)
    (after,) = await take(consumer, 1)
    assert b"after" == after.body


async def test_memory_alarm(broker: Broker, vhost: str, sites: Sites) -> None:
    """Under a memory alarm publishers wait, acknowledgements drain, and then all goes on."""
    alice, bob = await sites.open("alice"), await sites.open("bob")
    consumer = await bob.consume(REQUESTS, prefetch=10)
    for _ in range(3):
        await alice.publish(REQUESTS, b"before")
    held = await take(consumer, 3)
    broker.set_memory_alarm(on=True)
    try:
        waiting = [asyncio.create_task(alice.publish(REQUESTS, b"waits")) for _ in range(5)]
        await until(lambda: alice.health.reason == "broker_blocked")
        consumer.acknowledge(held[-1])
        await until(lambda: broker.queue_length(vhost, "cq.req.bob") == 0)
        assert not any(task.done() for task in waiting)
    finally:
        broker.set_memory_alarm(on=False)
    await asyncio.wait_for(asyncio.gather(*waiting), DEADLINE_S)
    assert 5 == len(await take(consumer, 5))
    assert alice.health.ok


async def test_disk_alarm_at_connect(broker: Broker, sites: Sites) -> None:
    """A site that starts under a disk alarm opens, waits, and says why."""
    broker.eval("rabbit_disk_monitor:set_disk_free_limit(1 bsl 60).")
    try:
        bob = await sites.open("bob")
        consumer = await bob.consume(REQUESTS, prefetch=10)
        alice = await sites.open("alice")
        waiting = asyncio.create_task(alice.publish(REQUESTS, b"waits"))
        await until(lambda: alice.health.reason == "broker_blocked")
        assert "disk" in alice.health.detail
        assert not waiting.done()
    finally:
        broker.eval("rabbit_disk_monitor:set_disk_free_limit(50000000).")
    await asyncio.wait_for(waiting, DEADLINE_S)
    assert [b"waits"] == [delivery.body for delivery in await take(consumer, 1)]


async def test_1_gib_published_into_a_stalled_broker(broker: Broker, sites: Sites) -> None:
    """1 GiB that waits for a broker that stands still costs the window and 32 MiB at most."""
    bob = await sites.open("bob")
    await (await bob.consume(REPLIES, prefetch=1)).close()
    alice = await sites.open("alice", heartbeat_s=300)
    await alice.publish(REPLIES, b"warm")
    body = bytes(256 * KIB)
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    broker.freeze()
    try:
        waiting = [asyncio.create_task(alice.publish(REPLIES, body)) for _ in range(4096)]
        grown, settled = 0, 0
        while settled < 20:
            await asyncio.sleep(0.02)
            now = process.memory_info().rss - before
            settled = settled + 1 if now <= grown else 0
            grown = max(grown, now)
        assert 0 == sum(task.done() for task in waiting)
        assert grown < 16 * MIB + 32 * MIB
    finally:
        for task in waiting:
            task.cancel()
        broker.thaw()
    await asyncio.wait(waiting)
    await asyncio.wait_for(alice.publish(REPLIES, b"after"), DEADLINE_S)


async def test_unconfirmed_bytes_are_bounded(
    broker: Broker, vhost: str, sites: Sites, proxy: Proxy
) -> None:
    """Without confirms no more than the window is sent; the rest waits its turn, in order."""
    bob = await sites.open("bob")
    consumer = await bob.consume(REPLIES, prefetch=100)
    url = broker.url(vhost=vhost, port=proxy.port)
    alice = await sites.open("alice", url=url, unconfirmed_bytes=MIB)
    await alice.publish(REPLIES, b"warm")
    proxy.down.blackhole()
    sent = [bytes([number]) * 100 * KIB for number in range(30)]
    sending = [asyncio.create_task(alice.publish(REPLIES, body)) for body in sent]
    first = await take(consumer, 11)
    # Ten packets of 100 KiB fit into 1 MiB; the eleventh came first, to warm up.
    assert 11 == len(first)
    assert 0 == await bob.depth(REPLIES)
    proxy.heal()
    rest = await take(consumer, 20)
    await asyncio.wait_for(asyncio.gather(*sending), DEADLINE_S)
    assert sent == [delivery.body for delivery in [*first, *rest]][1:]


async def test_slow_receiver_is_not_flooded_and_not_taken_for_dead(sites: Sites) -> None:
    """What is not received stays at the broker, beyond several heartbeats of not reading, and
    while bindings are renewed."""
    alice, bob = (
        await sites.open("alice"),
        await sites.open("bob", waiting_bytes=2 * MIB, heartbeat_s=1, rebind_s=0.1),
    )
    consumer = await bob.consume(REPLIES, prefetch=1000)
    sent = [bytes([number]) * 256 * KIB for number in range(160)]
    await asyncio.gather(*(alice.publish(REPLIES, body) for body in sent))
    await asyncio.sleep(4)  # four intervals: the broker and pika both give up after two
    first = await consumer.receive()
    # The limit, the packet that passed it, what was in the receive buffer already, and one sip.
    assert sum(len(delivery.body) for delivery in first) <= 2 * MIB + 256 * KIB + 2 * MIB
    rest = await take(consumer, len(sent) - len(first))
    assert sent == [delivery.body for delivery in [*first, *rest]]
    assert {1} == {delivery.generation for delivery in [*first, *rest]}


async def test_receiver_that_stands_still_is_kept_connected_by_sips(
    sites: Sites, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A buffer is read now and then while paused: the broker drops those who take nothing."""
    monkeypatch.setattr(wire, "SIP_INTERVAL_S", 0.05)
    alice, bob = await sites.open("alice"), await sites.open("bob", waiting_bytes=256 * KIB)
    consumer = await bob.consume(REPLIES, prefetch=1000)
    sent = [bytes([number]) * 256 * KIB for number in range(100)]
    await asyncio.gather(*(alice.publish(REPLIES, body) for body in sent))
    await until(lambda: consumer._waiting_bytes > 16 * MIB)
    assert sent == [delivery.body for delivery in await take(consumer, len(sent))]


async def test_answers_come_while_a_receiver_is_slow(sites: Sites) -> None:
    """A full receiver does not hold up depth, another consumer's start, or its own end."""
    alice = await sites.open("alice")
    bob = await sites.open("bob", waiting_bytes=256 * KIB)
    slow = await bob.consume(REPLIES, prefetch=100)
    await asyncio.gather(*(alice.publish(REPLIES, bytes(256 * KIB)) for _ in range(40)))
    async with asyncio.timeout(DEADLINE_S):
        assert 0 == await bob.depth(REPLIES)
        other = await bob.consume(REQUESTS, prefetch=1)
        await other.close()
        await slow.close()
        assert 40 == await bob.depth(REPLIES)


async def test_close_waits_for_confirms_and_tells_the_others(
    broker: Broker, vhost: str, sites: Sites, proxy: Proxy
) -> None:
    """On close what was sent is confirmed, what was not says so, what hangs is unknown."""
    bob = await sites.open("bob")
    await (await bob.consume(REPLIES, prefetch=1)).close()
    url = broker.url(vhost=vhost, port=proxy.port)
    body = bytes(600 * KIB)

    alice = await sites.open("alice", url=url, unconfirmed_bytes=MIB, close_timeout_s=DEADLINE_S)
    await alice.publish(REPLIES, b"warm")
    proxy.down.delay_s = 0.2
    sent, queued = (asyncio.create_task(alice.publish(REPLIES, body)) for _ in range(2))
    await asyncio.sleep(0)
    await alice.close()
    outcomes = await asyncio.gather(sent, queued, return_exceptions=True)
    assert [type(None), TransportClosed] == [type(outcome) for outcome in outcomes]

    proxy.down.delay_s = 0
    carol = await sites.open("carol", url=url, close_timeout_s=0.2)
    await carol.publish(REPLIES, b"warm")
    proxy.down.blackhole()
    hanging = asyncio.create_task(carol.publish(REPLIES, body))
    await asyncio.sleep(0)
    await asyncio.wait_for(carol.close(), DEADLINE_S)
    with pytest.raises(OutcomeUnknown):
        await hanging


async def test_queue_that_never_confirms(
    broker: Broker, vhost: str, sites: Sites, proxy: Proxy
) -> None:
    """A queue without a leader confirms nothing for ever: after a while the outcome is unknown."""
    bob = await sites.open("bob")
    await (await bob.consume(REPLIES, prefetch=1)).close()
    url = broker.url(vhost=vhost, port=proxy.port)
    alice = await sites.open("alice", url=url, heartbeat_s=300, confirm_timeout_s=0.5)
    await alice.publish(REPLIES, b"warm")
    proxy.down.blackhole()
    with pytest.raises(OutcomeUnknown, match=r"0\.5 s"):
        await asyncio.wait_for(alice.publish(REPLIES, b"never confirmed"), DEADLINE_S)
    proxy.heal()
    await asyncio.wait_for(alice.publish(REPLIES, b"after"), DEADLINE_S)


async def test_password_changed_while_away_is_fatal(
    broker: Broker, vhost: str, sites: Sites, proxy: Proxy
) -> None:
    """If the broker refuses the login on reconnecting, everybody who waits is told."""
    broker.add_user("bob", "one", vhost)
    bob = await sites.open("bob", url=broker.url("bob", "one", vhost, port=proxy.port))
    consumer = await bob.consume(REQUESTS, prefetch=1)
    receiving = asyncio.create_task(consumer.receive())
    broker.add_user("bob", "two", vhost)
    proxy.reset()
    with pytest.raises(BrokerRefused, match="'bob'"):
        await asyncio.wait_for(receiving, DEADLINE_S)
    with pytest.raises(BrokerRefused, match="'bob'"):
        await asyncio.wait_for(bob.publish(REQUESTS, b"x"), DEADLINE_S)
    assert not bob.health.ok
    assert "'bob'" in bob.health.detail


@pytest.mark.parametrize("which", [0, 1])
async def test_opening_again_after_one_connection_failed(
    broker: Broker, vhost: str, which: int
) -> None:
    """If one of the two connections cannot be opened neither stays, and a later try succeeds."""
    url = broker.url(vhost=vhost)
    transport = RabbitMQTransport(RabbitMQOptions(url=url, site="bob", **QUICK))
    session = (transport._publishing, transport._consuming)[which]
    (there,) = session.endpoints
    session.endpoints[0] = replace(there, port=1)
    with pytest.raises(BrokerUnreachable):
        await transport.open()
    assert [None, None] == [each.current for each in (transport._publishing, transport._consuming)]
    session.endpoints[0] = there
    await transport.open()
    consumer = await transport.consume(Mailbox("req", "bob"), prefetch=1)
    await transport.publish(Mailbox("req", "bob"), b"here")
    assert [b"here"] == [delivery.body for delivery in await take(consumer, 1)]
    await transport.close()


async def test_a_forwarder_whose_broker_is_away_ends_nothing(
    broker: Broker, vhost: str, sites: Sites
) -> None:
    """It accepts and closes at once for a while: who was connected connects again."""
    refused = asyncio.Event()
    target = broker.ports.amqp

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        refused.set()
        writer.close()

    async with Proxy(target) as proxy:
        alice = await sites.open("alice", url=broker.url(vhost=vhost, port=proxy.port))
        consumer = await alice.consume(REPLIES, prefetch=1)
        port = proxy.port
    server = await asyncio.start_server(forward, "127.0.0.1", port)
    async with server, asyncio.timeout(DEADLINE_S):
        await refused.wait()
    forwarding = Proxy(target)
    forwarding.listen_on = port
    async with forwarding:
        await until(lambda: alice.health.ok)
        await publish_at_last(alice, REPLIES, b"again")
        assert [b"again"] == [delivery.body for delivery in await take(consumer, 1)]
        await consumer.close()
        await alice.close()


@pytest.mark.parametrize("resets", [False, True])
async def test_a_link_that_is_cut_while_it_is_made_anew(
    broker: Broker, vhost: str, sites: Sites, resets: bool
) -> None:
    """At whatever byte of the opening and of the set-up: once it holds, all goes on."""
    async with Proxy(broker.ports.amqp) as proxy:
        alice = await sites.open("alice", url=broker.url(vhost=vhost, port=proxy.port))
        consumer = await alice.consume(REPLIES, prefetch=100)
        proxy.down.cut_resets = resets
        for cut_bytes in (0, 5, *range(100, 1300, 100)):
            proxy.down.cut_after_bytes = cut_bytes
            wanted = proxy.connections + 4
            proxy.reset()
            await until(lambda most=wanted: proxy.connections >= most)
            proxy.down.cut_after_bytes = None
            await publish_at_last(alice, REPLIES, b"%d" % cut_bytes)
            came: list[bytes] = []
            while b"%d" % cut_bytes not in came:  # what was not acknowledged comes again first
                came += [each.body for each in await take(consumer, 1)]
        assert alice.health.ok
        await consumer.close()
        await alice.close()


async def test_queue_without_a_process_is_made_anew(
    broker: Broker, vhost: str, sites: Sites
) -> None:
    """One that the broker names and cannot deliver from, as a kill leaves it, is replaced."""
    alice, bob = await sites.open("alice"), await sites.open("bob")
    await (await bob.consume(REQUESTS, prefetch=10)).close()
    kill_queue(broker, vhost)
    consumer = await asyncio.wait_for(bob.consume(REQUESTS, prefetch=10), DEADLINE_S)
    await publish_at_last(alice, REQUESTS, b"delivered again")
    assert [b"delivered again"] == [each.body for each in await take(consumer, 1)]
    await until(lambda: bob.health.ok)


async def test_queue_that_dies_under_its_consumer_is_made_anew(
    broker: Broker, vhost: str, sites: Sites
) -> None:
    """Nobody starts the consumer again: it finds out when its connection is lost."""
    alice, bob = await sites.open("alice"), await sites.open("bob")
    consumer = await bob.consume(REQUESTS, prefetch=10)
    kill_queue(broker, vhost)
    broker.eval(
        '[rabbit_networking:close_connection(P, "test") || P <- rabbit_networking:connections()].'
    )
    await publish_at_last(alice, REQUESTS, b"delivered again")
    assert [b"delivered again"] == [each.body for each in await take(consumer, 1)]


async def test_queue_in_use_is_never_made_anew(sites: Sites) -> None:
    """One with packets in it or with another consumer is no dead one, whatever the broker says."""
    alice, bob = await sites.open("alice"), await sites.open("bob")
    consumer = await bob.consume(REQUESTS, prefetch=10)
    wire = await bob._consuming.wire()
    assert not await remove_if_idle(wire, REQUESTS)
    await consumer.close()
    await alice.publish(REQUESTS, b"waits")
    assert not await remove_if_idle(wire, REQUESTS)
    assert 1 == await bob.depth(REQUESTS)


def kill_queue(broker: Broker, vhost: str) -> None:
    """Leaves a quorum queue's name, and takes what is behind it."""
    broker.eval(
        "[ra:force_delete_server(quorum_queues, amqqueue:get_pid(Queue)) || Queue <- "
        f'rabbit_amqqueue:list(<<"{vhost}">>), amqqueue:get_type(Queue) == rabbit_quorum_queue].'
    )
