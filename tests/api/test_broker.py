"""Sites on a real broker: when they say that they are ready, and whom they blame."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chunkq.errors import BrokerUnreachable, PeerSilent
from chunkq.ports import Mailbox
from tests.api.hub import Hub
from tests.support.broker import Broker
from tests.support.rabbitmq import DEADLINE_S, Sites

pytestmark = pytest.mark.rabbitmq


async def test_ready_means_that_requests_are_taken(sites: Sites, tmp_path: Path) -> None:
    """The queue is there by then, so that whoever was waiting for it is not turned away."""
    carol = await sites.open("carol")
    async with Hub.start("bob", tmp_path, sites.url) as bob:
        await carol.publish(Mailbox("req", "bob"), b"no request at all")
        assert "serving" in bob.events


async def test_silence_is_the_brokers_while_it_takes_nothing(
    broker: Broker, sites: Sites, tmp_path: Path
) -> None:
    """Under an alarm no answer comes: it is not the peer who is named, and the reason is."""
    async with (
        Hub.start("alice", tmp_path, sites.url) as alice,
        Hub.start("bob", tmp_path, sites.url) as bob,
    ):
        alice.befriend(bob)
        bob.befriend(alice)
        broker.set_memory_alarm(on=True)
        try:
            blocked = alice.site.fetch("bob:files/x", tmp_path / "x", patience_s=1)
            await asyncio.wait_for(blocked.ended(), DEADLINE_S)
            with pytest.raises(BrokerUnreachable, match="memory") as caught:
                await blocked
            assert "run the same command again" in str(caught.value.hint)
            shown = blocked.progress().waiting
            assert shown is not None
            assert "broker_blocked" == shown.reason
        finally:
            broker.set_memory_alarm(on=False)
    async with Hub.start("dave", tmp_path, sites.url) as dave:
        dave.cards["bob"] = bob.site.card
        silent = dave.site.fetch("bob:files/x", tmp_path / "x", patience_s=1)
        with pytest.raises(PeerSilent):
            await silent
