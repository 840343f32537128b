"""Counts of what happened in this process since it started."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping


class Counters:
    """Named integers that only rise, for threads and tasks alike. A new one starts at 0."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, name: str, amount: int = 1) -> None:
        """Raises `ValueError` if `amount` is negative."""
        if amount < 0:
            raise ValueError(f"counter {name} cannot fall by {-amount}")
        with self._lock:
            self._counts[name] += amount

    def snapshot(self) -> Mapping[str, int]:
        """A copy, ordered by name."""
        with self._lock:
            return dict(sorted(self._counts.items()))
