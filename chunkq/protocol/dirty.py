"""What is in the part file and not yet committed, and when a commit of it is due."""

from __future__ import annotations


class Dirty:
    """Due after so many bytes, or so long after the first of them."""

    def __init__(self, limit_bytes: int, interval_s: float) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._interval_s = interval_s
        self._committing_bytes = 0
        self._since: float | None = None
        self._not_before = 0.0

    def add(self, size_bytes: int, now: float) -> None:
        self.size_bytes += size_bytes
        if self._since is None:
            self._since = now

    def clear(self) -> None:
        """A commit of all of it begins, or none of it counts any more."""
        self._committing_bytes, self.size_bytes = self.size_bytes, 0
        self._since = None

    def restore(self, now: float) -> None:
        """The commit came to nothing: it is all still to be committed, and not at once."""
        self.add(self._committing_bytes, now)
        self._committing_bytes = 0
        self._not_before = now + self._interval_s

    def due(self, now: float) -> bool:
        due_at_s = self.due_at_s
        if due_at_s is None or now < self._not_before:
            return False
        return self.size_bytes >= self.limit_bytes or now >= due_at_s

    @property
    def due_at_s(self) -> float | None:
        if self._since is None:
            return None
        return max(self._since + self._interval_s, self._not_before)
