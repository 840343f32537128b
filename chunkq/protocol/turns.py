"""Whose turn it is among those who wait for the same thing."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Turns(Generic[_T]):
    """What waits, by account; of one account in order of arrival.

    Who has least in work is next; among equals, who was let in longest ago. So an account that
    asks for everything gets what the others leave, and each of those gets an equal part at least.
    """

    def __init__(self) -> None:
        #: Who was let in last stands last.
        self._queues: dict[bytes, deque[_T]] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, account: bytes, item: _T) -> None:
        self._queues.setdefault(account, deque()).append(item)

    def pop(self, in_work: Mapping[bytes, int]) -> tuple[bytes, _T]:
        """Take what is next, and whose it is. Raises `ValueError` if nothing waits."""
        account = min(self._queues, key=lambda each: in_work.get(each, 0))
        queue = self._queues.pop(account)
        item = queue.popleft()
        if queue:
            self._queues[account] = queue
        return account, item
