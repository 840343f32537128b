"""Two brokers joined by the scripts of deploy/rabbitmq: each site reaches its own, and no other."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pika
import pytest
from pika import exceptions
from pika.adapters.blocking_connection import BlockingChannel

from tests.api.hub import Hub
from tests.support.broker import Broker
from tests.support.proxied import ProxyThread
from tests.support.proxy import Proxy
from tests.support.rabbitmq import DEADLINE_S, plain_channel, until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.xdist_group("two-brokers")]

DEPLOY = Path(__file__).parents[2] / "deploy" / "rabbitmq"
JOINED, DIALLED = "joined", "dialled"
#: Some seconds on the way, so that something can happen in between.
RATE_BYTES_S = 4 << 20


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The other broker."""
    started = Broker.start(tmp_path_factory.mktemp("far") / "node")
    yield started
    started.stop()


def run(broker: Broker, script: str, *arguments: str, stdin: str = "") -> str:
    return broker.run("sh", str(DEPLOY / script), *arguments, stdin=stdin)


def add_site(broker: Broker, vhost: str, site: str) -> str:
    """Returns its URL."""
    said = run(broker, "add-site", "-v", vhost, "-b", "127.0.0.1", site)
    password = said.split(f"amqps://{site}:")[1].split("@")[0]
    return broker.url(site, password, vhost)


def join(here: Broker, there: Broker, name: str) -> None:
    """Bring to one broker what is at the other for its sites; `name`: what this one is called."""
    uri = run(there, "join-brokers", "-v", JOINED, "-b", "127.0.0.1", "-u", name).strip()
    # No TLS in between on this machine; it is looked at below.
    plain = uri.replace("amqps:", "amqp:").replace("127.0.0.1", f"127.0.0.1:{there.ports.amqp}")
    run(here, "join-brokers", "-v", JOINED, "other", plain.partition("?")[0])


async def test_a_file_gets_across_both_ways(broker: Broker, far: Broker, tmp_path: Path) -> None:
    """north's broker and south's are two; requests and replies find the right one."""
    urls = await asyncio.gather(
        asyncio.to_thread(add_site, broker, JOINED, "northern"),
        asyncio.to_thread(add_site, far, JOINED, "southern"),
    )
    await asyncio.gather(
        asyncio.to_thread(join, broker, far, "near"), asyncio.to_thread(join, far, broker, "far")
    )
    try:
        async with (
            Hub.start("northern", tmp_path, urls[0]) as north,
            Hub.start("southern", tmp_path, urls[1]) as south,
        ):
            north.befriend(south)
            south.befriend(north)
            assert await across(north, south, tmp_path)
            assert await across(south, north, tmp_path)
    finally:
        broker.delete_vhost(JOINED)


async def across(
    origin: Hub, requester: Hub, root: Path, half_way: Callable[[], None] | None = None
) -> bool:
    """Whether a file that one offers is the same at the other. `half_way` is called meanwhile."""
    content = os.urandom(5 << 20)
    await origin.post(requester.name, "look", content)
    packet = await requester.inbox.get()
    target = root / f"from-{packet.sender}"
    async with asyncio.timeout(2 * DEADLINE_S):
        transfer = requester.site.fetch(packet.source, target, patience_s=DEADLINE_S)
        if half_way is not None:
            await until(lambda: transfer.progress().chunks_present > 4)
            half_way()
            assert not target.exists()
        await transfer
    return content == target.read_bytes()


@dataclass(frozen=True)
class Dialled:
    """island's broker dials shore's, by TLS and through a proxy; nobody can dial island's."""

    shore_broker: Broker
    island: str
    shore: str
    password: str
    proxies: ProxyThread
    proxy: Proxy


@pytest.fixture(scope="module")
def dialled(broker: Broker, far: Broker) -> Iterator[Dialled]:
    """Both brokers as the scripts leave them."""
    with ThreadPoolExecutor() as pool, ProxyThread() as proxies:
        island = pool.submit(add_site, broker, DIALLED, "island")
        shore = add_site(far, DIALLED, "shore")
        let_in = ("-v", DIALLED, "-b", "localhost", "-u", "inner", "island")
        said = run(far, "shovel-brokers", *let_in).strip()
        proxy = proxies.open(far.ports.tls)
        uri = said.replace("@localhost/", f"@localhost:{proxy.port}/")
        uri = uri.replace("/etc/rabbitmq/tls/ca.pem", str(far.authority.path))
        island.result()
        run(broker, "shovel-brokers", "-v", DIALLED, "far", "-", "shore", stdin=uri)
        password = said.split(":")[2].split("@")[0]
        yield Dialled(far, island.result(), shore, password, proxies, proxy)
        broker.delete_vhost(DIALLED)
        far.delete_vhost(DIALLED)


async def test_a_file_gets_across_where_one_side_can_only_dial_out(
    dialled: Dialled, tmp_path: Path
) -> None:
    """Both ways, by TLS; also when the link between the brokers is lost meanwhile. The one that is
    dialled knows no address of the other.
    """
    async with (
        Hub.start("island", tmp_path, dialled.island) as island,
        Hub.start("shore", tmp_path, dialled.shore) as shore,
    ):
        island.befriend(shore)
        shore.befriend(island)
        proxy = dialled.proxy
        proxy.down.rate_bytes_s = RATE_BYTES_S
        lost = partial(dialled.proxies.do, proxy.reset)
        assert await across(shore, island, tmp_path, half_way=lost)
        proxy.down.rate_bytes_s = None
        assert await across(island, shore, tmp_path)
        assert proxy.connections >= 8
        known = dialled.shore_broker.eval(
            f'rabbit_runtime_parameters:list(<<"{DIALLED}">>, <<"shovel">>).'
        )
        assert "[]" == known


