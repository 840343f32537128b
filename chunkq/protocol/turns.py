"""Whose turn it is among those who wait for the same thing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Generic, TypeVar

from chunkq.protocol.priority import Lanes, Priority

_T = TypeVar("_T")


class Turns(Generic[_T]):
    """What waits, by account; of one account by class, and then by arrival.

    Who has least in work is next; among equals, who was let in longest ago. So an account that
    asks for everything gets what the others leave, and each of those gets an equal part at least.
    Classes count within an account only: whoever asks says them himself.
    """

    def __init__(self) -> None:
        #: Who was let in last stands last.
        self._lanes: dict[bytes, Lanes[_T]] = {}

    def __bool__(self) -> bool:
        return bool(self._lanes)

    @property
    def accounts(self) -> Collection[bytes]:
        return self._lanes.keys()

    def add(self, account: bytes, priority: Priority, item: _T) -> None:
        self._lanes.setdefault(account, Lanes()).add(priority, item)

    def order(self, in_work: Mapping[bytes, int]) -> list[bytes]:
        """The accounts, who is next first."""
        return sorted(self._lanes, key=lambda account: in_work.get(account, 0))

    def classes(self, account: bytes) -> tuple[Priority, Priority]:
        """Whose turn it is among what an account waits for, and the highest class of that."""
        lanes = self._lanes[account]
        return lanes.turn, lanes.first

    def pop(self, account: bytes, priority: Priority) -> _T:
        """Take what has waited longest in this class of an account."""
        lanes = self._lanes.pop(account)
        item = lanes.pop(priority)
        if lanes:
            self._lanes[account] = lanes
        return item
