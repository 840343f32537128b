"""Sites that distrust each other on one broker, with what `deploy/rabbitmq/add-site` gives them.

north serves south; mallory is a site like them, and means harm. What the broker can deny it denies;
what it cannot, comes to nothing or is bounded.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import pytest
from pika import exceptions
from pika.adapters.blocking_connection import BlockingChannel

from chunkq.api.status import Status
from chunkq.compose import SystemClock, make_transport
from chunkq.errors import BrokerRefused, NotFound, Unroutable
from chunkq.ports import Mailbox, Transport
from chunkq.protocol import cbor
from chunkq.protocol.control import Command
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.packet import RequestKind
from chunkq.protocol.report import Report
from chunkq.runtime.identity import identity_of
from chunkq.runtime.ownsite import ControlDesk, OwnSealer, StatusSender, listen_for_control
from chunkq.settings import Link, Settings
from tests.api.hub import Hub
from tests.support.broker import Broker
from tests.support.rabbitmq import DEADLINE_S, Sites, plain_channel, until

pytestmark = pytest.mark.rabbitmq

SCRIPT = Path(__file__).parents[2] / "deploy" / "rabbitmq" / "add-site"
VHOST = "deployed"
#: What no queue may exceed, by the operator policy that the script sets, and by ours for requests.
MOST_BYTES, MOST_REQUEST_BYTES = 256 << 20, 64 << 20
#: What a full queue may hold beyond its cap: what was on its way.
SLACK_BYTES = 16 << 20


@dataclass(frozen=True)
class Deployed:
    """A virtual host as the script leaves it; each site's URL."""

    broker: Broker
    north: str
    south: str
    mallory: str

    @property
    def admin(self) -> str:
        return self.broker.url(vhost=VHOST)


@pytest.fixture(scope="module")
def deployed(broker: Broker) -> Iterator[Deployed]:
    """The script's own work, twice: it can be run again, and then changes no password."""
    sites = ("north", "south", "mallory")
    for site in sites:  # of other tests: who is there keeps the password
        broker.delete_user(site)
    said = broker.run("sh", str(SCRIPT), "-v", VHOST, "-b", "127.0.0.1", *sites)
    lines = dict(line.split(": ", 1) for line in said.splitlines())
    assert set(sites) == set(lines)
    urls = {}
    for site, line in lines.items():
        password = line.split(f"amqps://{site}:")[1].split("@")[0]
        assert 32 == len(password)
        urls[site] = broker.url(site, password, VHOST)
    broker.add_vhost(VHOST)  # guest, the administrator, may do everything there
    yield Deployed(broker, **urls)
    broker.delete_vhost(VHOST)


@asynccontextmanager
async def serving(deployed: Deployed, root: Path) -> AsyncIterator[tuple[Hub, Hub]]:
    """north and south, who know each other."""
    async with (
        Hub.start("north", root, deployed.north) as north,
        Hub.start("south", root, deployed.south) as south,
    ):
        north.befriend(south)
        south.befriend(north)
        yield north, south


def replies_to(hub: Hub) -> str:
    """The queue of its replies."""
    return f"cq.{hub.site._fetcher._requesters['default'][1].mailbox}"


async def fetched(north: Hub, south: Hub, root: Path, size_bytes: int = 1 << 20) -> None:
    """south gets a new file from north, and it is the same."""
    content = os.urandom(size_bytes)
    await north.post("south", "look", content)
    packet = await south.inbox.get()
    target = root / os.urandom(8).hex()
    await asyncio.wait_for(_ended(south.fetch(packet, target)), DEADLINE_S)
    assert content == target.read_bytes()


async def _ended(transfer: Any) -> None:
    await transfer


def test_script_can_be_run_again_and_only_told(deployed: Deployed) -> None:
    """A site that was there keeps its password; `-n` prints what would be run, and no secret."""
    said = deployed.broker.run("sh", str(SCRIPT), "-v", VHOST, "mallory")
    assert "mallory: was there before" in said
    with plain_channel(deployed.mallory) as channel:
        assert channel.is_open
    printed = deployed.broker.run("sh", str(SCRIPT), "-n", "-v", VHOST, "omega")
    assert "rabbitmqctl add_user omega" in printed
    assert "cq[.]req[.]omega" in printed
    with pytest.raises(RuntimeError, match="cannot name a site"):
        deployed.broker.run("sh", str(SCRIPT), "-n", "A.*")


