"""A byte rate for any transport, as a decorator of it: both ways, with bursts and classes.

What may not go yet waits here, in order of class and then of arrival, so a request or an urgent
transfer's chunk overtakes a bulk file whose packets already wait. Packets count with their bytes
as they are handed to the carrier, without what the carrier puts around them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final

from chunkq.errors import TransportClosed
from chunkq.ports import (
    Buffer,
    Clock,
    Consumer,
    Delivery,
    LinkHealth,
    Mailbox,
    Traffic,
    Transport,
    TransportLimits,
)
from chunkq.protocol.bucket import DebtBucket
from chunkq.protocol.priority import Lanes, Priority

#: What is saved up while nothing moves, where nothing is said: so many seconds of the rate.
DEFAULT_BURST_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class ByteRate:
    """So many bytes a second; after a pause `burst_bytes` (and one packet) pass at once."""

    bytes_per_s: float
    burst_bytes: float

    @classmethod
    def of(cls, bytes_per_s: float | None, burst_bytes: float | None = None) -> ByteRate | None:
        """None for no limit; the burst is a quarter of a second's bytes unless given."""
        if bytes_per_s is None:
            return None
        burst = bytes_per_s * DEFAULT_BURST_S if burst_bytes is None else burst_bytes
        return cls(bytes_per_s, burst)


class Throttle:
    """Lets bytes pass at a rate."""

    def __init__(self, rate: ByteRate, clock: Clock) -> None:
        self._bucket = DebtBucket(rate.bytes_per_s, rate.burst_bytes)
        self._clock = clock
        self._waiting: Lanes[tuple[int, asyncio.Future[None]]] = Lanes()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def take(self, size_bytes: int) -> bool:
        """Pass now if nobody waits and nothing is owed."""
        if self._closed or self._waiting:
            return False
        return self._bucket.take(self._clock.monotonic_s(), size_bytes)

    async def passed(self, size_bytes: int, priority: Priority) -> None:
        """Wait for one's turn. Raises `TransportClosed`."""
        if self._closed:
            raise TransportClosed("the transport was closed")
        if self.take(size_bytes):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(priority, (size_bytes, turn))
        if self._timer is None:
            self._serve()
        await turn

    def close(self) -> None:
        """Fail all that wait."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            _, turn = self._waiting.pop(self._waiting.first)
            if not turn.done():
                turn.set_exception(TransportClosed("the transport was closed"))

    def _serve(self) -> None:
        """Let go whoever may go now, and come back for the next when that is time."""
        self._timer = None
        while self._waiting:
            now_s = self._clock.monotonic_s()
            if not self._bucket.take(now_s, 0):
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._bucket.wait_s(), self._serve)
                return
            size_bytes, turn = self._waiting.pop(self._waiting.turn)
            if not turn.done():  # else it was given up
                self._bucket.take(now_s, size_bytes)
                turn.set_result(None)


class LimitedConsumer:
    """Implements `Consumer`: hands out what comes at the transport's rate."""

    def __init__(self, inner: Consumer, throttle: Throttle) -> None:
        self._inner = inner
        self._throttle = throttle
        #: Taken from the carrier and not yet handed out; at most the prefetch.
        self._held: deque[Delivery] = deque()
        self._one_at_a_time = asyncio.Lock()
        self._closed = asyncio.Event()

    async def receive(self) -> list[Delivery]:
        async with self._one_at_a_time:
            if not self._held:
                self._held.extend(await self._inner.receive())
            await self._turn(len(self._held[0].body))
            batch = [self._held.popleft()]
            while self._held and self._throttle.take(len(self._held[0].body)):
                batch.append(self._held.popleft())
            return batch

    async def _turn(self, size_bytes: int) -> None:
        """Wait for the rate, but not beyond the close."""
        if self._throttle.take(size_bytes):
            return
        turn = asyncio.ensure_future(self._throttle.passed(size_bytes, Priority.NORMAL))
        closed = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait((turn, closed), return_when=asyncio.FIRST_COMPLETED)
            if self._closed.is_set():
                raise TransportClosed("the consumer was closed")
            turn.result()
        finally:
            turn.cancel()
            closed.cancel()
            await asyncio.gather(turn, closed, return_exceptions=True)

    def acknowledge(self, delivery: Delivery) -> None:
        self._inner.acknowledge(delivery)

    def reject(self, delivery: Delivery) -> None:
        self._inner.reject(delivery)

    async def close(self) -> None:
        self._closed.set()
        await self._inner.close()
        self._held.clear()


class LimitedTransport:
    """Implements `Transport` around another one; without rates it only passes on."""

    def __init__(
        self, inner: Transport, clock: Clock, *, send: ByteRate | None, receive: ByteRate | None
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._sending = None if send is None else Throttle(send, clock)
        self._receiving = None if receive is None else Throttle(receive, clock)

    @property
    def limits(self) -> TransportLimits:
        return self._inner.limits

    @property
    def health(self) -> LinkHealth:
        return self._inner.health

    @property
    def traffic(self) -> Traffic:
        return self._inner.traffic

    async def open(self) -> None:
        await self._inner.open()

    async def publish(
        self,
        to: Mailbox,
        body: Buffer,
        *,
        lifetime_s: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        size_bytes = memoryview(body).nbytes
        if self._sending is not None and size_bytes <= self.limits.max_message_bytes:
            since_s = self._clock.monotonic_s()
            await self._sending.passed(size_bytes, priority)
            if lifetime_s is not None:
                lifetime_s = max(0.0, lifetime_s - (self._clock.monotonic_s() - since_s))
        await self._inner.publish(to, body, lifetime_s=lifetime_s, priority=priority)

    async def consume(self, mailbox: Mailbox, *, prefetch: int) -> Consumer:
        consumer = await self._inner.consume(mailbox, prefetch=prefetch)
        return consumer if self._receiving is None else LimitedConsumer(consumer, self._receiving)

    async def depth(self, mailbox: Mailbox) -> int:
        return await self._inner.depth(mailbox)

    async def close(self) -> None:
        for throttle in (self._sending, self._receiving):
            if throttle is not None:
                throttle.close()
        await self._inner.close()
