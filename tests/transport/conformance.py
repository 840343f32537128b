"""What every transport must do, as one suite: a transport's test file subclasses it and is tiny.

The subclass (or its module) provides three fixtures:

- `make`: `async (site) -> Transport`, opened; every transport it makes is on one carrier, and the
  fixture closes them all at the end. Making one site twice gives two workers of that site.
- `elapse`: `(seconds) -> None`, moves the carrier's clock; does nothing where the clock is real
  (the suite then waits for what must happen, with a deadline).
- `dead_letters`: `async (mailbox) -> int`, how many packets of that mailbox were put aside.

Site names are unique to each test, so that a broker that lives longer than a test may be used.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable
from typing import Literal

import pytest

from chunkq.errors import BrokerRefused, TransportClosed, Unroutable
from chunkq.ports import ORIGIN_PREFIX, STATUS_INSTANCE, Consumer, Delivery, Mailbox, Transport
from chunkq.protocol.limits import KIB, MIB

Make = Callable[[str], Awaitable[Transport]]
Elapse = Callable[[float], None]
DeadLetters = Callable[[Mailbox], Awaitable[int]]
Kind = Literal["req", "rep"]

#: Longest wait for anything that must happen: generous, as the machine may be busy.
DEADLINE_S = 30.0
#: Enough for every packet of a small test.
AMPLE_PREFETCH = 1000

both_kinds = pytest.mark.parametrize("kind", ["req", "rep"])


def unique(name: str) -> str:
    """A site name that no other test has."""
    return f"{name}-{uuid.uuid4().hex[:8]}"


def mailbox_of(kind: Kind, site: str) -> Mailbox:
    return Mailbox("req", site) if kind == "req" else Mailbox("rep", site, "one")


def patterned(size: int) -> bytes:
    """Bytes in which a shift, a cut or a swap shows."""
    return hashlib.shake_128(str(size).encode()).digest(size)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until `condition` holds; fails after the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not await condition():  # noqa: ASYNC110 - the carrier has no event for it
            await asyncio.sleep(0.01)


async def take(consumer: Consumer, count: int, *, acknowledge: bool = False) -> list[Delivery]:
    """Receive until there are at least `count`; acknowledge each batch if asked to."""
    taken: list[Delivery] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(taken) < count:
            batch = await consumer.receive()
            assert batch, "receive() returned nothing"
            taken += batch
            if acknowledge:
                consumer.acknowledge(batch[-1])
    return taken


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


async def create(transport: Transport, mailbox: Mailbox) -> None:
    """Make the mailbox exist with nobody consuming."""
    consumer = await transport.consume(mailbox, prefetch=1)
    await consumer.close()


class TransportConformance:
    """Inherit in a class named `Test...`."""

    @pytest.mark.parametrize("size", [0, 1, 256 * KIB, 4 * MIB])
    @both_kinds
    async def test_body_of_any_size_arrives_unchanged(
        self, make: Make, size: int, kind: Kind
    ) -> None:
        """A packet of 0 bytes, 1 byte, a chunk and the largest chunk comes out as it went in."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        consumer = await receiver.consume(mailbox_of(kind, site), prefetch=10)
        await sender.publish(mailbox_of(kind, site), patterned(size))
        (delivery,) = await take(consumer, 1)
        assert patterned(size) == delivery.body
        assert type(delivery.body) is bytes
        assert not delivery.redelivered

    async def test_buffer_types_are_taken_and_may_be_reused(self, make: Make) -> None:
        """Bytes, bytearray and memoryview are sent as they are at the time of the call."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        mailbox = Mailbox("req", site)
        consumer = await receiver.consume(mailbox, prefetch=10)
        array = bytearray(b"as an array")
        await sender.publish(mailbox, b"as bytes")
        await sender.publish(mailbox, array)
        array[:] = b"overwritten"
        whole = bytearray(b"..as a slice of a view..")
        await sender.publish(mailbox, memoryview(whole)[2:-2])
        whole[:] = bytes(len(whole))
        assert [b"as bytes", b"as an array", b"as a slice of a view"] == bodies(
            await take(consumer, 3)
        )

    @both_kinds
    async def test_order_within_one_publisher(self, make: Make, kind: Kind) -> None:
        """What one publisher sends one after another arrives in that order, absent faults."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        consumer = await receiver.consume(mailbox_of(kind, site), prefetch=7)
        sent = [str(number).encode() for number in range(50)]
        for body in sent:
            await sender.publish(mailbox_of(kind, site), body)
        assert sent == bodies(await take(consumer, 50, acknowledge=True))

    async def test_tags_rise_within_a_generation(self, make: Make) -> None:
        """Tags of one consumer rise, so that a cumulative acknowledge has a meaning."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        consumer = await receiver.consume(Mailbox("req", site), prefetch=10)
        for _ in range(5):
            await sender.publish(Mailbox("req", site), b"x")
        taken = await take(consumer, 5)
        tags = [delivery.tag for delivery in taken]
        assert sorted(set(tags)) == tags
        assert 1 == len({delivery.generation for delivery in taken})

    @both_kinds
    async def test_acknowledge_is_cumulative_and_the_rest_comes_back(
        self, make: Make, kind: Kind
    ) -> None:
        """Acknowledged packets never return; the others do, flagged, once the consumer closes."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        mailbox = mailbox_of(kind, site)
        consumer = await receiver.consume(mailbox, prefetch=AMPLE_PREFETCH)
        sent = [f"packet {number}".encode() for number in range(10)]
        for body in sent:
            await sender.publish(mailbox, body)
        taken = await take(consumer, 10)
        consumer.acknowledge(taken[5])
        consumer.acknowledge(taken[5])
        consumer.acknowledge(taken[2])
        await consumer.close()

        again = await receiver.consume(mailbox, prefetch=AMPLE_PREFETCH)
        returned = await take(again, 4)
        assert sorted(sent[6:]) == sorted(bodies(returned))
        assert all(delivery.redelivered for delivery in returned)
        again.acknowledge(returned[-1])
        await sender.publish(mailbox, b"sentinel")
        (sentinel,) = await take(again, 1)
        assert (b"sentinel", False) == (sentinel.body, sentinel.redelivered)

    async def test_prefetch_bounds_what_is_unacknowledged(self, make: Make) -> None:
        """Never more than `prefetch` packets are out; acknowledging lets as many follow."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        mailbox = Mailbox("req", site)
        consumer = await receiver.consume(mailbox, prefetch=3)
        for number in range(10):
            await sender.publish(mailbox, str(number).encode())
        received = 0
        while received < 9:
            held = await take(consumer, 3)
            received += len(held)
            assert 3 == len(held)
            assert 10 - received == await receiver.depth(mailbox)
            waiting = asyncio.ensure_future(consumer.receive())
            assert 10 - received == await receiver.depth(mailbox)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.wait([waiting])
            consumer.acknowledge(held[-1])
        assert [b"9"] == bodies(await take(consumer, 1))

    async def test_two_workers_share_one_request_mailbox(self, make: Make) -> None:
        """Each packet goes to one worker of a pool, and a busy one does not hold up the other."""
        sender, site = await make(unique("alice")), unique("bob")
        mailbox = Mailbox("req", site)
        first = await (await make(site)).consume(mailbox, prefetch=4)
        second = await (await make(site)).consume(mailbox, prefetch=4)
        sent = [str(number).encode() for number in range(8)]
        for body in sent:
            await sender.publish(mailbox, body)
        taken = await asyncio.gather(take(first, 4), take(second, 4))
        assert [4, 4] == [len(part) for part in taken]
        assert sent == sorted(bodies(taken[0] + taken[1]))

    @both_kinds
    async def test_no_such_mailbox_is_unroutable(self, make: Make, kind: Kind) -> None:
        """A packet to a site that has never started is refused, not lost."""
        sender = await make(unique("alice"))
        with pytest.raises(Unroutable):
            await sender.publish(mailbox_of(kind, unique("nobody")), b"hello")

    async def test_transport_goes_on_after_unroutable(self, make: Make) -> None:
        """An unroutable packet does not harm those before and after it."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        consumer = await receiver.consume(Mailbox("req", site), prefetch=10)
        outcomes = await asyncio.gather(
            sender.publish(Mailbox("req", site), b"before"),
            sender.publish(Mailbox("req", unique("nobody")), b"lost"),
            sender.publish(Mailbox("req", site), b"after"),
            return_exceptions=True,
        )
        assert [type(None), Unroutable, type(None)] == [type(outcome) for outcome in outcomes]
        assert [b"after", b"before"] == sorted(bodies(await take(consumer, 2)))

    async def test_depth_counts_what_waits(self, make: Make) -> None:
        """Depth is 0 without a mailbox, and otherwise how many packets nobody has taken."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        mailbox = Mailbox("req", site)
        assert 0 == await receiver.depth(mailbox)
        await create(receiver, mailbox)
        assert 0 == await receiver.depth(mailbox)
        for _ in range(3):
            await sender.publish(mailbox, b"x")

        async def three_wait() -> bool:
            return await receiver.depth(mailbox) == 3

        await eventually(three_wait)

    async def test_chunk_larger_than_the_message_limit_is_refused_before_sending(
        self, make: Make
    ) -> None:
        """A body over the limit raises BrokerRefused, nothing of it is sent, and life goes on."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        mailbox = Mailbox("req", site)
        consumer = await receiver.consume(mailbox, prefetch=10)
        with pytest.raises(BrokerRefused, match=str(sender.limits.max_message_bytes)):
            await sender.publish(mailbox, bytes(sender.limits.max_message_bytes + 1))
        await sender.publish(mailbox, b"small")
        assert [b"small"] == bodies(await take(consumer, 1))
        assert sender.health.ok

    @both_kinds
    async def test_expired_packet_is_not_delivered(
        self, make: Make, elapse: Elapse, kind: Kind
    ) -> None:
        """A packet whose lifetime is over is dropped by the carrier; others are not."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        mailbox = mailbox_of(kind, site)
        await create(receiver, mailbox)
        await sender.publish(mailbox, b"dies young", lifetime_s=0.05)
        await sender.publish(mailbox, b"lives long", lifetime_s=3600)
        await sender.publish(mailbox, b"sentinel")
        elapse(0.1)

        async def one_is_gone() -> bool:
            return await receiver.depth(mailbox) == 2

        await eventually(one_is_gone)
        consumer = await receiver.consume(mailbox, prefetch=10)
        assert [b"lives long", b"sentinel"] == bodies(await take(consumer, 2))

    @both_kinds
    async def test_mailbox_outlives_its_consumer(self, make: Make, kind: Kind) -> None:
        """What is sent while a site is away, and what it held, is there when it is back."""
        sender, site = await make(unique("alice")), unique("bob")
        mailbox = mailbox_of(kind, site)
        earlier = await make(site)
        consumer = await earlier.consume(mailbox, prefetch=10)
        await sender.publish(mailbox, b"held")
        await take(consumer, 1)
        await earlier.close()
        await sender.publish(mailbox, b"while away")

        later = await (await make(site)).consume(mailbox, prefetch=10)
        assert {b"held": True, b"while away": False} == {
            delivery.body: delivery.redelivered for delivery in await take(later, 2)
        }

    @pytest.mark.parametrize("instance", [STATUS_INSTANCE, f"{ORIGIN_PREFIX}one"])
    async def test_fleeting_mailbox_goes_with_its_last_consumer(
        self, make: Make, instance: str
    ) -> None:
        """Where reports and commands go, there is something only while somebody listens; what was
        not taken is not kept for the next one.
        """
        sender, site = await make(unique("alice")), unique("bob")
        mailbox = Mailbox("rep", site, instance)
        with pytest.raises(Unroutable):
            await sender.publish(mailbox, b"nobody listens")
        receiver, other = await make(site), await make(site)
        consumers = [await each.consume(mailbox, prefetch=1) for each in (receiver, other)]
        await consumers.pop().close()
        await sender.publish(mailbox, b"held", lifetime_s=10)
        await sender.publish(mailbox, b"waits", lifetime_s=10)
        assert [b"held"] == bodies(await take(consumers[0], 1))
        await consumers[0].close()

        async def gone() -> bool:
            try:
                await sender.publish(mailbox, b"again nobody")
            except Unroutable:
                return True
            return False

        await eventually(gone)
        again = await receiver.consume(mailbox, prefetch=10)
        await sender.publish(mailbox, b"fresh")
        assert b"fresh" == bodies(await take(again, 1))[-1]

    async def test_fleeting_mailbox_that_is_full_holds_nobody_up(self, make: Make) -> None:
        """Who listens too slowly misses the oldest; publishers are never refused, and no more is
        kept than some MiB.
        """
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        mailbox = Mailbox("rep", site, STATUS_INSTANCE)
        consumer = await receiver.consume(mailbox, prefetch=1)
        sent = [bytes([number]) * 256 * KIB for number in range(60)]
        for body in sent:
            await sender.publish(mailbox, body, lifetime_s=3600)
        assert 16 <= await receiver.depth(mailbox) <= 32
        taken: list[bytes] = []
        while sent[-1] not in taken:
            taken += bodies(await take(consumer, 1, acknowledge=True))
        assert [body for body in sent if body in taken] == taken
        assert 16 <= len(taken) <= 33

    async def test_publish_after_close_is_refused(self, make: Make) -> None:
        """A closed transport says so, and closing twice is harmless."""
        sender, site = await make(unique("alice")), unique("bob")
        await create(await make(site), Mailbox("req", site))
        await sender.close()
        await sender.close()
        with pytest.raises(TransportClosed):
            await sender.publish(Mailbox("req", site), b"too late")

    @pytest.mark.parametrize("closed", ["consumer", "transport"])
    async def test_receive_wakes_when_closed(self, make: Make, closed: str) -> None:
        """A waiting receive raises TransportClosed on close, and so does any later one."""
        site = unique("bob")
        receiver = await make(site)
        consumer = await receiver.consume(Mailbox("req", site), prefetch=10)
        waiting = asyncio.ensure_future(consumer.receive())
        await receiver.depth(Mailbox("req", site))
        await (consumer if closed == "consumer" else receiver).close()
        with pytest.raises(TransportClosed):
            await asyncio.wait_for(waiting, DEADLINE_S)
        with pytest.raises(TransportClosed):
            await asyncio.wait_for(consumer.receive(), DEADLINE_S)
        await consumer.close()

    async def test_cancelled_receive_loses_nothing(self, make: Make) -> None:
        """A receive that is cancelled while it waits takes no packet with it."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        mailbox = Mailbox("req", site)
        consumer = await receiver.consume(mailbox, prefetch=AMPLE_PREFETCH)
        sent = [str(number).encode() for number in range(30)]
        taken: list[bytes] = []
        for body in sent:
            waiting = asyncio.ensure_future(consumer.receive())
            await sender.publish(mailbox, body)
            waiting.cancel()
            await asyncio.wait([waiting])
            if not waiting.cancelled():
                taken += bodies(waiting.result())
        if missing := len(sent) - len(taken):
            taken += bodies(await take(consumer, missing))
        assert sorted(sent) == sorted(taken)

    async def test_poison_request_goes_to_the_dead_letters_and_others_go_on(
        self, make: Make, dead_letters: DeadLetters
    ) -> None:
        """A rejected packet is put aside, once; its neighbours stay deliverable."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        mailbox = Mailbox("req", site)
        consumer = await receiver.consume(mailbox, prefetch=10)
        for body in (b"before", b"poison", b"after"):
            await sender.publish(mailbox, body)
        before, poison, after = await take(consumer, 3)
        assert b"poison" == poison.body
        consumer.reject(poison)

        async def put_aside() -> bool:
            return await dead_letters(mailbox) == 1

        await eventually(put_aside)
        await consumer.close()
        again = await receiver.consume(mailbox, prefetch=10)
        assert sorted([before.body, after.body]) == sorted(bodies(await take(again, 2)))
        assert 0 == await receiver.depth(mailbox)

    async def test_reject_frees_a_place_of_the_prefetch(
        self, make: Make, dead_letters: DeadLetters
    ) -> None:
        """Rejecting counts as letting go: with a prefetch of 1 the next packet arrives."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        mailbox = Mailbox("req", site)
        consumer = await receiver.consume(mailbox, prefetch=1)
        await sender.publish(mailbox, b"poison")
        await sender.publish(mailbox, b"good")
        (poison,) = await take(consumer, 1)
        consumer.reject(poison)
        assert [b"good"] == bodies(await take(consumer, 1))

    async def test_many_concurrent_publishes(self, make: Make) -> None:
        """Hundreds of publishes at once all succeed and each packet arrives once."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        mailbox = Mailbox("rep", site, "one")
        consumer = await receiver.consume(mailbox, prefetch=50)
        sent = [str(number).encode() * 4 * KIB for number in range(300)]
        _, taken = await asyncio.gather(
            asyncio.gather(*(sender.publish(mailbox, body) for body in sent)),
            take(consumer, len(sent), acknowledge=True),
        )
        assert sorted(sent) == sorted(bodies(taken))

    async def test_more_bytes_than_are_let_on_the_way_at_once(self, make: Make) -> None:
        """40 MiB published at once wait their turn inside and all arrive."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        mailbox = Mailbox("rep", site, "one")
        consumer = await receiver.consume(mailbox, prefetch=8)
        sent = [bytes([number]) * MIB for number in range(40)]
        _, taken = await asyncio.gather(
            asyncio.gather(*(sender.publish(mailbox, body) for body in sent)),
            take(consumer, len(sent), acknowledge=True),
        )
        assert {body[0] for body in sent} == {delivery.body[0] for delivery in taken}
        assert len(sent) == len(taken)
        assert all(set(delivery.body) == {delivery.body[0]} for delivery in taken)

    async def test_mailboxes_are_isolated(self, make: Make) -> None:
        """Requests, and the replies to each instance, go to their own mailbox and no other."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        boxes = [Mailbox("req", site), Mailbox("rep", site, "one"), Mailbox("rep", site, "two")]
        consumers = [await receiver.consume(mailbox, prefetch=10) for mailbox in boxes]
        for mailbox in reversed(boxes):
            await sender.publish(mailbox, str(mailbox).encode())
            await sender.publish(mailbox, b"last")
        for mailbox, consumer in zip(boxes, consumers, strict=True):
            assert [str(mailbox).encode(), b"last"] == bodies(await take(consumer, 2))

    async def test_health_is_good_while_open(self, make: Make) -> None:
        """An open transport on a working carrier says so, and names its limit."""
        transport = await make(unique("alice"))
        assert transport.health.ok
        assert "" == transport.health.reason
        assert 4 * MIB < transport.limits.max_message_bytes

    async def test_traffic_counts_every_byte(self, make: Make) -> None:
        """What was sent and what was received count at their own ends, and stay after the close."""
        sender, site = await make(unique("alice")), unique("bob")
        receiver = await make(site)
        consumer = await receiver.consume(Mailbox("req", site), prefetch=10)
        before = sender.traffic, receiver.traffic
        for _ in range(3):
            await sender.publish(Mailbox("req", site), bytes(MIB))
        await take(consumer, 3)
        after = sender.traffic, receiver.traffic
        sent = after[0].sent_bytes - before[0].sent_bytes
        received = after[1].received_bytes - before[1].received_bytes
        assert 3 * MIB <= sent < 3 * MIB + 16 * KIB
        assert 3 * MIB <= received < 3 * MIB + 16 * KIB
        assert after[0].received_bytes < 16 * KIB
        await receiver.close()
        assert receiver.traffic.received_bytes >= after[1].received_bytes
