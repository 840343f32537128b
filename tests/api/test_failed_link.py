"""A link that ended for good is opened anew for the next transfer, without a new site."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkq.errors import BrokerRefused
from tests.api.hub import Hub
from tests.support.broker import Broker
from tests.support.rabbitmq import plain_channel, until


def permit(broker: Broker, vhost: str, configure: str) -> None:
    """What the user `north` may make there."""
    broker.eval(
        f'rabbit_auth_backend_internal:set_permissions(<<"north">>, <<"{vhost}">>, '
        f'<<"{configure}">>, <<".*">>, <<".*">>, <<"test">>).'
    )


@pytest.mark.rabbitmq
async def test_a_refusal_lasts_no_longer_than_its_cause(
    broker: Broker, vhost: str, tmp_path: Path
) -> None:
    """Who lost a permission is told so; once it is granted again, the next transfer succeeds."""
    broker.add_user("north", "pw", vhost)
    url = broker.url("north", "pw", vhost)
    async with (
        Hub.start("north", tmp_path, url) as north,
        Hub.start("south", tmp_path, broker.url(vhost=vhost)) as south,
    ):
        north.befriend(south)
        south.befriend(north)
        await south.post("north", "first", b"first")
        packet = await north.inbox.get()
        await north.fetch(packet, tmp_path / "first")

        permit(broker, vhost, "^$")
        with plain_channel(broker.url(vhost=vhost)) as channel:
            for name in broker.queues(vhost):
                if name.startswith("cq.rep.north."):
                    channel.queue_delete(name)
        requester = next(iter(north.site._fetcher._requesters.values()))[1]
        await until(requester.failed.done)
        with pytest.raises(BrokerRefused, match="does not permit this to the user 'north'"):
            await north.fetch(packet, tmp_path / "second")
        permit(broker, vhost, ".*")
        await north.fetch(packet, tmp_path / "third")

    assert b"first" == (tmp_path / "third").read_bytes()
    assert not (tmp_path / "second").exists()
