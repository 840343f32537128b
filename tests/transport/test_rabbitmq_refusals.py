"""What the RabbitMQ transport says when the broker will not serve it: fatal, readable, no loop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path

import pika.exceptions
import pytest

from chunkq.errors import (
    BrokerRefused,
    BrokerUnreachable,
    ConfigError,
    OutcomeUnknown,
    Unroutable,
    UsageError,
)
from chunkq.ports import Mailbox
from chunkq.protocol.limits import KIB
from chunkq.transport.rabbitmq import RabbitMQOptions, RabbitMQTransport
from tests.support.broker import Broker
from tests.support.certificates import Authority
from tests.support.rabbitmq import DEADLINE_S, Sites, publish_at_last, take, until

pytestmark = pytest.mark.rabbitmq

ALICE, BOB = Mailbox("rep", "alice", "one"), Mailbox("req", "bob")
#: As DESIGN 9: a site may make, read and bind what is its own, and publish under its own name.
OWN = r"cq\.req\.{0}|cq\.rep\.{0}\..*"
CONFIGURE = f"^({OWN})$"
WRITE = rf"^(cq\.req|cq\.rep|cq\.dlx|{OWN})$"
READ = rf"^(cq\.req|cq\.rep|{OWN})$"
TOPICS = {
    "cq.req": (r"^req\.[^.]+\.{username}$", r"^req\.{username}\.\*$"),
    "cq.rep": (r"^rep\.{username}\..*$", r"^rep\.\*\.{username}\.[^.*#]+$"),
}


def add_site(broker: Broker, vhost: str, name: str) -> str:
    """A user with a site's permissions; returns its URL."""
    own = [pattern.replace("{0}", name) for pattern in (CONFIGURE, WRITE, READ)]
    broker.add_user(name, "pw", vhost, configure=own[0], write=own[1], read=own[2], topics=TOPICS)
    return broker.url(name, "pw", vhost)


async def prepare(sites: Sites) -> None:
    """What an administrator makes beforehand: exchanges and dead letters."""
    setter = await sites.open("setter")
    consumer = await setter.consume(Mailbox("req", "setter"), prefetch=1)
    await consumer.close()
    await setter.publish(Mailbox("req", "setter"), b"the exchanges exist")


async def test_wrong_password(broker: Broker, vhost: str, sites: Sites) -> None:
    """It names the user and the broker, says what to do, and does not show the password."""
    with pytest.raises(BrokerRefused, match="login of the user 'guest'") as caught:
        await sites.open("alice", url=broker.url("guest", "sesame", vhost))
    assert "rabbitmqctl change_password guest" in str(caught.value.hint)
    assert "sesame" not in f"{caught.value}{caught.value.hint}"
    assert "sesame" not in repr(RabbitMQOptions(url="amqp://u:sesame@host", site="a"))


async def test_virtual_host_that_does_not_exist(broker: Broker, sites: Sites) -> None:
    """It names the virtual host."""
    with pytest.raises(BrokerRefused, match="'nowhere'"):
        await sites.open("alice", url=broker.url(vhost="nowhere"))


async def test_virtual_host_that_is_not_permitted(broker: Broker, vhost: str, sites: Sites) -> None:
    """It names user and virtual host, and the rabbitmqctl line that grants it."""
    url = add_site(broker, vhost, "alice")
    with pytest.raises(BrokerRefused, match="'alice' the virtual host '/'") as caught:
        await sites.open("alice", url=url.replace(f"/{vhost}", "/%2f"))
    assert "rabbitmqctl set_permissions -p / alice" in str(caught.value.hint)


async def test_nobody_listens(sites: Sites) -> None:
    """A port where nothing listens is unreachable, which may be tried again."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with pytest.raises(BrokerUnreachable, match="no connection to the broker"):
            await sites.open("alice", url=f"amqp://127.0.0.1:{held.getsockname()[1]}")


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"AMQP\x00\x01\x00\x00"])
async def test_not_an_amqp_broker(sites: Sites, answer: bytes) -> None:
    """Something else at that port is a refusal, not a reconnect loop."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerRefused, match="not an AMQP 0-9-1 broker"):
            await sites.open("alice", url=f"amqp://127.0.0.1:{port}")


