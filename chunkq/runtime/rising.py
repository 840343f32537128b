"""Counts of sources that come and go, as sums that only rise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

_Key = TypeVar("_Key", bound=Hashable)


class Rising(Generic[_Key]):
    """What each source has counted so far is summed; of one that is gone, what it had last."""

    def __init__(self) -> None:
        self._gone: Counter[_Key] = Counter()
        self._last: dict[object, Mapping[_Key, int]] = {}

    def total(self, now: Mapping[object, Mapping[_Key, int]]) -> Counter[_Key]:
        """`now`: by source, those that there are. Sources are told apart by identity."""
        for source in [source for source in self._last if source not in now]:
            self._gone.update(self._last.pop(source))
        self._last = {source: dict(counts) for source, counts in now.items()}
        total = self._gone.copy()
        for counts in self._last.values():
            total.update(counts)
        return total
