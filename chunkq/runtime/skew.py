"""How far an origin's clock is ahead of ours, as it says itself: heeded while somebody answers."""

from __future__ import annotations

from typing import Final

from chunkq.ports import Clock, Log

#: The year 10889. A request that would be issued after it, or before 1970, is not sent: whoever
#: says that this is the time does not mean it.
LAST_MS: Final = 1 << 48
#: What was learnt of the difference of the clocks is forgotten after so long without an answer, or
#: longer where answers take longer: one of them was set right since, and an origin says nothing to
#: what it takes for expired. Is it needed still, the origin says so again.
OFFSET_DOUBT_S: Final = 10.0


class Skew:
    """Of one origin, called `alias` here. `offset_ms` is to be added to our clock."""

    def __init__(self, clock: Clock, log: Log, alias: str) -> None:
        self.offset_ms = 0
        self._clock = clock
        self._log = log
        self._alias = alias
        self._answered_s = clock.monotonic_s()

    def answered(self) -> None:
        """A reply came. On any thread."""
        self._answered_s = self._clock.monotonic_s()

    def heed(self, offset_ms: int) -> None:
        """The origin's clock is so far ahead of the request's; what cannot be is not heeded."""
        heeded = self.offset_ms + offset_ms
        plausible = 0 <= self._clock.wall_ms() + heeded <= LAST_MS
        if plausible:
            self.offset_ms = heeded
        self._tell("clock_skew" if plausible else "clock_skew_refused", offset_ms)

    def doubt(self, patience_s: float) -> None:
        """Forget it if nobody has answered for long."""
        silent_s = self._clock.monotonic_s() - self._answered_s
        if self.offset_ms and silent_s > max(OFFSET_DOUBT_S, patience_s):
            self._tell("clock_skew_forgotten", self.offset_ms)
            self.offset_ms = 0

    def _tell(self, event: str, offset_ms: int) -> None:
        self._log(event, level="warning", peer=self._alias, offset_ms=offset_ms)
