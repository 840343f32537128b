"""What an operator sees of queues and dead letters, and does with them, on each carrier."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chunkq.compose import SystemClock
from chunkq.errors import BrokerRefused, BrokerUnreachable, UsageError
from chunkq.ports import Mailbox, Transport
from chunkq.ports.viewing import DeadLetter, QueueState
from chunkq.transport.rabbitmq import RabbitMQOptions
from chunkq.transport.rabbitmq.management import Management
from chunkq.transport.rabbitmq.viewing import RabbitMQViewer
from chunkq.transport.spool import SpoolOptions, SpoolTransport
from chunkq.transport.spool.viewing import SpoolViewer
from tests.support.broker import Broker, Epmd, find_scripts, free_ports, new_cookie
from tests.support.rabbitmq import QUICK, Sites, plain_channel, until

NORTH = Mailbox("req", "north")


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Broker, int]]:
    """A broker of its own with the management plugin, and the port of that."""
    (port,) = free_ports(1)
    config = (
        f"management.tcp.port = {port}\nmanagement.tcp.ip = 127.0.0.1\n"
        "collect_statistics_interval = 500\n"
    )
    broker = Broker(
        tmp_path_factory.mktemp("managed") / "node",
        find_scripts(),
        epmd=Epmd(*free_ports(1)),
        cookie=new_cookie(),
        plugins=("rabbitmq_management", "rabbitmq_auth_mechanism_ssl"),
    )
    broker.launch(config)
    yield broker, port
    broker.stop()


async def reject_all(transport: Transport, count: int) -> None:
    """An origin worker that cannot take what comes."""
    consumer = await transport.consume(NORTH, prefetch=10)
    async with asyncio.timeout(30):
        while count > 0:
            for each in await consumer.receive():
                consumer.reject(each)
                count -= 1
    await consumer.close()


# ---------------------------------------------------------------- spool


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[tuple[SpoolTransport, SpoolViewer, Path]]:
    """north's spool, open, and a view of it."""
    options = SpoolOptions(root=tmp_path, site="north")
    transport = SpoolTransport(options, SystemClock())
    await transport.open()
    yield transport, SpoolViewer(options), tmp_path
    await transport.close()


async def test_queues_of_a_spool(spool: tuple[SpoolTransport, SpoolViewer, Path]) -> None:
    """This site's own: what waits, since when, how large; who consumes, and what he has."""
    transport, viewer, root = spool
    assert [] == await viewer.queues(())
    consumer = await transport.consume(NORTH, prefetch=2)
    for number in range(5):
        await transport.publish(NORTH, bytes(10 + number))
    (root / "req.south").mkdir()
    async with asyncio.timeout(30):
        held = await consumer.receive()
        while len(held) < 2:
            held += await consumer.receive()
    names = sorted(os.listdir(root / "req.north" / "new"))
    [found] = await viewer.queues(())

    assert (
        QueueState(
            name="req.north",
            depth=3,
            consumers=1,
            unacknowledged=2,
            oldest_ms=int(names[0].split("-")[0]),
            size_bytes=12 + 13 + 14,
        )
        == found
    )

    await consumer.close()
    [found] = await viewer.queues(())
    assert (5, 0, 0) == (found.depth, found.consumers, found.unacknowledged)


async def test_dead_letters_of_a_spool(
    spool: tuple[SpoolTransport, SpoolViewer, Path],
) -> None:
    """They stay when looked at, go back as new ones, and can be removed."""
    transport, viewer, _ = spool
    consumer = await transport.consume(NORTH, prefetch=1)
    for body in (b"one", b"two"):
        await transport.publish(NORTH, body)
    await consumer.close()
    await reject_all(transport, 2)
    await until_letters(viewer, 2)
    letters = await viewer.dead_letters()

    assert [("req.north", "rejected", b"")] * 2 == [
        (each.queue, each.reason, each.key) for each in letters
    ]
    assert 0 == await viewer.requeue(lambda letter: letter.reason == "expired")
    first = letters[0].at_ms
    taken: list[DeadLetter] = []
    assert 1 == await viewer.requeue(lambda letter: not taken and not taken.append(letter))
    assert 1 == await transport.depth(NORTH)
    assert first == taken[0].at_ms
    assert 1 == await viewer.discard(lambda _: True)
    assert [] == await viewer.dead_letters()


async def until_letters(viewer: SpoolViewer, count: int) -> None:
    async with asyncio.timeout(30):
        while len(await viewer.dead_letters()) < count:  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)


async def test_a_spool_that_is_away(tmp_path: Path) -> None:
    """Says so, with what to do."""
    viewer = SpoolViewer(SpoolOptions(root=tmp_path / "stick", site="north"))
    with pytest.raises(BrokerUnreachable, match="plug in"):
        await viewer.queues(())


# ---------------------------------------------------------------- RabbitMQ


def options(url: str, site: str = "north") -> RabbitMQOptions:
    return RabbitMQOptions(url=url, site=site, **QUICK)


@pytest.mark.rabbitmq
async def test_queues_by_passive_declare(broker: Broker, vhost: str) -> None:
    """What a site may see by itself: depth and consumers of its own; dead letters it may not."""
    sites = Sites(broker.url(vhost=vhost))
    north, south = await sites.open("north"), await sites.open("south")
    consumer = await north.consume(NORTH, prefetch=1)
    for _ in range(3):
        await south.publish(NORTH, b"x")
    async with asyncio.timeout(30):
        await consumer.receive()
    viewer = RabbitMQViewer(options(sites.url))
    requests, letters = await viewer.queues(("nobody",))

    assert ("cq.req.north", 2, 1, None) == (
        requests.name,
        requests.depth,
        requests.consumers,
        requests.unacknowledged,
    )
    assert "cq.dlq" == letters.name
    assert "management" in letters.problem
    with pytest.raises(UsageError, match="may not read"):
        await viewer.dead_letters()
    await sites.close()