Attempt = Callable[[BlockingChannel, str, str], object]


def publish(exchange: str, key: str, **properties: Any) -> Attempt:
    """An attempt to publish; with confirms, so that it is known to be refused."""

    def attempt(channel: BlockingChannel, _requests: str, replies: str) -> None:
        channel.confirm_delivery()
        instance = replies.rpartition(".")[2]
        channel.basic_publish(
            exchange, key.format(i=instance), b"x", pika.BasicProperties(**properties)
        )

    return attempt


def bind(exchange: str, key: str, own: str = "cq.rep.mallory.own") -> Attempt:
    return lambda channel, _, replies: channel.queue_bind(
        own, exchange, key.format(i=replies.rpartition(".")[2])
    )


def declare(name: str, **arguments: Any) -> Attempt:
    return lambda channel, *_: channel.queue_declare(name, **arguments)


#: What the broker must refuse, by what it would be good for. `requests` and `replies` are the
#: queues of north's requests and of south's replies, `{i}` is south's instance.
DENIED: dict[str, dict[str, Attempt]] = {
    "eavesdrop": {
        "consume requests": lambda ch, requests, _: ch.basic_consume(requests, print),
        "consume replies": lambda ch, _, replies: ch.basic_consume(replies, print),
        "get a request": lambda ch, requests, _: ch.basic_get(requests),
        "get a reply": lambda ch, _, replies: ch.basic_get(replies),
        "get a dead letter": lambda ch, *_: ch.basic_get("cq.dlq"),
        "consume dead letters": lambda ch, *_: ch.basic_consume("cq.dlq", print),
        "bind to dead letters": bind("cq.dlx", ""),
        "bind to south's replies": bind("cq.rep", "rep.*.south.{i}"),
        "bind to north's replies to south": bind("cq.rep", "rep.north.south.{i}"),
        "bind to all replies": bind("cq.rep", "#"),
        "bind to all replies of a site": bind("cq.rep", "rep.north.#"),
        "bind to its own, and more": bind("cq.rep", "rep.#.mallory.#"),
        "bind replies to north's requests": bind("cq.req", "req.north.*"),
        "bind to north's requests": bind("cq.req", "req.north.*", own="cq.req.mallory"),
        "bind to all requests": bind("cq.req", "#", own="cq.req.mallory"),
        "bind to requests of a site": bind("cq.req", "req.*.south", own="cq.req.mallory"),
        "bind exchange to exchange": lambda ch, *_: ch.exchange_bind(
            "cq.rep", "cq.req", "req.north.*"
        ),
    },
    "forge": {
        "ask as south": publish("cq.req", "req.north.south"),
        "ask as north": publish("cq.req", "req.north.north"),
        "ask as nobody": publish("cq.req", "req.north"),
        "ask as south and mallory": publish("cq.req", "req.north.south.mallory"),
        "answer as north": publish("cq.rep", "rep.north.south.{i}"),
        "answer as nobody": publish("cq.rep", "rep..south.{i}"),
        "requests by the default exchange": publish("", "cq.req.north"),
        "replies by the default exchange": publish("", "cq.rep.south.{i}"),
        "by an exchange of RabbitMQ's": publish("amq.topic", "req.north.mallory"),
        "by dead letters of the default exchange": declare(
            "cq.rep.mallory.dead", durable=True, arguments={"x-dead-letter-exchange": ""}
        ),
    },
    "take over": {
        "declare requests": declare("cq.req.north", durable=True),
        "declare a name below": declare("cq.req.north.mallory", durable=True),
        "declare replies": declare("cq.rep.south.other", durable=True),
        "declare dead letters": declare("cq.dlq", durable=True),
        "declare another name": declare("cq.other", durable=True),
        "declare a name below its own": declare("cq.req.mallory.x", durable=True),
        "declare an exclusive one": declare("", exclusive=True),
        "declare an exchange": lambda ch, *_: ch.exchange_declare("cq.other", "topic"),
        "declare the exchange": lambda ch, *_: ch.exchange_declare("cq.req", "fanout"),
        "bind south's queue": lambda ch, _, replies: ch.queue_bind(
            replies, "cq.rep", "rep.*.mallory.x"
        ),
        "unbind north's queue": lambda ch, requests, _: ch.queue_unbind(
            requests, "cq.req", "req.north.*"
        ),
        "unbind south's queue": lambda ch, _, replies: ch.queue_unbind(
            replies, "cq.rep", "rep.*.south." + replies.rpartition(".")[2]
        ),
    },
    "destroy": {
        "delete requests": lambda ch, requests, _: ch.queue_delete(requests),
        "delete replies": lambda ch, _, replies: ch.queue_delete(replies),
        "delete dead letters": lambda ch, *_: ch.queue_delete("cq.dlq"),
        "purge requests": lambda ch, requests, _: ch.queue_purge(requests),
        "purge replies": lambda ch, _, replies: ch.queue_purge(replies),
        "delete an exchange": lambda ch, *_: ch.exchange_delete("cq.rep"),
    },
}


