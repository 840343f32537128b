"""Keep glibc from handing every chunk-sized buffer back to the kernel."""

from __future__ import annotations

import ctypes
from typing import Final

from chunkq.protocol.limits import MIB

#: From malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
#: Threads share two heaps: with one each, every one of them keeps its own spare buffers.
ARENAS: Final = 2
#: Above the largest packet (4 MiB and its seal), so that no chunk is a mapping of its own.
MMAP_THRESHOLD_BYTES: Final = 8 * MIB
#: Free memory kept at the top of the heap: what a few chunks need, far under a process's budget.
TRIM_THRESHOLD_BYTES: Final = 16 * MIB


def keep_buffers() -> bool:
    """Raise malloc's thresholds for this process; False where this is no glibc.

    By default each buffer of 128 KiB and more is mapped, faulted in and unmapped anew, which cost
    half of an origin's CPU time at 256 KiB chunks.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        ctypes.CDLL(None).gnu_get_libc_version  # noqa: B018 another libc's mallopt does nothing
    except (OSError, AttributeError):
        return False
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    wanted = (
        (_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        (_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
        (_M_ARENA_MAX, ARENAS),
    )
    results = [mallopt(option, size) for option, size in wanted]
    return all(result == 1 for result in results)