@pytest.mark.rabbitmq
async def test_a_broker_that_is_away(broker: Broker) -> None:
    """Within the time that a page waits."""
    url = broker.url().replace(f":{broker.ports.amqp}/", f":{free_ports(1)[0]}/")
    with pytest.raises(BrokerUnreachable):
        await RabbitMQViewer(options(url)).queues(())


@pytest.mark.rabbitmq
async def test_queues_and_dead_letters_with_the_management_api(
    managed: tuple[Broker, int],
) -> None:
    """All queues of this site are listed, none of another's; dead letters can be given a chance."""
    broker, port = managed
    sites = Sites(broker.url())
    north, south, mallory = [await sites.open(each) for each in ("north", "south", "mallory")]
    replies = await north.consume(Mailbox("rep", "north", "abc"), prefetch=1)
    await mallory.consume(Mailbox("req", "mallory"), prefetch=1)
    first = await north.consume(NORTH, prefetch=1)
    for sender, count in ((south, 2), (mallory, 3)):
        for _ in range(count):
            await sender.publish(NORTH, b"x")
    await south.publish(Mailbox("req", "mallory"), b"for another")
    await first.close()
    await reject_all(north, 5)
    add_operator(broker)
    viewer = RabbitMQViewer(
        options(broker.url()), Management(f"http://operator:se%2Fcret@127.0.0.1:{port}")
    )
    await until(lambda: broker.queue_length("/", "cq.dlq") == 5)

    letters = await viewer.dead_letters()
    assert [("south", 2), ("mallory", 3)] == [
        (each, sum(letter.sender == each for letter in letters)) for each in ("south", "mallory")
    ]
    assert {("cq.req.north", "rejected")} == {(each.queue, each.reason) for each in letters}
    assert all(each.at_ms > 1_600_000_000_000 for each in letters)

    assert 2 == await viewer.requeue(lambda letter: letter.sender == "south")
    await until(lambda: broker.queue_length("/", "cq.req.north") == 2)
    assert 0 == await viewer.requeue(lambda letter: letter.sender == "south")
    assert 3 == broker.queue_length("/", "cq.dlq")
    assert 3 == await viewer.discard(lambda letter: letter.sender == "mallory")
    assert 0 == broker.queue_length("/", "cq.dlq")

    found = await listed(viewer, {"cq.dlq", "cq.rep.north.abc", "cq.req.north"})
    assert (1, 0) == (found["cq.rep.north.abc"].consumers, found["cq.req.north"].consumers)
    await replies.close()
    await sites.close()


def add_operator(broker: Broker) -> None:
    """With what the deployment notes give one, and no more."""
    broker.add_user(
        "operator", "se/cret", "/", configure="^$", write="^cq[.]req$", read="^cq[.]dlq$"
    )
    broker.eval('rabbit_auth_backend_internal:set_tags(<<"operator">>, [monitoring], <<"test">>).')


async def listed(viewer: RabbitMQViewer, names: set[str]) -> dict[str, QueueState]:
    """The API is seconds behind: wait until it has counted."""
    async with asyncio.timeout(30):
        while True:
            found = {each.name: each for each in await viewer.queues(())}
            counted = all(each.depth is not None for each in found.values())
            if counted and found["cq.req.north"].depth == 2:
                assert names == set(found)
                return found
            await asyncio.sleep(0.2)


@pytest.mark.rabbitmq
async def test_a_dead_letter_that_no_queue_takes_stays(managed: tuple[Broker, int]) -> None:
    """Its queue is gone: it is not lost on the way back."""
    broker, port = managed
    vhost = broker.add_vhost()
    sites = Sites(broker.url(vhost=vhost))
    north = await sites.open("north")
    await (await north.consume(NORTH, prefetch=1)).close()
    await north.publish(NORTH, b"x")
    await reject_all(north, 1)
    await until(lambda: broker.queue_length(vhost, "cq.dlq") == 1)
    with plain_channel(sites.url) as channel:
        channel.queue_delete("cq.req.north")
    viewer = RabbitMQViewer(options(sites.url), Management(f"http://guest:guest@127.0.0.1:{port}"))

    with pytest.raises(BrokerRefused, match="no queue"):
        await viewer.requeue(lambda _: True)
    await until(lambda: broker.queue_length(vhost, "cq.dlq") == 1)
    await sites.close()


@pytest.mark.rabbitmq
def test_a_login_that_is_refused(managed: tuple[Broker, int]) -> None:
    """Says what to do, and never the password."""
    management = Management(f"http://nobody:secret@127.0.0.1:{managed[1]}")
    with pytest.raises(BrokerRefused) as caught:
        management.queues("/", ".*")
    assert "monitoring" in str(caught.value.hint)
    assert "secret" not in f"{caught.value.message} {caught.value.hint} {management!r}"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", BrokerRefused),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nno!", BrokerRefused),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n", BrokerRefused),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{", BrokerRefused),
        (b"SSH-2.0\r\n\r\n", BrokerUnreachable),
        (b"", BrokerUnreachable),
    ],
)
def test_what_is_no_management_api(answer: bytes, error: type[Exception]) -> None:
    """Something else listens there, or what it says is cut off: an error for people."""
    with answering(answer) as port, pytest.raises(error):
        Management(f"http://guest:guest@127.0.0.1:{port}").queues("/", ".*")


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """One connection that gets this, whatever it says."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()
