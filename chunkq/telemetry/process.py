"""What this process takes of its machine, as the kernel says."""

from __future__ import annotations

import os
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Memory that is in use now; 0 where the kernel does not say (no /proc)."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return 0


def open_descriptors() -> int:
    """How many are open now; 0 where the kernel does not say."""
    try:
        return len(os.listdir("/proc/self/fd")) - 1  # one of them is of this very look
    except OSError:
        return 0
