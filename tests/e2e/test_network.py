"""A file over a real broker while the network, or who sits in it, makes it hard."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from pathlib import Path

import pytest

from chunkq.protocol.limits import KIB
from tests.e2e.crossing import SIZE_BYTES, party
from tests.support.broker import Broker
from tests.support.pair import OFTEN, Pair, until
from tests.support.proxy import Proxy
from tests.support.rabbitmq import plain_channel

pytestmark = pytest.mark.rabbitmq

STORMS = 4
CHUNKS = 1000
#: The man in the middle goes on with what he has after so long without more.
QUIET_S = 0.05


async def test_redelivery_storm_after_each_reconnect(
    broker: Broker, vhost: str, tmp_path: Path
) -> None:
    """All that was not yet acknowledged comes again after each reset: it is counted once, what
    was there is not asked for again, and the file is the same.
    """
    async with Proxy(broker.ports.amqp) as proxy, party(tmp_path, broker.url(vhost=vhost)) as bobs:
        url = broker.url(vhost=vhost, port=proxy.port)
        alice = await bobs.join("alice", url, largest_chunk="16KiB", receive_rate="5MiB/s")
        file = bobs.begin(alice)
        for storm in range(1, STORMS + 1):
            enough = storm * SIZE_BYTES // (STORMS + 2)
            await file.until(lambda now, least=enough: now.bytes_present > least)
            assert file.transfer.progress().bytes_present < SIZE_BYTES
            proxy.reset()
        assert {"broker_unreachable", "peer_silent"} >= await file.arrived()
        result = await file.transfer
        assert SIZE_BYTES == result.new_bytes
        assert result.duplicate_chunks > 0


async def test_a_thousand_replies_reordered_doubled_and_too_late(
    broker: Broker, vhost: str, tmp_path: Path
) -> None:
    """A broker that holds replies back, shuffles them, and gives each one twice, and all of them
    again after the end.
    """
    async with party(tmp_path, broker.url(vhost=vhost)) as bobs:
        alice = await bobs.join("alice", broker.url(vhost=vhost), largest_chunk="4KiB")
        await bobs.begin(alice, 1).arrived()
        queue = f"cq.{alice._fetcher._requesters['default'][1].mailbox}"
        middle = Middle(broker.url(vhost=vhost), queue)
        working = asyncio.create_task(asyncio.to_thread(middle.work))
        try:
            file = bobs.begin(alice, CHUNKS * 4 * KIB)
            await file.arrived()
        finally:
            middle.ended = True
            await working
        assert len(middle.seen) >= CHUNKS
        assert (await file.transfer).duplicate_chunks > 0
        with plain_channel(broker.url(vhost=vhost)) as channel:
            for body in middle.seen:
                channel.basic_publish("", queue, body)
        await bobs.begin(alice, 300 * KIB).arrived()


class Middle:
    """Who has the broker: takes one site's replies, and gives them to it as he likes."""

    def __init__(self, url: str, queue: str) -> None:
        self._url = url
        self._queue = queue
        self._dice = random.Random(4)
        self.seen: list[bytes] = []
        self.ended = False

    def work(self) -> None:
        """Until `ended`, in a thread."""
        site, instance = self._queue.split(".")[2:]
        pattern = f"rep.*.{site}.{instance}"
        with plain_channel(self._url) as channel:
            channel.queue_declare("middle", durable=True)
            channel.queue_bind("middle", "cq.rep", pattern)
            channel.queue_unbind(self._queue, "cq.rep", pattern)
            while not self.ended:
                held: list[bytes] = []
                quiet_since = time.monotonic()
                while time.monotonic() - quiet_since < QUIET_S and not self.ended:
                    body = channel.basic_get("middle", auto_ack=True)[2]
                    if body is None:
                        time.sleep(0.01)
                    else:
                        held.append(body)
                        quiet_since = time.monotonic()
                self.seen += held
                twice = held * 2
                self._dice.shuffle(twice)
                for body in twice:
                    channel.basic_publish("", self._queue, body)
            channel.queue_bind(self._queue, "cq.rep", pattern)
            channel.queue_delete("middle")


def test_a_pool_of_workers_shrinks_and_grows(broker: Broker, vhost: str, tmp_path: Path) -> None:
    """Three workers; one is killed while it holds requests, one ends in order, the last is killed,
    and another begins: what they held is answered by the others, and in the end by the new one.
    """
    pair = Pair(tmp_path, broker.url(vhost=vhost))
    try:
        content = random.Random(1).randbytes(SIZE_BYTES // 2)
        pair.offer("big", content)
        rate = {"CHUNKQ_LINK_SEND_RATE": "2MiB/s"}
        workers = [pair.serve(**rate) for _ in range(3)]
        getting = pair.alice.start(
            "get",
            "bob:docs/big",
            str(pair.inbox / "big"),
            CHUNKQ_LINK_LARGEST_CHUNK="64KiB",
            **OFTEN,
        )

        def committed(least: int) -> bool:
            assert getting.alive, getting.err
            return any(each.chunks_present >= least for each in pair.transfers())

        until(lambda: committed(16))
        workers[0].send(signal.SIGKILL)
        until(lambda: committed(48))
        workers[1].send(signal.SIGTERM)
        until(lambda: committed(80))
        workers[2].send(signal.SIGKILL)
        assert getting.alive
        pair.serve()
        assert 0 == getting.wait().code
        assert content == (pair.inbox / "big").read_bytes()
    finally:
        pair.close()
