"""How much is worked on, or on its way, at once; and who is next."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chunkq.protocol.priority import Lanes, Priority
from chunkq.protocol.turns import Turns

#: Whose everything is where nobody is told apart.
ANYBODY = b""


class Slots:
    """So many at once (requests, or bytes); who waits is let in by class, and then by turns of
    the accounts, as `Turns` says.

    One of a class of which nothing is in work, nor of any above it, gets in at once even so: what
    is in work of lower classes may be long on its way over a slow link. So at most as many more
    are in work as there are classes above the lowest. The last one in may exceed the count by its
    weight.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._in_work: Counter[Priority] = Counter()
        self._of_account: Counter[bytes] = Counter()
        #: A place in the classes for each that waits, and by class and account who it is.
        self._waiting: Lanes[None] = Lanes()
        self._turns: dict[Priority, Turns[tuple[int, asyncio.Future[None]]]] = {
            each: Turns() for each in Priority
        }

    @asynccontextmanager
    async def taken(self, priority: Priority, account: bytes = ANYBODY) -> AsyncIterator[None]:
        """Wait for a slot and hold it."""
        await self.take(priority, account=account)
        try:
            yield
        finally:
            self.give_back(priority, account=account)

    async def take(self, priority: Priority, weight: int = 1, account: bytes = ANYBODY) -> None:
        """Wait for room; what is taken must be given back."""
        if not self._waiting and self._has_room(priority):
            self._let_in(priority, weight, account)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(priority, None)
        self._turns[priority].add(account, (weight, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(priority, weight, account)
            raise

    def give_back(self, priority: Priority, weight: int = 1, account: bytes = ANYBODY) -> None:
        self._in_work[priority] -= weight
        self._of_account[account] -= weight
        if not self._of_account[account]:
            del self._of_account[account]
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            priority = self._waiting.turn
            if not self._has_room(priority):
                priority = self._waiting.first
                if not self._has_room(priority):
                    return
            self._waiting.pop(priority)
            account, (weight, turn) = self._turns[priority].pop(self._of_account)
            if not turn.done():  # else it was given up
                self._let_in(priority, weight, account)
                turn.set_result(None)

    def _let_in(self, priority: Priority, weight: int, account: bytes) -> None:
        self._in_work[priority] += weight
        self._of_account[account] += weight

    def _has_room(self, priority: Priority) -> bool:
        if self._in_work.total() < self.count:
            return True
        return not any(self._in_work[each] for each in Priority if each <= priority)
