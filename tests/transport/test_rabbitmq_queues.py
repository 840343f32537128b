"""Queues of the RabbitMQ transport: limits, dead letters, and the frames that make them."""

from __future__ import annotations

import asyncio
import copy
import gc
from collections.abc import Awaitable, Iterator
from typing import Any

import psutil
import pytest
from pika import frame, spec

from chunkq.compose import SystemClock, make_transport
from chunkq.errors import Nacked, TransportError
from chunkq.ports import Mailbox
from chunkq.protocol.limits import KIB, MIB
from chunkq.protocol.priority import Priority
from chunkq.settings import Link
from chunkq.transport.limited import LimitedTransport
from chunkq.transport.rabbitmq import RabbitMQOptions, frame_max_for
from chunkq.transport.rabbitmq.channel import Channel
from chunkq.transport.rabbitmq.session import Session, supervise
from chunkq.transport.rabbitmq.topology import DELIVERY_LIMIT
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


async def test_reply_queue_full(sites: Sites) -> None:
    """A full reply queue nacks, the origin's memory is bounded, and it takes more once drained."""
    alice = await sites.open("alice")
    bob = await sites.open("bob", reply_queue_bytes=2 * MIB)
    await (await bob.consume(REPLIES, prefetch=1)).close()
    body = bytes(256 * KIB)
    await alice.publish(REPLIES, body)
    gc.collect()
    process = psutil.Process()
    before = process.memory_info().rss
    outcomes = await asyncio.gather(
        *(alice.publish(REPLIES, body) for _ in range(400)), return_exceptions=True
    )
    assert {type(None), Nacked} == {type(outcome) for outcome in outcomes}
    assert process.memory_info().rss - before < 16 * MIB + 32 * MIB
    held = 1 + outcomes.count(None)
    assert held == await bob.depth(REPLIES)
    assert 8 <= held < 400
    consumer = await bob.consume(REPLIES, prefetch=1000)
    consumer.acknowledge((await take(consumer, held))[-1])
    await publish_at_last(alice, REPLIES, b"room again")
    assert [b"room again"] == [delivery.body for delivery in await take(consumer, 1)]


async def outcome_of(work: Awaitable[None]) -> type:
    """The type of the error that it ends with, or of None."""
    (outcome,) = await asyncio.gather(work, return_exceptions=True)
    return type(outcome)


async def test_request_queue_full(sites: Sites) -> None:
    """A full request queue nacks too, and what it took is there."""
    alice = await sites.open("alice")
    bob = await sites.open("bob", request_queue_bytes=64 * KIB)
    await (await bob.consume(REQUESTS, prefetch=1)).close()
    outcomes = [await outcome_of(alice.publish(REQUESTS, bytes(10 * KIB))) for _ in range(20)]
    taken = outcomes.count(type(None))
    assert [type(None)] * taken + [Nacked] * (20 - taken) == outcomes
    assert 6 <= taken < 20
    consumer = await bob.consume(REQUESTS, prefetch=1000)
    assert taken == len(await take(consumer, taken))


async def test_poison_request_that_crashes_workers_dead_letters_after_20(
    broker: Broker, vhost: str, sites: Sites
) -> None:
    """What comes back 20 times goes to the dead letters; others are served meanwhile."""
    alice, bob = await sites.open("alice"), await sites.open("bob")
    await (await bob.consume(REQUESTS, prefetch=1)).close()
    await alice.publish(REQUESTS, b"poison")
    served, crashes = set(), 0
    while broker.queue_length(vhost, "cq.req.bob"):
        consumer = await bob.consume(REQUESTS, prefetch=1)
        (delivery,) = await take(consumer, 1)
        if delivery.body == b"poison":
            assert delivery.redelivered == (crashes > 0)
            crashes += 1
            await alice.publish(REQUESTS, str(crashes).encode())
        else:
            served.add(delivery.body)
            consumer.acknowledge(delivery)
        await consumer.close()
    assert DELIVERY_LIMIT + 1 == crashes
    assert {str(number + 1).encode() for number in range(crashes)} == served
    with plain_channel(sites.url) as channel:
        method, properties, body = channel.basic_get("cq.dlq")
        assert method is not None
        assert (b"poison", "delivery_limit") == (
            body,
            properties.headers["x-first-death-reason"],
        )