async def test_a_port_that_accepts_and_closes_is_unreachable(sites: Sites) -> None:
    """A forwarder whose broker is away does that: it may be tried again."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnreachable, match="the broker closed the connection"):
            await sites.open("alice", url=f"amqp://127.0.0.1:{port}")


async def test_broker_that_says_nothing(sites: Sites) -> None:
    """A port that accepts and is silent is given up after the connect timeout."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(BrokerUnreachable, match="did not answer in time"):
            await sites.open("alice", url=f"amqp://127.0.0.1:{port}", connect_timeout_s=0.2)


async def test_redeclare_with_other_arguments(sites: Sites) -> None:
    """A queue that exists with other arguments is fatal, names them, and says what to do."""
    bob = await sites.open("bob")
    await (await bob.consume(Mailbox("rep", "bob", "one"), prefetch=1)).close()
    other = await sites.open("bob", reply_queue_bytes=KIB)
    with pytest.raises(BrokerRefused, match="x-max-length-bytes") as caught:
        await asyncio.wait_for(other.consume(Mailbox("rep", "bob", "one"), prefetch=1), DEADLINE_S)
    assert "delete_queue" in str(caught.value.hint)
    assert other.health.ok


async def test_limits_by_policy(broker: Broker, vhost: str, sites: Sites) -> None:
    """With `by_policy` the queue has no arguments of ours, and the policy's limits hold."""
    broker.eval(
        f'rabbit_policy:parse_set(<<"{vhost}">>, <<"requests">>, <<"^cq[.]req">>, '
        '<<"{\\"delivery-limit\\": 3, \\"dead-letter-exchange\\": \\"cq.dlx\\"}">>, <<"0">>, '
        '<<"queues">>, <<"test">>).'
    )
    alice, bob = await sites.open("alice"), await sites.open("bob", by_policy=True)
    await (await bob.consume(BOB, prefetch=1)).close()
    await alice.publish(BOB, b"poison")
    for _ in range(4):
        consumer = await bob.consume(BOB, prefetch=1)
        await take(consumer, 1)
        await consumer.close()
    assert 0 == broker.queue_length(vhost, "cq.req.bob")
    assert 1 == broker.queue_length(vhost, "cq.dlq")


async def test_chunk_larger_than_the_brokers_message_limit(broker: Broker, sites: Sites) -> None:
    """The packet is refused with both sizes; the connection stays and smaller ones go on."""
    broker.eval("application:set_env(rabbit, max_message_size, 100000).")
    try:
        alice, bob = await sites.open("alice"), await sites.open("bob")
        consumer = await bob.consume(BOB, prefetch=10)
        large, small = await asyncio.gather(
            alice.publish(BOB, bytes(100_001)),
            alice.publish(BOB, b"small"),
            return_exceptions=True,
        )
        assert isinstance(large, BrokerRefused)
        assert "at most 100000 bytes, this one has 100001" in large.message
        assert "max_message" in str(large.hint)
        assert small is None or isinstance(small, OutcomeUnknown)
        await publish_at_last(alice, BOB, b"after")
        assert b"after" in [delivery.body for delivery in await take(consumer, 1)]
    finally:
        broker.eval("application:set_env(rabbit, max_message_size, 134217728).")


async def test_exchanges_missing_and_not_permitted(
    broker: Broker, vhost: str, sites: Sites
) -> None:
    """A site that may not make the exchanges says which is missing, and to whom."""
    alice = await sites.open("alice", url=add_site(broker, vhost, "alice"))
    for work in (alice.publish(BOB, b"x"), alice.consume(ALICE, prefetch=1)):
        with pytest.raises(BrokerRefused, match=r"cq\.(req|rep).*'alice'"):
            await asyncio.wait_for(work, DEADLINE_S)


