"""The decorator that gives a transport a byte rate: how many pass, and who goes first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from chunkq.compose import SystemClock
from chunkq.errors import BrokerRefused, TransportClosed
from chunkq.ports import Mailbox, Transport
from chunkq.protocol.limits import GIB, KIB
from chunkq.protocol.priority import MAX_OVERTAKINGS, Priority
from chunkq.transport.limited import ByteRate, LimitedTransport
from chunkq.transport.memory import MemoryCarrier, MemoryTransport
from tests.support.virtual import LoopClock, run_virtual

from .conformance import DeadLetters, Elapse, Make, TransportConformance

BOB = Mailbox("req", "bob")
#: So much that no test of the suite waits for it.
HIGH = ByteRate(10 * GIB, 10 * GIB)


class _Limited(TransportConformance):
    """The suite around the memory transport, on the real clock."""

    rate: ByteRate | None

    @pytest.fixture
    def carrier(self) -> MemoryCarrier:
        return MemoryCarrier(SystemClock())

    @pytest.fixture
    async def make(self, carrier: MemoryCarrier) -> AsyncIterator[Make]:
        made: list[Transport] = []

        async def make(site: str) -> Transport:
            inner = MemoryTransport(carrier, site)
            transport = LimitedTransport(inner, SystemClock(), send=self.rate, receive=self.rate)
            await transport.open()
            made.append(transport)
            return transport

        yield make
        for transport in made:
            await transport.close()

    @pytest.fixture
    def elapse(self) -> Elapse:
        return lambda seconds: None

    @pytest.fixture
    def dead_letters(self, carrier: MemoryCarrier) -> DeadLetters:
        async def dead_letters(mailbox: Mailbox) -> int:
            return len(carrier.dead_letters(mailbox))

        return dead_letters


class TestWithoutLimit(_Limited):
    """Without a rate it is the transport that it decorates."""

    rate = None


class TestHighLimit(_Limited):
    """With a rate that is never reached it keeps every rule of a transport."""

    rate = HIGH


class Link:
    """Two ends of a carrier in virtual time, each with its rates."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.carrier = MemoryCarrier(self.clock)

    def end(
        self, site: str, *, send: ByteRate | None = None, receive: ByteRate | None = None
    ) -> LimitedTransport:
        inner = MemoryTransport(self.carrier, site)
        return LimitedTransport(inner, self.clock, send=send, receive=receive)


