"""What a broker, a stranger on it and an origin can do to a requester with replies: little."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from chunkq.compose import SystemClock
from chunkq.ports import Delivery, Mailbox, PeerRef
from chunkq.protocol.identity import SiteKeys, card_of
from chunkq.protocol.messages import List, Refusal, RefusalReason
from chunkq.protocol.packet import (
    RawReply,
    ReplyHeader,
    ReplyKind,
    RequestId,
    RequestKind,
    Suite,
    parse_reply,
    parse_request,
)
from chunkq.protocol.seal import ReplySealer
from chunkq.runtime import peer
from chunkq.runtime.epochs import LAST_EPOCH, MAX_NEW_EPOCHS
from chunkq.runtime.peer import MAX_PENDING, Asked, PeerLink, Requester
from chunkq.runtime.skew import LAST_MS
from chunkq.transport.memory import MemoryCarrier, MemoryTransport
from tests.protocol.sites import ALICE, BOB, BOB_CARD

CAROL = SiteKeys(signing_seed=b"c" * 32, exchange_secret=b"C" * 32)
MAILBOX = Mailbox("rep", "alice", "i")


@dataclass
class Requesting:
    """alice, who asks bob and carol; what she sends is in `asked`."""

    requester: Requester
    transport: MemoryTransport
    bob: PeerLink
    carol: PeerLink
    came: list[bytes] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def ask(self, link: PeerLink) -> Asked:
        return link.ask(
            RequestKind.LIST,
            List(instance="i", share="s", path=""),
            ephemeral=b"e" * 32,
            handler=self._on_reply,
            failed=lambda *_: None,
        )

    def _on_reply(self, asked: Asked, raw: RawReply, delivery: Delivery) -> None:
        self.requester.done(delivery)
        self.came.append(asked.open(raw))
        self.changed.set()

    async def deliver(self, *packets: bytes) -> None:
        for packet in packets:
            await self.transport.publish(MAILBOX, packet)

    async def heard(self) -> list[bytes]:
        async with asyncio.timeout(20):
            await self.changed.wait()
        return self.came


@asynccontextmanager
async def requesting() -> AsyncIterator[Requesting]:
    clock = SystemClock()
    transport = MemoryTransport(MemoryCarrier(clock), "alice")
    events: list[str] = []
    requester = Requester(
        keys=ALICE,
        site="alice",
        instance="i",
        transport=transport,
        clock=clock,
        entropy=bytes,
        log=lambda event, **_: events.append(event),
    )
    links = [
        PeerLink(
            requester,
            PeerRef(name, card_of(keys, name), name),
            lifetime_s=600,
            largest_chunk_bytes=4096,
        )
        for name, keys in (("bob", BOB), ("carol", CAROL))
    ]
    await requester.start(prefetch=64)
    yield Requesting(requester, transport, *links, events=events)
    await requester.close()
    await transport.close()


def made_up(number: int) -> bytes:
    """A reply of no request, which anybody can write who may write to the mailbox."""
    header = ReplyHeader(
        ReplyKind.CHUNK, Suite.XCHACHA20POLY1305, RequestId(1, number), bytes(32), seq=0, index=0
    )
    return header.encode(20) + bytes(20)


def answer(asked: Asked, body: bytes) -> bytes:
    """bob's reply."""
    header = parse_request(_request(asked))
    sealer = ReplySealer(raw=header, keys=BOB, ephemeral_secret=b"o" * 32)
    return sealer.seal(ReplyKind.LISTING, body)


def _request(asked: Asked) -> bytes:
    from tests.protocol.sites import make_request

    return make_request(request_id=asked.request_id)


def refused(reason: RefusalReason, **fields: int) -> Refusal:
    return Refusal(reason=reason, **fields)  # type: ignore[arg-type]


async def test_made_up_replies_push_out_no_request() -> None:
    """However many requests they name, an answer to a real one is still known as one."""
    async with requesting() as alice:
        asked = alice.ask(alice.bob)
        await alice.deliver(*map(made_up, range(MAX_PENDING + 10)), answer(asked, b"real"))

        assert [b"real"] == await alice.heard()


async def test_late_replies_are_no_strangers() -> None:
    """What comes for a transfer that has ended is taken, unopened, and counts as no drop."""
    async with requesting() as alice:
        late = alice.ask(alice.bob)
        alice.requester.forget(late.handler)
        asked = alice.ask(alice.bob)
        await alice.deliver(answer(late, b"late"), answer(asked, b"real"))

        assert [b"real"] == await alice.heard()
        assert not alice.requester.drops