async def test_acknowledge_up_to_a_rejected_packet(
    broker: Broker, vhost: str, sites: Sites
) -> None:
    """Whatever is rejected in between, an acknowledge lets go of all up to it, and no others."""
    alice, bob = await sites.open("alice"), await sites.open("bob")
    consumer = await bob.consume(REQUESTS, prefetch=10)
    for number in range(8):
        await alice.publish(REQUESTS, str(number).encode())
    held = await take(consumer, 8)
    for number in (2, 3, 3, 6):
        consumer.reject(held[number])
    consumer.acknowledge(held[3])
    consumer.reject(held[0])
    consumer.acknowledge(held[5])
    consumer.acknowledge(held[6])
    await until(lambda: broker.queue_length(vhost, "cq.req.bob") == 1)
    await until(lambda: broker.queue_length(vhost, "cq.dlq") == 3)
    await alice.publish(REQUESTS, b"next")
    (following,) = await take(consumer, 1)
    assert (held[0].generation, 9) == (following.generation, following.tag)


async def test_body_over_the_limit_goes_to_the_dead_letters_unstored(
    broker: Broker, vhost: str, sites: Sites
) -> None:
    """What a stranger puts into the queue and is too large is skipped; the next one arrives."""
    alice = await sites.open("alice", max_message_bytes=8 * MIB)
    bob = await sites.open("bob", max_message_bytes=MIB)
    consumer = await bob.consume(REQUESTS, prefetch=1)
    await alice.publish(REQUESTS, bytes(MIB + 1))
    await alice.publish(REQUESTS, bytes(MIB))
    (delivery,) = await take(consumer, 1)
    assert MIB == len(delivery.body)
    await until(lambda: broker.queue_length(vhost, "cq.dlq") == 1)


async def test_requests_survive_a_restart_of_the_broker_and_replies_need_not(
    sites: Sites, broker: Broker, vhost: str
) -> None:
    """Requests are persistent and replies transient, on queues that are both durable."""
    alice, bob = await sites.open("alice"), await sites.open("bob")
    for mailbox in (REQUESTS, REPLIES):
        await (await bob.consume(mailbox, prefetch=1)).close()
        await alice.publish(mailbox, b"x", lifetime_s=60)
    with plain_channel(sites.url) as channel:
        modes = {queue: channel.basic_get(queue)[1] for queue in ("cq.req.bob", "cq.rep.bob.one")}
    assert {"cq.req.bob": (2, "60000"), "cq.rep.bob.one": (1, "60000")} == {
        queue: (found.delivery_mode, found.expiration) for queue, found in modes.items()
    }
    durable = broker.eval(
        f'lists:all(fun amqqueue:is_durable/1, rabbit_amqqueue:list(<<"{vhost}">>)).'
    )
    assert "true" == durable


def frames_of(stream: bytes) -> Iterator[Any]:
    """The frames in what one connection sent, by pika's own decoder."""
    while stream:
        consumed, value = frame.decode_frame(stream)
        assert consumed, "the stream ends in mid-frame"
        stream = stream[consumed:]
        yield value


async def test_frames_hold_what_rabbitmq_4_demands(
    broker: Broker, vhost: str, sites: Sites, proxy_recording: Proxy
) -> None:
    """No transient queue, no global QoS, no retired argument, and no frame over the limit."""
    url = broker.url(vhost=vhost, port=proxy_recording.port)
    bob = await sites.open("bob", url=url)
    for mailbox in (REQUESTS, REPLIES):
        consumer = await bob.consume(mailbox, prefetch=10)
        await bob.publish(mailbox, bytes(300 * KIB))
        consumer.acknowledge((await take(consumer, 1))[0])
    await bob.close()
    frames = [value for seen in proxy_recording.up.seen for value in frames_of(bytes(seen))]
    methods = [value.method for value in frames if isinstance(value, frame.Method)]

    def sent(kind: type) -> list[Any]:
        return [method for method in methods if isinstance(method, kind)]

    assert all(tune.frame_max >= 8192 for tune in sent(spec.Connection.TuneOk))
    assert 2 == len(sent(spec.Connection.TuneOk))
    queues = [method for method in sent(spec.Queue.Declare) if not method.passive]
    assert {"cq.req.bob", "cq.rep.bob.one", "cq.dlq"} == {method.queue for method in queues}
    for method in queues:
        assert (method.durable, method.exclusive, method.auto_delete) == (True, False, False)
        assert {"x-queue-mode", "x-ha-policy"}.isdisjoint(method.arguments)
        assert method.arguments["x-queue-type"] in {"classic", "quorum"}
    by_name = {method.queue: method.arguments for method in queues}
    assert {
        "x-queue-type": "quorum",
        "x-delivery-limit": 20,
        "x-dead-letter-exchange": "cq.dlx",
        "x-max-length-bytes": 64 * MIB,
        "x-overflow": "reject-publish",
    } == by_name["cq.req.bob"]
    exchanges = [method for method in sent(spec.Exchange.Declare) if not method.passive]
    assert {("cq.req", "topic"), ("cq.rep", "topic"), ("cq.dlx", "fanout")} == {
        (method.exchange, method.type) for method in exchanges
    }
    assert all(method.durable for method in exchanges)
    assert [False, False] == [method.global_qos for method in sent(spec.Basic.Qos)]
    assert [True, True] == [method.mandatory for method in sent(spec.Basic.Publish)]
    assert 1 == len(sent(spec.Confirm.Select))
    assert all(ack.multiple for ack in sent(spec.Basic.Ack))
    largest = max(len(v.fragment) for v in frames if isinstance(v, frame.Body))
    assert 131072 - 8 == largest


