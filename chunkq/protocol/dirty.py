"""What is in the part file and not yet committed, and when a commit of it is due."""

from __future__ import annotations


class Dirty:
    """Due after so many bytes, or so long after the first of them."""

    def __init__(self, limit_bytes: int, interval_s: float) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._interval_s = interval_s
        self._since: float | None = None

    def add(self, size_bytes: int, now: float) -> None:
        self.size_bytes += size_bytes
        if self._since is None:
            self._since = now

    def clear(self) -> None:
        """A commit of all of it begins."""
        self.size_bytes = 0
        self._since = None

    def due(self, now: float) -> bool:
        if self._since is None:
            return False
        return self.size_bytes >= self.limit_bytes or now - self._since >= self._interval_s

    @property
    def due_at_s(self) -> float | None:
        return None if self._since is None else self._since + self._interval_s
