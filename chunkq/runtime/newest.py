"""What is remembered of the last so many."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

_K = TypeVar("_K")
_V = TypeVar("_V")


class Newest(OrderedDict[_K, _V]):
    """`put` in; beyond `most` the oldest makes way."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def put(self, key: _K, value: _V) -> None:
        self[key] = value
        while len(self) > self._most:
            self.popitem(last=False)
