"""Letting go of descriptors."""

from __future__ import annotations

import errno
import os


def close(fd: int) -> None:
    """Close it, whatever close(2) says: it is gone in any case.

    Over a network, and where there are quotas, it may tell what became of writes; whoever relies
    on these has synced them before. Raises `OSError` only if `fd` was not open: a mistake of ours.
    """
    try:
        os.close(fd)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise
