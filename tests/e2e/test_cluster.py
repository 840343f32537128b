"""Transfers over a cluster of three RabbitMQ nodes, of which some die or stand still meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from chunkq.errors import TransportError
from chunkq.ports import Mailbox, Transport
from tests.e2e.crossing import DEADLINE_S, Party, party
from tests.support.cluster import Cluster
from tests.support.demands import Recorded
from tests.support.proxy import Proxy
from tests.support.rabbitmq import Sites, until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.xdist_group("cluster")]

REQUESTS = Mailbox("req", "dave")


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


async def test_leader_of_the_request_queues_is_killed(
    cluster: Cluster, vhost: str, tmp_path: Path
) -> None:
    """Another node leads and the origin goes to it; the requester need not even be told.

    The queue of dead letters is lost with the node, and keeps nobody from serving. Every request
    that was confirmed meanwhile is delivered in the end.
    """
    here, _, there = cluster.nodes
    sites = Sites(cluster.url(vhost, first=here))
    async with party(tmp_path, cluster.url(vhost, first=there)) as all_of_them:
        alice = await all_of_them.join("alice", cluster.url(vhost, first=here))
        carol = await sites.open("carol")
        dave = await sites.open("dave", url=cluster.url(vhost, first=there))
        consumer = await dave.consume(REQUESTS, prefetch=10_000)
        asking = Asking(carol)
        file = all_of_them.begin(alice)
        await file.under_way()
        await until(lambda: len(asking.confirmed) > 200)
        for queue in ("cq.req.bob", "cq.req.dave", "cq.dlq"):
            assert there is cluster.leader(vhost, queue)
        await asyncio.to_thread(there.kill)
        asking.killed = True
        assert {"peer_silent"} >= await file.arrived()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*asking.lanes)
            received: set[bytes] = set()
            while not asking.confirmed <= received:
                received |= {delivery.body for delivery in await consumer.receive()}
    await sites.close()


class Asking:
    """Requests to dave, one after the other in each lane, until some were confirmed by the next
    leader.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.confirmed: set[bytes] = set()
        self.killed = False
        self.lanes = [asyncio.create_task(self._publish(lane)) for lane in range(8)]

    async def _publish(self, lane: int) -> None:
        after, number = 0, 0
        while after < 10:
            number += 1
            body = f"{lane}:{number}".encode()
            was_killed = self.killed
            try:
                await self._transport.publish(REQUESTS, body)
            except TransportError:
                continue
            self.confirmed.add(body)
            after += was_killed
