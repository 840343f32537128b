"""Reading a whole part file back, holes stepped over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from blake3 import blake3

from chunkq.errors import Stopped
from chunkq.ports import PartFile
from chunkq.protocol.limits import MIB

#: One read: sequential and large enough that the call costs nothing.
BLOCK_BYTES: Final = 1 * MIB
_ZEROS: Final = bytes(BLOCK_BYTES)


def content_digest(
    part: PartFile, size_bytes: int, progress: Callable[[int], None], stop: Callable[[], bool]
) -> bytes:
    """BLAKE3 of the first `size_bytes`; holes are hashed without being read.

    `progress` hears the bytes done. Raises `Stopped` soon after `stop()` is true.
    """
    hasher = blake3()
    offset, hole_end = 0, 0
    while offset < size_bytes:
        if stop():
            raise Stopped("stopped while the file was read back")
        if hole_end <= offset:
            hole_end = part.hole_end(offset)
        if hole_end > offset:
            length = min(hole_end - offset, BLOCK_BYTES, size_bytes - offset)
            hasher.update(memoryview(_ZEROS)[:length])
        else:
            length = min(BLOCK_BYTES, size_bytes - offset)
            data = part.read(offset, length)
            hasher.update(data)
            if len(data) < length:  # truncated behind our back: it will not match
                break
        offset += length
        progress(offset)
    return hasher.digest()
