"""Everything that a site does on a broker, recorded, and held against what RabbitMQ 4 demands."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pika import spec

from tests.support.broker import Broker
from tests.support.demands import Recorded
from tests.support.pair import DEADLINE_S, Pair
from tests.support.proxied import proxied
from tests.support.proxy import Proxy

pytestmark = pytest.mark.rabbitmq


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    with proxied(broker.ports.amqp) as running:
        running.up.recording = True
        yield running


def test_all_that_a_site_says_to_its_broker(
    broker: Broker, vhost: str, proxy: Proxy, tmp_path: Path
) -> None:
    """doctor, serve, ls, get of a file and of a tree, bench, rotate and jobs: every queue, qos,
    frame and message is one that RabbitMQ 4 takes.
    """
    pair = Pair(tmp_path, broker.url(vhost=vhost, port=proxy.port))
    try:
        pair.offer("large", bytes(range(256)) * (48 << 10))
        for number in range(30):
            pair.offer(f"tree/{number}", str(number).encode() * 100)
        pair.alice.quick("doctor")
        worker = pair.serve()
        for command in (
            ("ls", "bob:docs"),
            ("get", "bob:docs/large", str(pair.inbox / "large")),
            ("get", "bob:docs/tree/", str(pair.inbox / "tree")),
            ("get", "--queue", "bob:docs/tree/1", str(pair.inbox / "one")),
            ("work", "--once"),
            ("bench", "--seconds", "1", "--max", "4MiB", "bob"),
            ("rotate", "--yes"),
        ):
            pair.alice.quick(*command)
        assert pair.files.joinpath("large").read_bytes() == (pair.inbox / "large").read_bytes()
        worker.send(signal.SIGTERM)
        worker.process.wait(DEADLINE_S)
    finally:
        pair.close()
    found = Recorded(proxy.up.seen)
    assert len(found.sent(spec.Connection.TuneOk)) == len(found.sent(spec.Connection.Close))
    assert {"cq.req.bob", "cq.dlq", "cq.rep.alice.doctor"} <= found.queues
    assert 5 == len(found.queues), found.queues
    assert max(found.bodies) > 256 << 10