@pytest.mark.parametrize("aim", list(DENIED))
async def test_what_the_broker_denies(aim: str, deployed: Deployed, tmp_path: Path) -> None:
    """Each attempt ends in the broker's ACCESS_REFUSED, and north goes on serving south."""

    def attempt_all(requests: str, replies: str) -> dict[str, object]:
        outcomes: dict[str, object] = {}
        with plain_channel(deployed.mallory) as channel:
            for own in ("cq.rep.mallory.own", "cq.req.mallory"):
                channel.queue_declare(own, durable=True)
            for name, attempt in DENIED[aim].items():
                try:
                    attempt(channel.connection.channel(), requests, replies)
                    outcomes[name] = "allowed"
                except exceptions.ChannelClosedByBroker as error:
                    outcomes[name] = (error.reply_code, error.reply_text.split(" - ")[0])
            for own in ("cq.rep.mallory.own", "cq.req.mallory"):
                channel.queue_delete(own)
        return outcomes

    async with serving(deployed, tmp_path) as (north, south):
        await fetched(north, south, tmp_path)
        queues = "cq.req.north", replies_to(south)
        outcomes = await asyncio.to_thread(attempt_all, *queues)
        assert dict.fromkeys(DENIED[aim], (403, "ACCESS_REFUSED")) == outcomes
        await fetched(north, south, tmp_path)


async def test_a_site_may_log_in_by_its_certificate(deployed: Deployed, tmp_path: Path) -> None:
    """With TLS and no password, and exactly the same permissions; nobody else's name by it."""
    broker = deployed.broker
    pem, key = broker.authority.issue("south")
    tls = {"ca": str(broker.authority.path), "cert": str(pem), "key": str(key), "external": True}
    url = broker.tls_url(VHOST)
    async with (
        Hub.start("north", tmp_path, deployed.north) as north,
        Hub.start("south", tmp_path, url, **tls) as south,
    ):
        north.befriend(south)
        south.befriend(north)
        await fetched(north, south, tmp_path)
    sites = Sites(url)
    files = {"tls_ca": tls["ca"], "tls_cert": tls["cert"], "tls_key": tls["key"]}
    liar = await sites.open("north", external=True, **files)
    with pytest.raises(BrokerRefused, match="refused for user 'south'"):
        await liar.consume(Mailbox("req", "north"), prefetch=1)
    await sites.close()


async def test_replayed_reflected_and_forged_packets_have_no_effect(
    deployed: Deployed, tmp_path: Path
) -> None:
    """A request that was captured is not answered again, nor after a restart; replies of another's
    are not taken; and nothing ever goes to who only says that it should.
    """
    with plain_channel(deployed.admin) as admin, plain_channel(deployed.mallory) as mallory:
        for tap, exchange, key in (
            ("tap.requests", "cq.req", "req.north.south"),
            ("tap.replies", "cq.rep", "rep.north.south.#"),
        ):
            admin.queue_declare(tap, durable=True)
            admin.queue_bind(tap, exchange, key)
        mallory.confirm_delivery()

        def replay(requests: list[bytes], to: str) -> None:
            for body in requests:
                mallory.basic_publish(
                    "cq.req", "req.north.mallory", body, pika.BasicProperties(reply_to=to)
                )

        async with serving(deployed, tmp_path) as (north, south):
            # The first request of all is refused, for north has no record of south's yet.
            await fetched(north, south, tmp_path)
            taken(admin, "tap.requests")
            taken(admin, "tap.replies")
            await fetched(north, south, tmp_path)
            requests, replies = taken(admin, "tap.requests"), taken(admin, "tap.replies")
            assert requests
            assert replies
            queue = replies_to(south)
            replay(requests, queue)
            await until(lambda: north.events.count("request_dropped") >= len(requests))
            instance = queue.rpartition(".")[2]
            for body in [*replies, b"junk", replies[0][:-1] + b"?"]:
                mallory.basic_publish("cq.rep", f"rep.mallory.south.{instance}", body)
                headers = {"CC": [f"rep.north.south.{instance}"]}
                mallory.basic_publish(
                    "cq.rep", "rep.mallory.no.one", body, pika.BasicProperties(headers=headers)
                )
            await until(lambda: deployed.broker.queue_length(VHOST, queue) == 0)
            assert "reply_dropped" in south.events
            await fetched(north, south, tmp_path)
            taken(admin, "tap.replies")
        keys = north.site.keys
        async with Hub.start("north", tmp_path, deployed.north, keys) as north:
            north.cards["south"] = south.site.card
            replay(requests, queue)
            await until(lambda: north.events.count("request_dropped") >= len(requests))
        assert [] == taken(admin, "tap.replies")
        for tap in ("tap.requests", "tap.replies"):
            admin.queue_delete(tap)