async def test_what_goes_round_goes_round_once(dialled: Dialled) -> None:
    """A site that has its packet routed both ways, by the header CC, does not keep the link busy.

    What is sent after it, one way and then the other, comes after all that it could cause.
    """

    def play() -> tuple[list[bytes], list[bytes]]:
        with plain_channel(dialled.island) as inner, plain_channel(dialled.shore) as outer:
            for channel, site in ((inner, "island"), (outer, "shore")):
                channel.confirm_delivery()
                channel.queue_declare(f"cq.rep.{site}.loop", durable=True)
                channel.queue_bind(f"cq.rep.{site}.loop", "cq.rep", f"rep.*.{site}.loop")
            both = pika.BasicProperties(headers={"CC": ["rep.shore.island.loop"]})
            inner.basic_publish("cq.rep", "rep.island.shore.loop", b"round", both)
            inner.basic_publish("cq.rep", "rep.island.shore.loop", b"there")
            at_shore = taken_until(outer, "cq.rep.shore.loop", b"there")
            outer.basic_publish("cq.rep", "rep.shore.island.loop", b"back")
            at_island = taken_until(inner, "cq.rep.island.loop", b"back")
            inner.basic_publish("cq.rep", "rep.island.shore.loop", b"there")
            at_shore += taken_until(outer, "cq.rep.shore.loop", b"there")
        return at_island, at_shore

    at_island, at_shore = await asyncio.to_thread(play)
    assert [b"round", b"back"] == at_island
    assert [b"round", b"there", b"there"] == at_shore


def taken_until(channel: BlockingChannel, queue: str, last: bytes) -> list[bytes]:
    """What comes, up to that."""
    bodies = []
    for method, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=DEADLINE_S):
        assert method is not None, f"waited in vain for {last!r}"
        bodies.append(body)
        if body == last:
            break
    channel.cancel()
    return bodies


async def test_what_the_broker_that_dials_may_do_there(dialled: Dialled) -> None:
    """Take what waits for its sites and publish; the rest is refused."""
    waiting, own = "cq.join.inner.rep", "cq.rep.shore.any"
    denied: dict[str, Callable[[BlockingChannel], object]] = {
        "read requests": lambda ch: ch.basic_get("cq.req.shore"),
        "read dead letters": lambda ch: ch.basic_get("cq.dlq"),
        "read replies": lambda ch: ch.basic_consume(own, print),
        "declare a queue": lambda ch: ch.queue_declare("cq.join.inner.other", durable=True),
        "declare a private one": lambda ch: ch.queue_declare("", exclusive=True),
        "declare an exchange": lambda ch: ch.exchange_declare("cq.join.other", "topic"),
        "bind what it reads": lambda ch: ch.queue_bind(waiting, "cq.req", "#"),
        "bind an exchange": lambda ch: ch.exchange_bind("cq.req", "cq.rep", "#"),
        "delete what it reads": lambda ch: ch.queue_delete(waiting),
        "delete an exchange": lambda ch: ch.exchange_delete("cq.req"),
        "publish by the default exchange": lambda ch: ch.basic_publish("", own, b"x"),
        "publish dead letters": lambda ch: ch.basic_publish("cq.dlx", "", b"x"),
    }

    def attempt_all() -> dict[str, object]:
        outcomes: dict[str, object] = {}
        url = dialled.shore_broker.url("broker-inner", dialled.password, DIALLED)
        with plain_channel(url) as channel:
            for name, attempt in denied.items():
                try:
                    with channel.connection.channel() as tried:
                        tried.confirm_delivery()
                        attempt(tried)
                    outcomes[name] = "allowed"
                except exceptions.ChannelClosedByBroker as error:
                    outcomes[name] = error.reply_code
            assert channel.basic_get(waiting)[0] is None
        return outcomes

    outcomes = await asyncio.to_thread(attempt_all)
    assert dict.fromkeys(denied, 403) == outcomes


def test_the_script_forgets_sites_and_refuses_its_own(dialled: Dialled) -> None:
    """Run again with other sites, only those are reached; a site that is here is not there."""
    shore_broker = dialled.shore_broker

    def keys() -> set[str]:
        found = shore_broker.eval(
            "[binary_to_list(element(3, B)) || B <- rabbit_binding:list_for_source("
            f'rabbit_misc:r(<<"{DIALLED}">>, exchange, <<"cq.join.inner.out">>))].'
        )
        return set(re.findall(r'"([^"]+)"', found))

    again = ("shovel-brokers", "-v", DIALLED, "-b", "localhost", "-u", "inner")
    assert {"req.island.*", "rep.*.island.*"} == keys()
    assert "" == run(shore_broker, *again, "atoll")
    assert {"req.atoll.*", "rep.*.atoll.*"} == keys()
    with pytest.raises(RuntimeError, match="'shore' is a site at this broker"):
        run(shore_broker, *again, "shore")
    printed = run(shore_broker, *again[:1], "-n", *again[1:], "island")
    assert "rabbitmqctl import_definitions" in printed
    assert "amqps" not in printed
