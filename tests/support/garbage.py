"""What waits for the garbage collector: it comes by number of objects, whatever they weigh."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from chunkq.protocol.limits import KIB

#: Smaller ones are not counted: text of errors, keys, addresses.
LEAST_BYTES = 16 * KIB


@dataclass(slots=True)
class Waste:
    """`buffers` are the sizes of those that only garbage still held, in bytes."""

    buffers: list[int]


@contextmanager
def uncollected() -> Iterator[Waste]:
    """Without a collection while it is entered; at its end, what one would have freed."""
    gc.collect()
    gc.disable()
    waste = Waste([])
    try:
        yield waste
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        held = {
            id(each): len(each)
            for each in gc.get_referents(*gc.garbage)
            if isinstance(each, bytes | bytearray)
        }
        waste.buffers = [size for size in held.values() if size >= LEAST_BYTES]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
        gc.collect()