def taken(channel: BlockingChannel, queue: str) -> list[bytes]:
    """What is there, taken."""
    bodies = []
    while (found := channel.basic_get(queue, auto_ack=True))[0] is not None:
        bodies.append(found[2])
    return bodies


async def test_a_pinned_peer_reads_and_reflects_nothing_of_anothers(
    deployed: Deployed, tmp_path: Path
) -> None:
    """mallory, whom north knows, asks for what is south's, and for answers to go to south."""
    async with (
        serving(deployed, tmp_path) as (north, south),
        Hub.start("mallory", tmp_path, deployed.mallory) as mallory,
    ):
        north.befriend(mallory)
        mallory.befriend(north)
        await fetched(north, south, tmp_path)
        (of_south,) = north.offered
        with pytest.raises(NotFound):
            await mallory.site.fetch(f"north:files/{of_south}", tmp_path / "stolen", patience_s=20)
        assert not (tmp_path / "stolen").exists()

        link = await mallory.site._fetcher.peer(mallory.site._peer("north"))
        victim = replies_to(south).rpartition(".")[2]
        link.requester.instance = victim
        asking = mallory.site.fetch("north:files/anything", tmp_path / "reflected", patience_s=3)
        before = south.events.count("reply_dropped")
        await until(lambda: "reply_undeliverable" in north.events)
        asking.cancel()
        await asking.ended()
        assert before == south.events.count("reply_dropped")


async def test_filling_anothers_request_queue_is_bounded_and_passes(
    deployed: Deployed, tmp_path: Path
) -> None:
    """The broker refuses more than the cap; others are not touched; once north looks at it, it is
    dropped unread and south is served.
    """
    async with serving(deployed, tmp_path / "before") as (north, south):
        await fetched(north, south, tmp_path)
    filled = await asyncio.to_thread(fill, deployed.mallory, "cq.req", "req.north.mallory")
    assert MOST_REQUEST_BYTES <= filled + SLACK_BYTES
    assert filled <= MOST_REQUEST_BYTES + SLACK_BYTES
    with plain_channel(deployed.south) as channel:  # another's queue is not full
        channel.confirm_delivery()
        channel.basic_publish("cq.req", "req.south.south", b"x")
    async with serving(deployed, tmp_path) as (north, south):
        await fetched(north, south, tmp_path)
        assert "request_dropped" in north.events


async def test_a_queue_of_its_own_without_a_limit_has_one(deployed: Deployed) -> None:
    """Whatever a site declares, the operator policy holds."""
    with plain_channel(deployed.mallory) as channel:
        channel.queue_declare("cq.rep.mallory.huge", durable=True)
    limit = deployed.broker.eval(
        f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{VHOST}">>, queue, '
        '<<"cq.rep.mallory.huge">>)), rabbit_queue_type_util:args_policy_lookup('
        '<<"max-length-bytes">>, fun(V, _) -> V end, Q).'
    )
    assert MOST_BYTES == int(limit)
    with plain_channel(deployed.mallory) as channel:
        channel.queue_delete("cq.rep.mallory.huge")