@pytest.fixture
async def proxy_recording(broker: Broker) -> Any:
    async with Proxy(broker.ports.amqp) as proxy:
        proxy.up.recording = True
        yield proxy


class Faulty:
    """A sink that raises, as only a mistake of ours would."""

    def delivered(self, tag: int, redelivered: bool, body: bytes) -> None:
        raise ZeroDivisionError("a mistake in a sink")

    oversized = delivered


async def test_exception_in_a_handler_ends_the_connection_and_nobody_waits_for_ever(
    sites: Sites,
) -> None:
    """A callback that raises is not swallowed: calls fail with it, and the session reconnects."""
    alice, bob = await sites.open("alice"), await sites.open("bob")
    await (await bob.consume(REPLIES, prefetch=1)).close()
    await alice.publish(REPLIES, b"x")
    session = Session(RabbitMQOptions(url=sites.url, site="bob", **QUICK), "test", lambda: 0.5)
    await session.open()
    wire = await session.wire()
    channel = await Channel.open(wire)
    wire.attach_consumer(channel.number, Faulty())  # type: ignore[arg-type]
    channel.pika.basic_consume("cq.rep.bob.one", print)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(channel.call("basic_recover", requeue=True), DEADLINE_S)
    ended = await asyncio.wait_for(asyncio.shield(wire.ended), DEADLINE_S)
    assert isinstance(ended, ZeroDivisionError)
    assert ended is await channel.ended
    assert wire is not await asyncio.wait_for(session.wire(), DEADLINE_S)
    await session.close()


async def test_failure_of_a_background_task_reaches_those_who_wait() -> None:
    """A mistake in a background task becomes an error with its cause, not silence."""
    told: list[TransportError] = []

    async def work() -> None:
        raise ZeroDivisionError("a mistake in a task")

    await supervise(work(), told.append)  # type: ignore[arg-type]
    assert [TransportError] == [type(error) for error in told]
    assert isinstance(told[0].__cause__, ZeroDivisionError)
    again = copy.copy(told[0])
    assert (told[0].message, told[0].hint) == (again.message, again.hint)


@pytest.mark.parametrize(
    ("bytes_per_s", "frame_max"),
    [(None, 128 * KIB), (10 * MIB, 128 * KIB), (100_000, 64 * KIB), (2000, 8 * KIB)],
)
async def test_frames_follow_the_rate_of_the_link(
    sites: Sites, bytes_per_s: float | None, frame_max: int
) -> None:
    """One frame is at most a second of the link, from 8 to 128 KiB; the broker agrees to it, and
    packets of many frames still come through.
    """
    assert frame_max == frame_max_for(bytes_per_s)
    bob = await sites.open("bob", frame_max=frame_max_for(bytes_per_s))
    wires = [bob._publishing.current, bob._consuming.current]
    assert [frame_max] * 2 == [wire.params.frame_max for wire in wires if wire is not None]
    consumer = await bob.consume(REPLIES, prefetch=1)
    body = bytes(range(256)) * KIB
    await bob.publish(REPLIES, body)
    (delivery,) = await take(consumer, 1)
    assert body == delivery.body


async def test_a_links_rate_limits_its_frames(sites: Sites) -> None:
    """What the configuration says of a link reaches the connection to the broker."""
    link = Link(url=sites.url, receive_rate_bytes_per_s=50_000)
    transport = make_transport(link, "bob", SystemClock())
    await transport.open()
    try:
        assert isinstance(transport, LimitedTransport)
        wire = transport._inner._publishing.current  # type: ignore[attr-defined]
        assert 32 * KIB == wire.params.frame_max
    finally:
        await transport.close()


async def test_a_class_overtakes_what_waits_for_the_broker(sites: Sites) -> None:
    """While one packet is unconfirmed the others wait here: control first, bulk last."""
    alice, bob = await sites.open("alice", unconfirmed_bytes=1), await sites.open("bob")
    consumer = await bob.consume(REPLIES, prefetch=10)
    classes = [Priority.BULK, *Priority, Priority.BULK]
    await asyncio.gather(
        *(alice.publish(REPLIES, each.name.encode(), priority=each) for each in classes)
    )
    names = [delivery.body.decode() for delivery in await take(consumer, len(classes))]
    assert ["BULK", "CONTROL", "URGENT", "NORMAL", "BULK", "BULK"] == names
