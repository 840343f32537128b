"""Asking for a directory's entries where the link is lost, in virtual time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chunkq.errors import Nacked, OutcomeUnknown, TransportError, Unroutable
from chunkq.ports import Buffer, Mailbox
from chunkq.protocol.priority import Priority
from chunkq.runtime.listing import list_directory
from chunkq.transport.limited import ByteRate
from chunkq.transport.memory import MemoryTransport
from tests.runtime.sites import SHARE, Pair
from tests.support.virtual import run_virtual

#: When a heartbeat of the default interval ends a dead link.
LOST_AFTER_S = 65.0
FAR_S = 120.0


class _Dead(MemoryTransport):
    """Takes packets in silence until it fails for all of them; from then on it is well."""

    error: type[TransportError] = OutcomeUnknown

    async def publish(
        self,
        to: Mailbox,
        body: Buffer,
        *,
        lifetime_s: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        loop = asyncio.get_running_loop()
        if (left_s := 1000 + LOST_AFTER_S - loop.time()) > 0:
            await asyncio.sleep(left_s)
            raise self.error("the link ended")
        await super().publish(to, body, lifetime_s=lifetime_s, priority=priority)


@pytest.mark.parametrize(
    ("error", "most_s"), [(OutcomeUnknown, 2.0), (Unroutable, 2.0), (Nacked, 49.0)]
)
def test_a_lost_link_is_not_waited_for_longer_than_it_lasts(
    tmp_path: Path, error: type[TransportError], most_s: float
) -> None:
    """What it kept from us is asked for at once; only a full queue is left alone for a while."""

    async def run() -> float:
        pair = Pair(tmp_path, ByteRate(1 << 20, 0))
        pair.offer("file", 1)
        dead = _Dead(pair.carrier, "alice")
        dead.error = error
        pair.requester.transport = dead
        async with pair.at_work():
            entries = list_directory(pair.peer, SHARE, "", patience_s=LOST_AFTER_S + FAR_S)
            assert ["file"] == [entry.name async for entry in entries]
            return pair.clock.monotonic_s() - 1000 - LOST_AFTER_S

    assert run_virtual(run()) < most_s
