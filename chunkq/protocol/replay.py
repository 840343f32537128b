"""Which counters of one epoch were used: a window of bits that slides up with the highest one.

Counter `c` has bit `c % 65536` of the buffer, byte `bit // 8`, mask `1 << (bit % 8)`. What is older
than the window counts as used. The buffer belongs to the caller, so that it can be a mapped file.
"""

from __future__ import annotations

from typing import Final

from chunkq.errors import Malformed
from chunkq.protocol.limits import REPLAY_WINDOW_COUNTERS

REPLAY_WINDOW_SIZE_BYTES: Final = REPLAY_WINDOW_COUNTERS // 8


class ReplayWindow:
    """`top` is the highest counter recorded; a new epoch has `top` 0 and no bit set."""

    __slots__ = ("_bits", "top")

    def __init__(self, bits: bytearray | memoryview, top: int) -> None:
        """Over 8192 bytes that are changed in place. Raises `Malformed` for another size."""
        if len(bits) != REPLAY_WINDOW_SIZE_BYTES:
            raise Malformed(
                f"a replay window has {REPLAY_WINDOW_SIZE_BYTES} bytes, not {len(bits)}"
            )
        if top < 0:
            raise Malformed(f"the highest counter cannot be {top}")
        self._bits = bits
        self.top = top

    def seen(self, counter: int) -> bool:
        """Whether `counter` was recorded, or is too old to tell (or negative, which none is)."""
        if counter > self.top:
            return False
        if counter < 0 or self.top - counter >= REPLAY_WINDOW_COUNTERS:
            return True
        bit = counter % REPLAY_WINDOW_COUNTERS
        return bool(self._bits[bit >> 3] & (1 << (bit & 7)))

    def record(self, counter: int) -> bool:
        """Remember `counter`; False, and nothing changed, if it was seen."""
        if self.seen(counter):
            return False
        if counter > self.top:
            self._forget(self.top + 1, min(counter - self.top, REPLAY_WINDOW_COUNTERS))
            self.top = counter
        bit = counter % REPLAY_WINDOW_COUNTERS
        self._bits[bit >> 3] |= 1 << (bit & 7)
        return True

    def _forget(self, first: int, count: int) -> None:
        """Clear the bits of `count` counters from `first` on: they held ones a window older."""
        start = first % REPLAY_WINDOW_COUNTERS
        here = min(count, REPLAY_WINDOW_COUNTERS - start)
        self._clear_bits(start, here)
        self._clear_bits(0, count - here)

    def _clear_bits(self, start: int, count: int) -> None:
        """Clear a run of bits that does not wrap."""
        if not count:
            return
        low, high = start >> 3, (start + count + 7) >> 3
        kept = int.from_bytes(self._bits[low:high], "little")
        kept &= ~(((1 << count) - 1) << (start & 7))
        self._bits[low:high] = kept.to_bytes(high - low, "little")
