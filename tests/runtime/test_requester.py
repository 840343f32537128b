"""Replies that nobody here waits for: which of them a transfer may take up."""

from __future__ import annotations

import asyncio

import pytest

from chunkq.compose import SystemClock
from chunkq.errors import MailboxAway
from chunkq.ports import Delivery, Mailbox
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.packet import RawReply, ReplyHeader, ReplyKind, RequestId, Suite
from chunkq.runtime.peer import Requester
from chunkq.transport.memory import MemoryCarrier, MemoryConsumer, MemoryTransport

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
    first = own = requester.epochs.begin()
    if moved_on:
        own = requester.epochs.begin(FLOOR)
    epochs = {"own": own, "first": first, "earlier": first - 1, "between": first + 1}
    await requester.start(prefetch=8)
    await transport.publish(Mailbox("rep", "alice", "i"), reply_to(epochs[which]))
    await asyncio.wait_for(dropped.wait(), 20)
    await requester.close()
    await transport.close()

    assert asked == len(offered)


class Cluster(MemoryTransport):
    """A carrier of parts: mailboxes whose part is `lost` cannot be had, nor received from."""

    def __init__(self) -> None:
        super().__init__(MemoryCarrier(SystemClock()), "alice")
        self.lost = {"a", "b"}

    async def consume(self, mailbox: Mailbox, *, prefetch: int) -> MemoryConsumer:
        if mailbox.instance in self.lost:
            raise MailboxAway(f"{mailbox} is lost")
        consumer = await super().consume(mailbox, prefetch=prefetch)
        receive = consumer.receive

        async def receive_or_not() -> list[Delivery]:
            if mailbox.instance in self.lost:
                raise MailboxAway(f"{mailbox} is lost")
            return await receive()

        consumer.receive = receive_or_not  # type: ignore[method-assign]
        return consumer


async def test_a_mailbox_that_is_lost_gives_way_to_the_next() -> None:
    """At the start and later: what is asked from then on names the new one. Without a next one,
    the link has failed.
    """
    labels, events = iter("bcd"), []
    transport = Cluster()

    def log(event: str, /, *, level: str = "info", **fields: object) -> None:
        events.append((event, fields.get("mailbox")))

    def make(instance: str, *, last: bool) -> Requester:
        return Requester(
            keys=SiteKeys(b"a" * 32, b"A" * 32),
            site="alice",
            instance=instance,
            next_instance=None if last else lambda: next(labels),
            transport=transport,
            clock=SystemClock(),
            entropy=bytes,
            log=log,
        )

    requester, other = make("a", last=False), make("e", last=True)
    with pytest.raises(MailboxAway):
        await make("a", last=True).start(prefetch=8)
    await requester.start(prefetch=8)
    await other.start(prefetch=8)
    assert ("c", Mailbox("rep", "alice", "c")) == (requester.instance, requester.mailbox)
    assert [("mailbox_away", "rep.alice.a"), ("mailbox_away", "rep.alice.b")] == events

    transport.lost |= {"c", "e"}
    for instance in ("c", "e"):
        await transport.publish(Mailbox("rep", "alice", instance), reply_to(1))
    async with asyncio.timeout(20):
        while requester.instance == "c":  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)
        with pytest.raises(MailboxAway):
            await other.failed
    assert "d" == requester.instance
    mailbox = Mailbox("rep", "alice", "d")
    await transport.publish(mailbox, reply_to(1))
    async with asyncio.timeout(20):
        while await transport.depth(mailbox):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)
    for each in (requester, other):
        await each.close()
    await transport.close()
