"""Memory in whole pages, used again and again: what chunks are opened into and read into.

Page-aligned, so that the part file can be written and read past the page cache; used again, so that
none of it is ever zeroed, faulted in or given back between one batch and the next.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from chunkq.protocol.limits import MIB

#: One buffer: a batch of the assembler, the largest chunk, a read of the read-back.
BUFFER_BYTES: Final = 4 * MIB
#: Kept for the next; more are in use only while several files are written at once.
MAX_FREE: Final = 4


class Pages:
    """Buffers of 4 MiB. Memory is taken as they are filled, so a small file takes little."""

    def __init__(self) -> None:
        self._free: list[memoryview] = []

    @contextmanager
    def borrowed(self) -> Iterator[memoryview]:
        """A buffer of one's own for the time of a `with`; what is in it is anything."""
        try:
            buffer = self._free.pop()
        except IndexError:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            buffer = memoryview(mmap.mmap(-1, BUFFER_BYTES, flags=flags))
        try:
            yield buffer
        finally:
            if len(self._free) < MAX_FREE:
                self._free.append(buffer)
