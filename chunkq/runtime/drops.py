"""The log of packets that are dropped: the first ones each, then how many there were."""

from __future__ import annotations

from collections import Counter
from typing import Final

from chunkq.ports import Clock, Log

#: So many of a kind are told one by one in this time: enough to see what is wrong. Whoever floods
#: the queue with rubbish shall not fill the disk with the log of it.
TOLD_ONE_BY_ONE: Final = 20
PERIOD_S: Final = 60.0


class Drops:
    """Tells of dropped packets, a bounded number of lines a minute for each code."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._since_s = clock.monotonic_s()
        self._counts: Counter[str] = Counter()
        #: By code, since the start; whoever looks may copy it at any time.
        self.totals: Counter[str] = Counter()

    def __call__(self, code: str, detail: str) -> None:
        now_s = self._clock.monotonic_s()
        if now_s >= self._since_s + PERIOD_S:
            self.flush()
            self._since_s = now_s
        self._counts[code] += 1
        self.totals[code] += 1
        if self._counts[code] <= TOLD_ONE_BY_ONE:
            self._log("request_dropped", level="warning", code=code, detail=detail)

    def flush(self) -> None:
        """Tell how many more there were since the last time."""
        for code, count in self._counts.items():
            if count > TOLD_ONE_BY_ONE:
                more = count - TOLD_ONE_BY_ONE
                self._log("requests_dropped", level="warning", code=code, count=more)
        self._counts.clear()
