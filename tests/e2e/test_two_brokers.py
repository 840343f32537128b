"""Two brokers joined by `deploy/rabbitmq/join-brokers`: each site reaches its own, and no other."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.hub import Hub
from tests.support.broker import Broker
from tests.support.rabbitmq import DEADLINE_S

pytestmark = pytest.mark.rabbitmq

DEPLOY = Path(__file__).parents[2] / "deploy" / "rabbitmq"
VHOST = "joined"


@pytest.fixture
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The other broker."""
    started = Broker.start(tmp_path_factory.mktemp("far") / "node")
    yield started
    started.stop()


def add_site(broker: Broker, site: str) -> str:
    """Returns its URL."""
    script = str(DEPLOY / "add-site")
    said = broker.run("sh", script, "-v", VHOST, "-b", "127.0.0.1", site)
    password = said.split(f"amqps://{site}:")[1].split("@")[0]
    return broker.url(site, password, VHOST)


def join(here: Broker, there: Broker, name: str) -> None:
    """Bring to one broker what is at the other for its sites; `name`: what this one is called."""
    script = str(DEPLOY / "join-brokers")
    uri = there.run("sh", script, "-v", VHOST, "-b", "127.0.0.1", "-u", name).strip()
    # No TLS in between on this machine; certificates are another test's.
    plain = uri.replace("amqps:", "amqp:").replace("127.0.0.1", f"127.0.0.1:{there.ports.amqp}")
    here.run("sh", script, "-v", VHOST, "other", plain)


async def test_a_file_gets_across_both_ways(broker: Broker, far: Broker, tmp_path: Path) -> None:
    """north's broker and south's are two; requests and replies find the right one, and the link
    between them may be lost meanwhile.
    """
    urls = await asyncio.gather(
        asyncio.to_thread(add_site, broker, "northern"),
        asyncio.to_thread(add_site, far, "southern"),
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
        broker.delete_vhost(VHOST)


async def across(origin: Hub, requester: Hub, root: Path) -> bool:
    """Whether a file that one offers is the same at the other."""
    content = os.urandom(5 << 20)
    await origin.post(requester.name, "look", content)
    packet = await requester.inbox.get()
    target = root / f"from-{packet.sender}"
    async with asyncio.timeout(2 * DEADLINE_S):
        await requester.site.fetch(packet.source, target, patience_s=DEADLINE_S)
    return content == target.read_bytes()