async def test_keys_are_tried_so_often_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply of no known request makes every transfer try its key: within a budget."""
    monkeypatch.setattr(peer, "TRIES_PER_S", 1e-9)
    monkeypatch.setattr(peer, "TRIES_BURST", 100)
    tried: list[RawReply] = []
    async with requesting() as alice:
        alice.requester.adopters += [tried.append, tried.append]
        asked = alice.ask(alice.bob)
        await alice.deliver(*map(made_up, range(200)), answer(asked, b"real"))

        assert [b"real"] == await alice.heard()
        assert 100 == len(tried)


async def test_a_key_is_tried_once_for_each_made_up_request() -> None:
    """The same one again costs nothing."""
    tried: list[RawReply] = []
    async with requesting() as alice:
        alice.requester.adopters.append(tried.append)
        asked = alice.ask(alice.bob)
        await alice.deliver(*[made_up(1)] * 50, answer(asked, b"real"))

        assert [b"real"] == await alice.heard()
        assert 1 == len(tried)


async def test_a_forged_suite_shuts_out_no_worker() -> None:
    """The key of an ephemeral and the other suite is none of the worker's that has it."""
    async with requesting() as alice:
        asked = alice.ask(alice.bob)
        real = answer(asked, b"real")
        other = {Suite.AES256GCM: Suite.XCHACHA20POLY1305, Suite.XCHACHA20POLY1305: Suite.AES256GCM}
        header = parse_reply(real).header
        forged = ReplyHeader(
            header.kind, other[header.suite], header.request_id, header.ephemeral, 0, 0
        )
        with pytest.raises(peer.PacketError):
            asked.open(parse_reply(forged.encode(len(real) - 76) + real[76:]))

        assert b"real" == asked.open(parse_reply(real))


@pytest.mark.parametrize("floor", [1 << 63, (1 << 64) - 3, (1 << 64) - 2, (1 << 64) - 1])
async def test_a_floor_that_is_pushed_up_is_that_origins_alone(floor: int) -> None:
    """Else one origin could use up, at all others, the epochs that a site will ever have."""
    async with requesting() as alice:
        first = alice.ask(alice.carol).request_id
        alice.bob.heed(alice.ask(alice.bob), refused(RefusalReason.EXPIRED, epoch_floor=floor))
        after = [alice.ask(link).request_id for link in (alice.bob, alice.carol)]
        again = alice.ask(alice.bob)
        alice.bob.heed(again, refused(RefusalReason.EXPIRED, epoch_floor=(1 << 64) - 1))
        alice.ask(alice.bob)

        assert RequestId(first.epoch, first.counter + 1) == after[1]
        assert (after[0].epoch > floor) is (floor < LAST_EPOCH)


async def test_epochs_are_not_begun_without_end() -> None:
    """An origin that loses every one of them is let go on about it."""
    async with requesting() as alice:
        for _ in range(MAX_NEW_EPOCHS + 10):
            asked = alice.ask(alice.bob)
            floor = asked.request_id.epoch
            alice.bob.heed(asked, refused(RefusalReason.EXPIRED, epoch_floor=floor))

        assert MAX_NEW_EPOCHS + 2 == len(alice.requester.epochs)
        assert "epoch_refused" in alice.events


async def test_no_two_origins_have_an_epoch_in_common() -> None:
    """Replies are told apart by the request's id alone; an origin may choose what is next."""
    async with requesting() as alice:
        taken = alice.ask(alice.carol).request_id.epoch
        asked = alice.ask(alice.bob)
        alice.bob.heed(asked, refused(RefusalReason.EXPIRED, epoch_floor=taken - 1))

        assert alice.ask(alice.bob).request_id.epoch not in {taken, asked.request_id.epoch}


@pytest.mark.parametrize("offset", [1 << 48, -(1 << 48), (1 << 64) - 1, -(1 << 64), 1 << 63])
async def test_a_clock_that_cannot_be_is_not_believed(offset: int) -> None:
    """A request with such a time could not even be written."""
    async with requesting() as alice:
        asked = alice.ask(alice.bob)
        alice.bob.heed(asked, refused(RefusalReason.CLOCK_SKEW, offset_ms=offset))
        alice.ask(alice.bob)

        assert 0 == alice.bob.clock_offset_ms
        assert "clock_skew_refused" in alice.events


async def test_a_clock_that_is_pushed_on_and_on_stops_somewhere() -> None:
    """Each offset is added to the one before: the sum is what has to be possible."""
    async with requesting() as alice:
        for step in (LAST_MS // 3, -LAST_MS // 3):
            for _ in range(9):
                asked = alice.ask(alice.bob)
                alice.bob.heed(asked, refused(RefusalReason.CLOCK_SKEW, offset_ms=step))
            alice.ask(alice.bob)

        assert abs(alice.bob.clock_offset_ms) < LAST_MS
        assert BOB_CARD == alice.bob.ref.card