def in_virtual_time(test: Callable[[Link], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Link())

    run_virtual(main())


def test_sends_a_burst_and_then_the_rate() -> None:
    """1 MB of saved-up bytes and one packet at once, then 4 packets of 250 kB a second."""

    async def run(link: Link) -> None:
        alice = link.end("alice", send=ByteRate(1_000_000, 1_000_000))
        await link.end("bob").consume(BOB, prefetch=1)
        began, times = link.clock.monotonic_s(), []
        for _ in range(13):
            await alice.publish(BOB, bytes(250_000))
            times.append(round(link.clock.monotonic_s() - began, 6))
        assert [0.0] * 5 + [0.25 * n for n in range(1, 9)] == times

    in_virtual_time(run)


def test_a_packet_larger_than_the_burst_passes_and_is_paid_for() -> None:
    """4 s worth of bytes go at once; who comes next waits those 4 s, and nobody waits for ever."""

    async def run(link: Link) -> None:
        alice = link.end("alice", send=ByteRate(1000, 10))
        await link.end("bob").consume(BOB, prefetch=1)
        began = link.clock.monotonic_s()
        await alice.publish(BOB, bytes(4010))
        assert 0.0 == link.clock.monotonic_s() - began
        await alice.publish(BOB, bytes(4010))
        assert pytest.approx(4.0, abs=0.01) == link.clock.monotonic_s() - began

    in_virtual_time(run)


def test_receives_no_faster_than_the_rate() -> None:
    """What waits at the carrier is handed out in order, ten packets of 100 bytes a second."""

    async def run(link: Link) -> None:
        alice, bob = link.end("alice"), link.end("bob", receive=ByteRate(1000, 100))
        consumer = await bob.consume(BOB, prefetch=1000)
        for number in range(52):
            await alice.publish(BOB, bytes([number]) * 100)
        began, taken = link.clock.monotonic_s(), []
        while len(taken) < 52:
            taken += await consumer.receive()
        assert list(range(52)) == [delivery.body[0] for delivery in taken]
        # one packet is the burst, one more makes the debt
        assert pytest.approx(5.0, abs=0.01) == link.clock.monotonic_s() - began

    in_virtual_time(run)


def test_a_class_overtakes_what_waits() -> None:
    """Control first, then urgent, normal and bulk, each in the order of arrival."""

    async def run(link: Link) -> None:
        alice = link.end("alice", send=ByteRate(1000, 0))
        consumer = await link.end("bob").consume(BOB, prefetch=1000)
        await alice.publish(BOB, bytes(1000))
        sent = []
        for priority in (Priority.BULK, Priority.NORMAL, Priority.URGENT, Priority.CONTROL):
            for number in range(2):
                body = f"{priority.name} {number}".encode()
                sent.append(asyncio.ensure_future(alice.publish(BOB, body, priority=priority)))
        await asyncio.gather(*sent)
        _, *rest = await consumer.receive()
        names = ("CONTROL", "URGENT", "NORMAL", "BULK")
        assert [f"{name} {n}".encode() for name in names for n in range(2)] == [
            delivery.body for delivery in rest
        ]

    in_virtual_time(run)


def test_a_lower_class_is_slowed_and_never_stopped() -> None:
    """While urgent packets never end, one in sixteen is of the lower class."""

    async def run(link: Link) -> None:
        alice = link.end("alice", send=ByteRate(1000, 0))
        consumer = await link.end("bob").consume(BOB, prefetch=1000)
        await alice.publish(BOB, bytes(1000))
        sent = [
            asyncio.ensure_future(alice.publish(BOB, name, priority=priority))
            for name, priority in ((b"bulk", Priority.BULK), (b"urgent", Priority.URGENT))
            for _ in range(40)
        ]
        await asyncio.wait(sent[40:])
        bodies = [delivery.body for delivery in await consumer.receive()][1:]
        at = [place for place, body in enumerate(bodies) if body == b"bulk"]
        assert [MAX_OVERTAKINGS, 2 * MAX_OVERTAKINGS + 1] == at[:2]
        await asyncio.gather(*sent)

    in_virtual_time(run)


def test_waiting_counts_against_the_lifetime() -> None:
    """What waited here for 4 of its 5 seconds lives for one more at the carrier."""

    async def run(link: Link) -> None:
        alice, bob = link.end("alice", send=ByteRate(1000, 0)), link.end("bob")
        consumer = await bob.consume(BOB, prefetch=1)
        await consumer.close()
        await alice.publish(BOB, bytes(4000))
        await alice.publish(BOB, b"short-lived", lifetime_s=5)
        await asyncio.sleep(0.5)
        assert 2 == await bob.depth(BOB)
        await asyncio.sleep(0.6)
        assert 1 == await bob.depth(BOB)

    in_virtual_time(run)


def test_one_that_gives_up_spends_nothing() -> None:
    """A cancelled publish makes room at once for the one behind it."""

    async def run(link: Link) -> None:
        alice = link.end("alice", send=ByteRate(1000, 0))
        await link.end("bob").consume(BOB, prefetch=1)
        began = link.clock.monotonic_s()
        await alice.publish(BOB, bytes(1000))
        large = asyncio.ensure_future(alice.publish(BOB, bytes(100_000)))
        small = asyncio.ensure_future(alice.publish(BOB, bytes(10)))
        await asyncio.sleep(0.1)
        large.cancel()
        await small
        assert pytest.approx(1.0, abs=0.01) == link.clock.monotonic_s() - began

    in_virtual_time(run)


def test_too_large_is_refused_at_once() -> None:
    """A packet over the carrier's limit neither waits nor spends the rate."""

    async def run(link: Link) -> None:
        alice = link.end("alice", send=ByteRate(1000, 0))
        await link.end("bob").consume(BOB, prefetch=1)
        began = link.clock.monotonic_s()
        with pytest.raises(BrokerRefused):
            await alice.publish(BOB, bytes(alice.limits.max_message_bytes + 1))
        await alice.publish(BOB, b"x")
        assert 0.0 == link.clock.monotonic_s() - began

    in_virtual_time(run)


@pytest.mark.parametrize("closed", ["consumer", "transport"])
def test_closing_ends_all_waiting(closed: str) -> None:
    """Who waits for the rate hears of the close at once; what was held goes back."""

    async def run(link: Link) -> None:
        slow = ByteRate(1, 0)
        alice, bob = link.end("alice", send=slow), link.end("bob", receive=slow)
        consumer = await bob.consume(BOB, prefetch=10)
        other = link.end("carol")
        for _ in range(2):
            await other.publish(BOB, bytes(KIB))
        (first,) = await consumer.receive()
        assert KIB == len(first.body)
        await alice.publish(BOB, bytes(KIB))
        waiting = [asyncio.ensure_future(consumer.receive())]
        if closed == "transport":
            waiting.append(asyncio.ensure_future(alice.publish(BOB, b"x")))
        began = link.clock.monotonic_s()
        await asyncio.sleep(0.1)
        if closed == "consumer":
            await consumer.close()
        else:
            await asyncio.gather(alice.close(), bob.close())
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert {TransportClosed} == {type(outcome) for outcome in outcomes}
        assert pytest.approx(0.1, abs=0.01) == link.clock.monotonic_s() - began
        assert 3 == await other.depth(BOB)

    in_virtual_time(run)
