"""What overtakes what: the classes of packets and of transfers."""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Final, Generic, Literal, TypeVar, get_args

#: What a person may give a transfer: a closed set, and what a request says.
PriorityWord = Literal["urgent", "normal", "bulk"]
#: So often in a row may others overtake one of a lower class: it slows down, and never stands.
MAX_OVERTAKINGS: Final = 15

_T = TypeVar("_T")


def priority_word(value: object) -> PriorityWord:
    """What was written down somewhere; anything else is the usual class."""
    found: PriorityWord
    for found in get_args(PriorityWord):
        if found == value:
            return found
    return "normal"


class Priority(IntEnum):
    """Lower numbers go first. CONTROL is for small packets that others wait for, of any class."""

    CONTROL = 0
    URGENT = 1
    NORMAL = 2
    BULK = 3

    @classmethod
    def of(cls, word: PriorityWord) -> Priority:
        return cls[word.upper()]

    @property
    def word(self) -> PriorityWord:
        """What a request says; CONTROL has no word, and counts as the usual class."""
        return priority_word(self.name.lower())


class Lanes(Generic[_T]):
    """What waits: by class, then by arrival; a lower class gets one turn in sixteen at least."""

    def __init__(self) -> None:
        self._lanes: dict[Priority, deque[_T]] = {each: deque() for each in Priority}
        self._overtakings = 0

    def __bool__(self) -> bool:
        return any(self._lanes.values())

    def add(self, priority: Priority, item: _T) -> None:
        self._lanes[priority].append(item)

    @property
    def first(self) -> Priority:
        """The highest class of which something waits. Raises `StopIteration` if nothing does."""
        return next(each for each, lane in self._lanes.items() if lane)

    @property
    def turn(self) -> Priority:
        """Whose turn it is: the first, or now and then the last."""
        if self._overtakings < MAX_OVERTAKINGS:
            return self.first
        return next(each for each in reversed(Priority) if self._lanes[each])

    def peek(self, priority: Priority) -> _T:
        """What has waited longest in this class. Raises `IndexError` if nothing does."""
        return self._lanes[priority][0]

    def pop(self, priority: Priority) -> _T:
        """Take what has waited longest in this class. Raises `IndexError` if nothing does."""
        item = self._lanes[priority].popleft()
        overtaken = any(lane for each, lane in self._lanes.items() if each > priority)
        self._overtakings = self._overtakings + 1 if overtaken else 0
        return item