async def test_others_are_served_while_one_floods(deployed: Deployed, tmp_path: Path) -> None:
    """Junk in north's requests and in south's replies, as fast as the broker confirms it."""
    async with serving(deployed, tmp_path) as (north, south):
        await fetched(north, south, tmp_path)
        instance = replies_to(south).rpartition(".")[2]
        stop = threading.Event()

        def flood() -> int:
            sent = 0
            with plain_channel(deployed.mallory) as channel:
                channel.confirm_delivery()
                while not stop.is_set():
                    channel.basic_publish("cq.req", "req.north.mallory", os.urandom(500))
                    key = f"rep.mallory.south.{instance}"
                    channel.basic_publish("cq.rep", key, os.urandom(500))
                    sent += 2
            return sent

        flooding = asyncio.create_task(asyncio.to_thread(flood))
        try:
            await until(lambda: "request_dropped" in north.events)
            for _ in range(3):
                await fetched(north, south, tmp_path)
        finally:
            stop.set()
            assert await flooding > 0


def fill(url: str, exchange: str, key: str) -> int:
    """Publish until the broker takes no more; returns the bytes it took."""
    body, filled = os.urandom(1 << 20), 0
    with plain_channel(url) as channel:
        channel.confirm_delivery()
        while filled < 1 << 30:
            try:
                channel.basic_publish(exchange, key, body)
            except exceptions.NackError:
                return filled
            filled += len(body)
    raise AssertionError("the broker takes everything")


async def test_only_a_site_itself_reports_and_steers(deployed: Deployed, tmp_path: Path) -> None:
    """north's processes on two hosts, with what the script gives: reports and commands come. What
    mallory puts into the same mailboxes is of no effect, and she reads none of them.
    """
    heard: list[Report] = []
    commands: list[Command] = []
    keys, hers = (identity_of(SiteKeys.generate(os.urandom)) for _ in range(2))
    clock, log = SystemClock(), quiet
    settings = Settings(
        name="north",
        directories={"config": tmp_path / "c", "state": tmp_path / "s"},
        links={"default": {"url": deployed.north}},
    )
    process = Report(
        site="north",
        host="there",
        pid=7,
        role="origin",
        instance="origin-abcdefghijkl",
        incarnation="ab" * 16,
        software="1",
        started_ms=1,
        at_ms=1,
    )
    mailbox = Mailbox("rep", "north", process.instance)
    north, mallory = (
        make_transport(Link(name="default", url=url), site, clock)
        for site, url in (("north", deployed.north), ("mallory", deployed.mallory))
    )
    await asyncio.gather(north.open(), mallory.open())
    desk = ControlDesk(keys, process.incarnation, clock, apply=commands.append, log=log)
    listening = asyncio.ensure_future(listen_for_control(north, mailbox, desk))
    sender = StatusSender(OwnSealer(keys, "north", clock, os.urandom), clock)
    forger = OwnSealer(hers, "north", clock, os.urandom)
    forged = process.model_copy(update={"host": "forged", "at_ms": 9})
    wanted = Command(incarnation=process.incarnation, action="drain", by="op@here")
    async with Status.listen(settings, heard.append, identity=keys, log=log) as status:
        await until(lambda: bool(status._transports))
        for to, kind, body in (
            (Mailbox("rep", "north", "status"), RequestKind.REPORT, cbor.encode(forged)),
            (mailbox, RequestKind.CONTROL, cbor.encode(wanted)),
        ):
            await reaches(mallory, to, forger.seal(kind, body, 10))
            with pytest.raises(BrokerRefused):
                await mallory.consume(to, prefetch=1)
        async with asyncio.timeout(DEADLINE_S):
            while not heard:
                sender.send(process, [("default", north)])
                sender._due_s.clear()
                await asyncio.sleep(0.05)
        await status.control("there", process.instance, "drain", by="op@here")
        await until(lambda: bool(commands))
        assert {"there"} == {report.host for report in heard}
        assert [wanted] == commands
        assert {"control_misaddressed": 1} == desk.drops.totals
        assert 1 == status._listener.drops["misaddressed"]
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)
    await sender.close()
    await asyncio.gather(north.close(), mallory.close())


async def reaches(transport: Transport, to: Mailbox, packet: bytes) -> None:
    """Publish as soon as there is such a mailbox."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await transport.publish(to, packet)
            except Unroutable:
                await asyncio.sleep(0.05)


def quiet(event: str, /, *, level: str = "info", **fields: object) -> None:
    """No log."""
