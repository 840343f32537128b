"""Replies that nobody here waits for: which of them a transfer may take up."""

from __future__ import annotations

import asyncio

import pytest

from chunkq.compose import SystemClock
from chunkq.ports import Mailbox
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.packet import RawReply, ReplyHeader, ReplyKind, RequestId, Suite
from chunkq.runtime.peer import Requester
from chunkq.transport.memory import MemoryCarrier, MemoryTransport

FLOOR = 1 << 63


def reply_to(epoch: int) -> bytes:
    """Some reply; nothing here opens it."""
    header = ReplyHeader(
        ReplyKind.CHUNK, Suite.XCHACHA20POLY1305, RequestId(epoch, 1), bytes(32), seq=0, index=0
    )
    return header.encode(20) + bytes(20)


@pytest.mark.parametrize(
    ("moved_on", "which", "asked"),
    [
        pytest.param(False, "own", 0, id="asked-here-and-forgotten"),
        pytest.param(True, "first", 0, id="asked-here-before-the-epoch-changed"),
        pytest.param(True, "own", 0, id="asked-here-since"),
        pytest.param(False, "earlier", 1, id="asked-by-an-earlier-process"),
        pytest.param(True, "between", 1, id="by-an-earlier-one-whose-epochs-were-ahead"),
    ],
)
async def test_only_what_another_process_asked_is_offered_to_transfers(
    moved_on: bool, which: str, asked: int
) -> None:
    """Every transfer's key is tried then; a silent peer's late answers must not cost that."""
    dropped, offered = asyncio.Event(), []

    def log(event: str, /, *, level: str = "info", **fields: object) -> None:
        dropped.set()

    def adopt(raw: RawReply) -> None:
        offered.append(raw)

    transport = MemoryTransport(MemoryCarrier(SystemClock()), "alice")
    requester = Requester(
        keys=SiteKeys(b"a" * 32, b"A" * 32),
        site="alice",
        instance="i",
        transport=transport,
        clock=SystemClock(),
        entropy=bytes,
        log=log,
    )
    requester.adopters.append(adopt)
    first = own = requester.begin_epoch()
    if moved_on:
        own = requester.begin_epoch(FLOOR)
    epochs = {"own": own, "first": first, "earlier": first - 1, "between": first + 1}
    await requester.start(prefetch=8)
    await transport.publish(Mailbox("rep", "alice", "i"), reply_to(epochs[which]))
    await asyncio.wait_for(dropped.wait(), 20)
    await requester.close()
    await transport.close()

    assert asked == len(offered)
