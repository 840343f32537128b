"""A transport whose every call somebody sees first, and may fail."""

from __future__ import annotations

from collections.abc import Callable

from chunkq.ports import (
    Buffer,
    Consumer,
    Delivery,
    LinkHealth,
    Mailbox,
    Traffic,
    Transport,
    TransportLimits,
)
from chunkq.protocol.priority import Priority

#: Sees the name of a call and what it is about; raises what the call shall raise. Asked before
#: the call, and, with `done`, after it: it happened, and nobody is told.
CallHook = Callable[[str, object, bool], None]


class HookedTransport:
    """`ports.Transport` around another."""

    def __init__(self, inner: Transport, hook: CallHook) -> None:
        self._inner = inner
        self._hook = hook

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
        self._hook("open", None, False)
        await self._inner.open()
        self._hook("open", None, True)

    async def publish(
        self,
        to: Mailbox,
        body: Buffer,
        *,
        lifetime_s: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        self._hook("publish", to, False)
        await self._inner.publish(to, body, lifetime_s=lifetime_s, priority=priority)
        self._hook("publish", to, True)

    async def consume(self, mailbox: Mailbox, *, prefetch: int) -> Consumer:
        self._hook("consume", mailbox, False)
        consumer = await self._inner.consume(mailbox, prefetch=prefetch)
        return HookedConsumer(consumer, self._hook)

    async def depth(self, mailbox: Mailbox) -> int:
        self._hook("depth", mailbox, False)
        return await self._inner.depth(mailbox)

    async def close(self) -> None:
        self._hook("close", None, False)
        await self._inner.close()


class HookedConsumer:
    """`ports.Consumer` around another."""

    def __init__(self, inner: Consumer, hook: CallHook) -> None:
        self._inner = inner
        self._hook = hook

    async def receive(self) -> list[Delivery]:
        self._hook("receive", None, False)
        deliveries = await self._inner.receive()
        for delivery in deliveries:
            self._hook("delivery", delivery, True)
        return deliveries

    def acknowledge(self, delivery: Delivery) -> None:
        self._hook("acknowledge", delivery, False)
        self._inner.acknowledge(delivery)
        self._hook("acknowledge", delivery, True)

    def reject(self, delivery: Delivery) -> None:
        self._hook("reject", delivery, False)
        self._inner.reject(delivery)

    async def close(self) -> None:
        self._hook("stop", None, False)
        await self._inner.close()
