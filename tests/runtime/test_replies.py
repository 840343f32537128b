"""Replies whose carrier fails: the error is told, and keeps nothing."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, cast

import pytest

from chunkq.errors import OutcomeUnknown, TransportError
from chunkq.ports import Mailbox, Transport
from chunkq.protocol.limits import KIB
from chunkq.protocol.packet import RequestId
from chunkq.runtime.outflow import Outflow
from chunkq.runtime.replies import Replies
from tests.support.garbage import uncollected

PACKETS = 8


class LosingTransport:
    """Loses its link with everything that was given to it, once that is `PACKETS`."""

    def __init__(self) -> None:
        self._given = 0
        self._lost = asyncio.Event()

    async def publish(self, *_: object, **__: object) -> None:
        self._given += 1
        if self._given == PACKETS:
            self._lost.set()
        await self._lost.wait()
        raise OutcomeUnknown("the link ended")


async def answer() -> None:
    """Give packets to a link that is lost, as an answer does."""
    replies = Replies(
        cast("Transport", LosingTransport()),
        Mailbox("rep", "alice", "one"),
        cast("Any", None),  # nothing is sealed here
        RequestId(1, 1),
        Outflow(),
    )
    try:
        packets = [secrets.token_bytes(64 * KIB) for _ in range(PACKETS)]
        for packet in packets:
            await replies.send(packet)
        await replies.finish()
    finally:
        await replies.abort()


async def test_a_lost_link_keeps_no_packets() -> None:
    """Whoever hears of the error lets go of it, and with it of all that was to be sent."""
    with uncollected() as waste:
        with pytest.raises(TransportError):
            await answer()
        await asyncio.sleep(0)
    assert [] == waste.buffers