async def test_sites_with_nothing_but_their_own_permissions(
    broker: Broker, vhost: str, sites: Sites
) -> None:
    """Two such sites exchange a request and a reply, and dead letters work."""
    await prepare(sites)
    alice = await sites.open("alice", url=add_site(broker, vhost, "alice"), rebind_s=0.05)
    bob = await sites.open("bob", url=add_site(broker, vhost, "bob"))
    replies, requests = (
        await alice.consume(ALICE, prefetch=10),
        await bob.consume(BOB, prefetch=10),
    )
    await alice.publish(BOB, b"request")
    (request,) = await take(requests, 1)
    await bob.publish(ALICE, request.body + b" answered")
    assert [b"request answered"] == [delivery.body for delivery in await take(replies, 1)]
    assert 0 == await alice.depth(BOB)
    await alice.publish(BOB, b"poison")
    requests.reject((await take(requests, 1))[0])
    await until(lambda: broker.queue_length(vhost, "cq.dlq") == 1)


async def test_what_a_site_must_not_do(broker: Broker, vhost: str, sites: Sites) -> None:
    """Speak in another's name, or take, bind or delete what is another's."""
    await prepare(sites)
    url = add_site(broker, vhost, "alice")
    bob = await sites.open("bob", url=add_site(broker, vhost, "bob"))
    consumer = await bob.consume(BOB, prefetch=10)
    liar = await sites.open("carol", url=url)
    with pytest.raises(BrokerRefused, match=r"req\.bob\.carol.*'alice'"):
        await liar.publish(BOB, b"from carol, she says")
    with pytest.raises(BrokerRefused, match=r"rep\.carol\.bob\.one.*'alice'"):
        await liar.publish(Mailbox("rep", "bob", "one"), b"from carol, she says")
    for mailbox in (BOB, Mailbox("rep", "bob", "one")):
        with pytest.raises(BrokerRefused, match="'alice'"):
            await liar.consume(mailbox, prefetch=1)
    alice = await sites.open("alice", url=url)
    await (await alice.consume(ALICE, prefetch=1)).close()
    await (await alice.consume(Mailbox("req", "alice"), prefetch=1)).close()
    mine, reply = "cq.req.alice", "cq.rep.alice.one"
    for call, arguments in (
        ("queue_bind", (reply, "cq.rep", "rep.*.bob.one")),
        ("queue_bind", (reply, "cq.rep", "rep.#")),
        ("queue_bind", (reply, "cq.rep", "rep.#.alice.#")),
        ("queue_bind", (mine, "cq.req", "req.bob.*")),
        ("queue_bind", (mine, "cq.req", "#")),
        ("queue_delete", ("cq.req.bob",)),
        ("queue_purge", ("cq.req.bob",)),
        ("basic_get", ("cq.req.bob",)),
        ("basic_get", ("cq.dlq",)),
        ("exchange_delete", ("cq.req",)),
        ("exchange_declare", ("cq.other",)),
        ("queue_declare", ("cq.other",)),
    ):
        with (
            contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection,
            pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"),
        ):
            getattr(connection.channel(), call)(*arguments)
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="ACCESS_REFUSED"):
            channel.basic_publish("", "cq.req.bob", b"by the default exchange")
    await alice.publish(BOB, b"honest")
    assert [b"honest"] == [delivery.body for delivery in await take(consumer, 1)]


async def test_addresses_that_are_patterns(sites: Sites) -> None:
    """A `*`, a `#` or a dot in a name would reach others' packets: refused before sending."""
    alice = await sites.open("alice")
    for mailbox in (Mailbox("req", "*"), Mailbox("req", "bob.#"), Mailbox("rep", "bob", "")):
        with pytest.raises(UsageError):
            await alice.publish(mailbox, b"x")
        with pytest.raises(UsageError):
            await alice.consume(mailbox, prefetch=1)
    with pytest.raises(Unroutable):
        await alice.publish(BOB, b"goes on")


