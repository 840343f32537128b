"""Transfers over a cluster of three RabbitMQ nodes, of which some die or stand still meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import chunkq
from chunkq.errors import TransportError
from chunkq.ports import Mailbox
from tests.api.hub import Hub
from tests.support.cluster import Cluster
from tests.support.demands import Recorded
from tests.support.proxy import Proxy
from tests.support.rabbitmq import Sites, until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.xdist_group("cluster")]

#: Some seconds on the way, so that a node is lost in between.
SIZE_BYTES = 16 << 20
RATE = "6MiB/s"
#: Longest wait for anything that must happen; the machine may be busy.
DEADLINE_S = 90.0
REQUESTS = Mailbox("req", "bob")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster.start(tmp_path_factory.mktemp("cluster"))
    yield started
    started.stop()


@pytest.fixture
def vhost(cluster: Cluster) -> str:
    """A virtual host for this test alone, on a cluster that is whole."""
    cluster.mend()
    return cluster.nodes[0].add_vhost()


@dataclass
class Crossing:
    """A file on its way from bob."""

    transfer: chunkq.Transfer
    source: Path
    destination: Path

    async def until(self, condition: Callable[[chunkq.Progress], object]) -> list[chunkq.Progress]:
        """Wait until it holds; returns what was shown until then."""
        seen = []
        async with asyncio.timeout(DEADLINE_S):
            while not condition(now := self.transfer.progress()):
                seen.append(now)
                await asyncio.sleep(0.02)
        return seen

    async def under_way(self) -> None:
        """Wait until a part of it is here, and much is not."""
        await self.until(lambda now: now.bytes_present > SIZE_BYTES // 8)
        assert self.transfer.progress().bytes_present < SIZE_BYTES // 2

    async def arrived(self) -> set[str]:
        """Wait for its end: it is the same. Returns the reasons shown until then."""
        seen = await self.until(lambda now: now.phase in ("done", "failed"))
        await self.transfer
        assert self.source.read_bytes() == self.destination.read_bytes()
        return {now.waiting.reason for now in seen if now.waiting is not None}

    async def waits(self, reason: str) -> str:
        """Wait until that is shown; returns its detail."""
        await self.until(lambda now: now.waiting is not None and now.waiting.reason == reason)
        waiting = self.transfer.progress().waiting
        return waiting.detail if waiting is not None else ""


class Party:
    """bob, who serves, and those who get from him; each connects to one node first."""

    def __init__(self, root: Path, bob: Hub, stack: AsyncExitStack) -> None:
        self._root = root
        self._bob = bob
        self._stack = stack
        self._count = 0
        self.events: list[str] = []

    async def join(self, name: str, url: str, stack: AsyncExitStack | None = None) -> chunkq.Site:
        """A site on a slow link, until the end of `stack`; its state directory stays."""
        settings = chunkq.Settings(
            name=name,
            directories={
                "config": self._root / name / "config",
                "state": self._root / name / "state",
            },
            links={"default": {"url": url, "receive_rate": RATE}},
        )
        keys = chunkq.SiteKeys.generate(os.urandom)
        peers = {"bob": self._bob.site.card}

        def log(event: str, /, **_: object) -> None:
            self.events.append(event)

        opening = chunkq.Site.open(settings, keys=keys, peers=peers, log=log)
        site = await (stack or self._stack).enter_async_context(opening)
        self._bob.cards[name] = site.card
        return site

    def begin(self, site: chunkq.Site, size_bytes: int = SIZE_BYTES) -> Crossing:
        self._count += 1
        source = self._root / f"source{self._count}"
        source.write_bytes(os.urandom(size_bytes))
        self._bob.offered[source.name] = source, site.settings.site_name
        destination = self._root / f"arrived{self._count}"
        transfer = site.fetch(f"bob:files/{source.name}", destination, patience_s=DEADLINE_S)
        return Crossing(transfer, source, destination)


@asynccontextmanager
async def party(root: Path, bob_url: str) -> AsyncIterator[Party]:
    async with Hub.start("bob", root, bob_url) as bob, AsyncExitStack() as stack:
        yield Party(root, bob, stack)


async def test_leader_of_the_request_queue_is_killed(
    cluster: Cluster, vhost: str, tmp_path: Path
) -> None:
    """Another node leads and the origin goes to it; the requester need not even be told.

    The queue of dead letters is lost with the node, and keeps nobody from serving.
    """
    here, _, there = cluster.nodes
    async with party(tmp_path, cluster.url(vhost, first=there)) as all_of_them:
        alice = await all_of_them.join("alice", cluster.url(vhost, first=here))
        file = all_of_them.begin(alice)
        await file.under_way()
        assert there is cluster.leader(vhost, "cq.req.bob")
        assert there is cluster.leader(vhost, "cq.dlq")
        await asyncio.to_thread(there.kill)
        assert {"peer_silent"} >= await file.arrived()


async def test_home_node_of_the_reply_queue_is_killed_and_comes_back(
    cluster: Cluster, vhost: str, tmp_path: Path
) -> None:
    """The requester has its replies sent to another queue, made where there is a node.

    So does one that starts while the node is down, though its own queue is there; and when it is
    back, all goes on as before.
    """
    here, _, there = cluster.nodes
    async with party(tmp_path, cluster.url(vhost, first=here)) as all_of_them:
        alice = await all_of_them.join("alice", cluster.url(vhost, first=there))
        async with AsyncExitStack() as earlier:
            carol = await all_of_them.join("carol", cluster.url(vhost, first=there), earlier)
            await all_of_them.begin(carol, 1000).arrived()
        file = all_of_them.begin(alice)
        await file.under_way()
        homes = {cluster.leader(vhost, queue) for queue in reply_queues(cluster, vhost)}
        assert {there} == homes
        await asyncio.to_thread(there.kill)
        assert {"broker_unreachable"} <= await file.arrived()
        assert ["mailbox_away"] == moves(all_of_them)
        (queue,) = reply_queues(cluster, vhost)
        assert queue.startswith("cq.rep.alice.")

        carol = await all_of_them.join("carol", cluster.url(vhost, first=here))
        await all_of_them.begin(carol, 1000).arrived()
        assert ["mailbox_away"] * 2 == moves(all_of_them)
        file = all_of_them.begin(alice)
        await asyncio.to_thread(cluster.mend)
        await file.arrived()


def reply_queues(cluster: Cluster, vhost: str) -> list[str]:
    """Those on nodes that are up."""
    names = cluster.nodes[0].eval(
        "lists:flatten(lists:join(32, [binary_to_list(element(4, amqqueue:get_name(Q))) "
        f'|| Q <- rabbit_amqqueue:list(<<"{vhost}">>)])).'
    )
    return [name for name in names.strip('"').split() if name.startswith("cq.rep.")]


def moves(some: Party) -> list[str]:
    return [event for event in some.events if event == "mailbox_away"]


async def test_what_a_cluster_is_told_is_what_rabbitmq_4_takes(
    cluster: Cluster, vhost: str, tmp_path: Path
) -> None:
    """By sites that move from one node to the next: the same queues, declared the same way."""
    async with AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(Proxy(node.ports.amqp)) for node in cluster.nodes
        ]
        for proxy in proxies:
            proxy.up.recording = True
        own = ",".join(f"127.0.0.1:{node.ports.amqp}" for node in cluster.nodes)
        recorded = ",".join(f"127.0.0.1:{proxy.port}" for proxy in proxies)
        url = cluster.url(vhost).replace(own, recorded)
        async with party(tmp_path, url) as all_of_them:
            alice = await all_of_them.join("alice", url)
            await all_of_them.begin(alice, 1000).arrived()
            proxies[0].reset()
            await all_of_them.begin(alice, 1000).arrived()
        assert proxies[1].connections >= 4
        streams = [stream for proxy in proxies[1:] for stream in proxy.up.seen]
        found = Recorded(streams)
    assert {"req.bob", "rep.alice"} == {".".join(each.split(".")[1:3]) for each in found.queues}


async def test_two_of_three_are_paused(cluster: Cluster, vhost: str, tmp_path: Path) -> None:
    """Without a majority requests wait, and it is said why: on a link to the node that is left,
    and on a link to one that stands still. With it both transfers go on by themselves.
    """
    left, *paused = cluster.nodes
    async with party(tmp_path, cluster.url(vhost, first=left)) as all_of_them:
        alice = await all_of_them.join("alice", cluster.url(vhost, first=left))
        url = cluster.url(vhost, first=paused[0]) + "?heartbeat=2"
        carol = await all_of_them.join("carol", url)
        files = [all_of_them.begin(site) for site in (alice, carol)]
        await asyncio.gather(*(file.under_way() for file in files))
        for node in paused:
            node.freeze()
        try:
            blocked, away = await asyncio.gather(
                files[0].waits("broker_blocked"), files[1].waits("broker_unreachable")
            )
        finally:
            for node in paused:
                node.thaw()
        assert "confirmed nothing" in blocked
        assert str(paused[0].ports.amqp) in away
        for file in files:
            await file.arrived()


async def test_no_request_is_believed_that_was_lost_with_the_leader(
    cluster: Cluster, vhost: str
) -> None:
    """While the leader is killed, every request that was confirmed is delivered in the end."""
    here, there, _ = cluster.nodes
    sites = Sites(cluster.url(vhost, first=here))
    alice = await sites.open("alice")
    bob = await sites.open("bob", url=cluster.url(vhost, first=there))
    consumer = await bob.consume(REQUESTS, prefetch=10_000)
    confirmed: set[bytes] = set()
    killed = asyncio.Event()

    async def publish(first: int) -> None:
        """One after the other, until some were confirmed by the next leader."""
        after = 0
        for number in range(first, first + 100_000):
            body = str(number).encode()
            try:
                await alice.publish(REQUESTS, body)
            except TransportError:
                continue
            confirmed.add(body)
            after += killed.is_set()
            if after == 20:
                return

    publishing = [asyncio.create_task(publish(lane * 100_000)) for lane in range(16)]
    await until(lambda: len(confirmed) > 500)
    assert there is cluster.leader(vhost, "cq.req.bob")
    await asyncio.to_thread(there.kill)
    killed.set()
    async with asyncio.timeout(DEADLINE_S):
        await asyncio.gather(*publishing)
        received: set[bytes] = set()
        while not confirmed <= received:
            received |= {delivery.body for delivery in await consumer.receive()}
    await sites.close()
