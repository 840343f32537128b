"""How much is worked on, or on its way, at once; and who is next."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chunkq.protocol.priority import Lanes, Priority


class Slots:
    """So many at once (requests, or bytes); who waits is let in by class, then by arrival.

    One of a class of which nothing is in work, nor of any above it, gets in at once even so: what
    is in work of lower classes may be long on its way over a slow link. So at most as many more
    are in work as there are classes above the lowest. The last one in may exceed the count by its
    weight.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._in_work: Counter[Priority] = Counter()
        self._waiting: Lanes[tuple[int, asyncio.Future[None]]] = Lanes()

    @asynccontextmanager
    async def taken(self, priority: Priority) -> AsyncIterator[None]:
        """Wait for a slot and hold it."""
        await self.take(priority)
        try:
            yield
        finally:
            self.give_back(priority)

    async def take(self, priority: Priority, weight: int = 1) -> None:
        """Wait for room; what is taken must be given back."""
        if not self._waiting and self._has_room(priority):
            self._in_work[priority] += weight
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(priority, (weight, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(priority, weight)
            raise

    def give_back(self, priority: Priority, weight: int = 1) -> None:
        self._in_work[priority] -= weight
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            priority = self._waiting.turn
            if not self._has_room(priority):
                priority = self._waiting.first
                if not self._has_room(priority):
                    return
            weight, turn = self._waiting.pop(priority)
            if not turn.done():  # else it was given up
                self._in_work[priority] += weight
                turn.set_result(None)

    def _has_room(self, priority: Priority) -> bool:
        if self._in_work.total() < self.count:
            return True
        return not any(self._in_work[each] for each in Priority if each <= priority)
