"""The clocks of this machine."""

from __future__ import annotations

import time

from chunkq.storage.wallclock import wall_ms


class SystemClock:
    """The clocks of this machine."""

    def monotonic_s(self) -> float:
        return time.monotonic()

    def wall_ms(self) -> int:
        return wall_ms()
