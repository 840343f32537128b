"""How much is worked on, or on its way, at once; and who is next."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from chunkq.protocol.priority import Priority
from chunkq.protocol.turns import Turns

#: Whose everything is where nobody is told apart.
ANYBODY = b""


class Slots:
    """So many at once (requests, or bytes); who waits is let in by turns of the accounts, and of
    one account by class, then by arrival (`Turns`).

    Two get in at once even where all is taken. An account that has less than `share` in work: what
    others have there may not move at all. And of an account one of a class of which it has nothing
    in work, nor of any above it: what it has of lower classes may be long on its way over a slow
    link. So an account adds its share and as many more as there are classes above the lowest. The
    last one in may exceed the count by its weight.
    """

    def __init__(self, count: int, share: int = 0) -> None:
        self.count = count
        self.share = share
        self._in_work: Counter[tuple[bytes, Priority]] = Counter()
        self._of_account: Counter[bytes] = Counter()
        self._total = 0
        self._aside = 0
        self._turns: Turns[tuple[int, asyncio.Future[None]]] = Turns()

    @property
    def shared(self) -> bool:
        """Whether several accounts have something in work, or wait."""
        return len(self._of_account.keys() | self._turns.accounts) > 1

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
        if not self._turns and self._has_room(account, priority):
            self._change(priority, weight, account)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._turns.add(account, priority, (weight, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give_back(priority, weight, account)
            raise

    def give_back(self, priority: Priority, weight: int = 1, account: bytes = ANYBODY) -> None:
        self._change(priority, -weight, account)
        self._admit()

    def set_aside(self, weight: int) -> None:
        """So much of what is in work stands still (again negative: moves): it takes no room from
        other accounts. Its own has no more for it than the count.
        """
        self._aside += weight
        self._admit()

    def _admit(self) -> None:
        while self._turns and (found := self._next()) is not None:
            account, priority = found
            weight, turn = self._turns.pop(account, priority)
            if not turn.done():  # else it was given up
                self._change(priority, weight, account)
                turn.set_result(None)

    def _next(self) -> tuple[bytes, Priority] | None:
        """Who is let in now, if there is room."""
        for account in self._turns.order(self._of_account):
            for priority in self._turns.classes(account):
                if self._has_room(account, priority):
                    return account, priority
        return None

    def _change(self, priority: Priority, weight: int, account: bytes) -> None:
        self._total += weight
        self._in_work[account, priority] += weight
        self._of_account[account] += weight
        if not self._in_work[account, priority]:
            del self._in_work[account, priority]
        if not self._of_account[account]:
            del self._of_account[account]

    def _has_room(self, account: bytes, priority: Priority) -> bool:
        own = self._of_account[account]
        if own < self.share or (own < self.count and self._total - self._aside < self.count):
            return True
        return not any(self._in_work[account, each] for each in Priority if each <= priority)
