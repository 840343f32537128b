"""Room for many files open at once: each transfer under way holds four descriptors."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

#: Enough for four thousand transfers. Most systems begin a process with 1024, for the sake of
#: programs that call select(2), and allow it hundreds of thousands.
WANTED: Final = 16384


def allow_open_files() -> int:
    """Raise this process's own limit, as far as the system lets it; returns what it is now.

    A limit that is higher already stays. Children inherit it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED if hard == resource.RLIM_INFINITY else min(WANTED, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return soft
    with contextlib.suppress(OSError, ValueError):  # then it is as it was
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
