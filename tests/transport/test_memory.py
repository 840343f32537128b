"""The memory transport: the conformance suite, and what is its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chunkq.errors import Nacked
from chunkq.ports import Mailbox, Transport
from chunkq.transport.memory import (
    DELIVERY_LIMIT,
    PACKET_OVERHEAD_BYTES,
    MemoryCarrier,
    MemoryTransport,
)

from .conformance import DeadLetters, Elapse, Make, TransportConformance, create, take

BOB = Mailbox("req", "bob")


class HandClock:
    """A clock that a test moves by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return int(self.now_s * 1000)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


class TestMemoryTransport(TransportConformance):
    """The memory transport keeps every rule of a transport."""

    @pytest.fixture
    def carrier(self, clock: HandClock) -> MemoryCarrier:
        return MemoryCarrier(clock)

    @pytest.fixture
    async def make(self, carrier: MemoryCarrier) -> AsyncIterator[Make]:
        made: list[Transport] = []

        async def make(site: str) -> Transport:
            transport = MemoryTransport(carrier, site)
            await transport.open()
            made.append(transport)
            return transport

        yield make
        for transport in made:
            await transport.close()

    @pytest.fixture
    def elapse(self, clock: HandClock) -> Elapse:
        def elapse(seconds: float) -> None:
            clock.now_s += seconds

        return elapse

    @pytest.fixture
    def dead_letters(self, carrier: MemoryCarrier) -> DeadLetters:
        async def dead_letters(mailbox: Mailbox) -> int:
            return len(carrier.dead_letters(mailbox))

        return dead_letters


async def test_request_queue_full_is_nacked_until_there_is_room(clock: HandClock) -> None:
    """A full mailbox nacks, counting what is out unacknowledged, and takes packets again later."""
    carrier = MemoryCarrier(clock, queue_bytes=2 * (1000 + PACKET_OVERHEAD_BYTES))
    transport = MemoryTransport(carrier, "bob")
    consumer = await transport.consume(BOB, prefetch=10)
    await transport.publish(BOB, bytes(1000))
    await transport.publish(BOB, bytes(1000))
    taken = await take(consumer, 2)
    with pytest.raises(Nacked, match="full"):
        await transport.publish(BOB, b"")
    consumer.acknowledge(taken[0])
    await transport.publish(BOB, bytes(1000))
    assert [bytes(1000)] == [delivery.body for delivery in await take(consumer, 1)]
    await transport.close()


async def test_expired_packets_make_room(clock: HandClock) -> None:
    """A queue full of expired packets takes new ones."""
    carrier = MemoryCarrier(clock, queue_bytes=1000 + PACKET_OVERHEAD_BYTES)
    transport = MemoryTransport(carrier, "bob")
    await create(transport, BOB)
    await transport.publish(BOB, bytes(1000), lifetime_s=5)
    clock.now_s += 6
    await transport.publish(BOB, b"new")
    assert 1 == await transport.depth(BOB)
    await transport.close()


async def test_poison_request_that_crashes_workers_dead_letters_after_20(clock: HandClock) -> None:
    """A packet that comes back again and again is put aside after the delivery limit."""
    carrier = MemoryCarrier(clock)
    transport = MemoryTransport(carrier, "bob")
    await create(transport, BOB)
    await transport.publish(BOB, b"poison")
    for attempt in range(DELIVERY_LIMIT):
        consumer = await transport.consume(BOB, prefetch=1)
        (delivery,) = await take(consumer, 1)
        assert (attempt > 0) == delivery.redelivered
        await consumer.close()
    assert 0 == await transport.depth(BOB)
    assert [b"poison"] == carrier.dead_letters(BOB)
    await transport.close()
