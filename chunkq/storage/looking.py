"""Whether a directory may have changed since it was looked at, told by one stat of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

#: A change in the same tick of the file system's clock as the look before leaves no trace in the
#: directory's time. Ticks are up to 10 ms; FAT counts in 2 s.
UNSETTLED_NS: Final = 3_000_000_000


class Look:
    """Remembers the time of a directory's last change, once that lies so far back that it tells."""

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._wall_ns = wall_ns
        self._seen: tuple[int, int, int] | None = None

    def changed(self, status: os.stat_result) -> bool:
        """Whether to look again; from now on, compared with this moment."""
        stamp = (status.st_dev, status.st_ino, status.st_mtime_ns)
        same = stamp == self._seen
        # A time in the future is of a clock that was set back, and may come again.
        settled = self._wall_ns() - status.st_mtime_ns > UNSETTLED_NS
        self._seen = stamp if settled else None
        return not same

    def forget(self) -> None:
        """Look again the next time, whatever the directory says."""
        self._seen = None
