"""What happened in a world, in order: the last of it to be read, all of it in a digest."""

from __future__ import annotations

from collections import Counter, deque
from hashlib import blake2b

#: So many events are shown of a run that failed.
SHOWN = 200
#: Lines are hashed in pieces of this many.
_BATCH = 256


class Trace:
    """`keep_all`: for reading one seed from its beginning."""

    def __init__(self, *, keep_all: bool = False) -> None:
        self.count = 0
        self.faults: Counter[str] = Counter()
        self.last: deque[str] = deque(maxlen=None if keep_all else SHOWN)
        self._pending: list[str] = []
        self._hash = blake2b(digest_size=16)

    def __call__(self, now_s: float, what: str) -> None:
        self.count += 1
        line = f"{now_s:.6f} {what}"
        self.last.append(line)
        self._pending.append(line)
        if len(self._pending) >= _BATCH:
            self._flush()

    def fault(self, now_s: float, name: str, what: str) -> None:
        """A fault of that name occurred."""
        self.faults[name] += 1
        self(now_s, f"! {name} {what}")

    @property
    def digest(self) -> str:
        """Of all events so far."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        self._hash.update("\n".join(self._pending).encode())
        self._pending.clear()
