"""Deliveries in, cumulative acknowledgements out.

Work on deliveries ends in any order; a carrier wants "this and all before it". The inbox keeps
them in order of arrival and acknowledges the longest finished run.
"""

from __future__ import annotations

from chunkq.ports import Consumer, Delivery


def without_body(delivery: Delivery) -> Delivery:
    """What is needed to let go of a delivery; a commit group of bodies would be 64 MiB."""
    return Delivery(b"", delivery.tag, delivery.generation, delivery.redelivered)


class Inbox:
    """One consumer and what of it is not yet done."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._generation = -1
        self._open: dict[int, Delivery] = {}
        self._done: set[int] = set()

    def __len__(self) -> int:
        """How many are not acknowledged, or wait for one before them that is not."""
        return len(self._open)

    async def receive(self) -> list[Delivery]:
        """As `Consumer.receive`; each delivery must come back through `done`."""
        deliveries = await self._consumer.receive()
        for delivery in deliveries:
            if delivery.generation != self._generation:
                self._generation = delivery.generation
                self._open.clear()
                self._done.clear()
            self._open[delivery.tag] = without_body(delivery)
        return deliveries

    def done(self, *deliveries: Delivery) -> None:
        """These are dealt with; of an older generation there is nothing to let go of."""
        for delivery in deliveries:
            if delivery.generation == self._generation and delivery.tag in self._open:
                self._done.add(delivery.tag)
        last: Delivery | None = None
        while self._done:
            tag = next(iter(self._open))
            if tag not in self._done:
                break
            self._done.discard(tag)
            last = self._open.pop(tag)
        if last is not None:
            self._consumer.acknowledge(last)

    def let_go(self) -> None:
        """Acknowledge everything; `done` has no effect on it any more."""
        self.done(*self._open.values())

    async def close(self) -> None:
        await self._consumer.close()