async def test_tls_with_certificate_login(broker: Broker, vhost: str, sites: Sites) -> None:
    """A site logs in by its certificate alone, the broker's is checked, and packets pass."""
    pem, key = broker.authority.issue("alice")
    broker.add_user("alice", "unused", vhost)
    ca = str(broker.authority.path)
    url = broker.tls_url(vhost)
    alice = await sites.open(
        "alice", url=url, external=True, tls_ca=ca, tls_cert=str(pem), tls_key=str(key)
    )
    consumer = await alice.consume(ALICE, prefetch=10)
    body = bytes(range(256)) * 16 * KIB
    await alice.publish(ALICE, body)
    assert [body] == [delivery.body for delivery in await take(consumer, 1)]
    with_password = await sites.open(
        "bob", url=broker.tls_url(vhost, login="guest:guest@"), tls_ca=ca
    )
    assert 0 == await with_password.depth(BOB)


async def test_tls_certificates_that_do_not_hold(
    broker: Broker, vhost: str, sites: Sites, tmp_path: Path
) -> None:
    """An unknown CA and another host's name are refusals, and so is TLS to a plain port."""
    ours, other = str(broker.authority.path), Authority(tmp_path / "other")
    login = "guest:guest@"
    with pytest.raises(BrokerRefused, match="certificate"):
        await sites.open("a", url=broker.tls_url(vhost, login=login), tls_ca=str(other.path))
    # 127.1 is the same machine, and stands in no certificate.
    with pytest.raises(BrokerRefused, match="certificate"):
        await sites.open("a", url=broker.tls_url(vhost, login=login, host="127.1"), tls_ca=ours)
    plain = broker.url(vhost=vhost, host="localhost").replace("amqp:", "amqps:")
    with pytest.raises((BrokerRefused, BrokerUnreachable)):
        await sites.open("a", url=plain, tls_ca=ours)
    stranger, key = other.issue("alice")
    with pytest.raises(BrokerRefused, match="this site's certificate"):
        await sites.open(
            "alice",
            url=broker.tls_url(vhost),
            external=True,
            tls_ca=ours,
            tls_cert=str(stranger),
            tls_key=str(key),
        )


async def test_certificate_of_an_unknown_user(broker: Broker, vhost: str, sites: Sites) -> None:
    """A good certificate whose name is no user of the broker is a refused login."""
    pem, key = broker.authority.issue("nobody")
    with pytest.raises(BrokerRefused, match="login of the user 'nobody'"):
        await sites.open(
            "nobody",
            url=broker.tls_url(vhost),
            external=True,
            tls_ca=str(broker.authority.path),
            tls_cert=str(pem),
            tls_key=str(key),
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "http://host"}, "amqp://"),
        ({"url": "amqp://"}, "name a host"),
        ({"url": "amqp://host:port"}, "does not parse"),
        ({"url": "amqp://host?frame=9000"}, "frame=9000"),
        ({"url": "amqp://host?heartbeat=0"}, "heartbeat"),
        ({"url": "amqp://host?frame_max=4096"}, "frame_max"),
        ({"url": "amqp://host", "site": "A.B"}, "'A.B'"),
        ({"url": "amqp://host", "tls_ca": "ca.pem"}, "amqps://"),
        ({"url": "amqps://host", "external": True}, "certificate"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, object], message: str) -> None:
    """Wrong options are named before anything is connected."""
    with pytest.raises(ConfigError, match=message):
        RabbitMQOptions(**{"site": "alice", **options})  # type: ignore[arg-type]


async def test_tls_files_that_are_missing() -> None:
    """A file that is not there is named."""
    transport = RabbitMQTransport(
        RabbitMQOptions(url="amqps://127.0.0.1:1", site="alice", tls_ca="/nonexistent/ca.pem")
    )
    with pytest.raises(ConfigError, match=r"/nonexistent/ca\.pem"):
        await transport.open()
