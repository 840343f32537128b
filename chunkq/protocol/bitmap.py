"""Which chunks are present: a small algebra over one bytearray.

Bit `i` is byte `i // 8`, mask `1 << (i % 8)`; bits past the count are always zero. Bits go from
absent to present, but for `clear`, which exists for a chunk that was read back bad.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from chunkq.errors import Malformed

_FULL: Final = 0xFF
#: A byte with an absent bit: found at the speed of C, so that full stretches cost nothing.
_NOT_FULL: Final = re.compile(rb"[^\xff]")
_ABSENT_BITS: Final = tuple(
    tuple(bit for bit in range(8) if not value >> bit & 1) for value in range(256)
)


class Bitmap:
    """A set of chunk indices below `count`, with its size kept as `present`."""

    __slots__ = ("_bits", "count", "present")

    def __init__(self, count: int, data: bytes | None = None) -> None:
        """An empty bitmap, or the one in `data` (ceil(count/8) bytes). Raises `Malformed`."""
        size = (count + 7) // 8
        self.count = count
        self._bits = bytearray(size) if data is None else bytearray(data)
        if len(self._bits) != size:
            raise Malformed(f"a bitmap of {count} chunks has {size} bytes, not {len(self._bits)}")
        if count % 8 and self._bits and self._bits[-1] >> (count % 8):
            raise Malformed(f"bits set past the last chunk ({count})")
        self.present = int.from_bytes(self._bits, "little").bit_count()

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self.count and bool(self._bits[index >> 3] & (1 << (index & 7)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bitmap):
            return NotImplemented
        return self.count == other.count and self._bits == other._bits

    __hash__ = None  # type: ignore[assignment]

    @property
    def complete(self) -> bool:
        return self.present == self.count

    def add(self, index: int) -> bool:
        """Mark `index` present; True if it was absent."""
        self._check(index)
        if index in self:
            return False
        self._bits[index >> 3] |= 1 << (index & 7)
        self.present += 1
        return True

    def clear(self, index: int) -> bool:
        """Mark `index` absent; True if it was present."""
        self._check(index)
        if index not in self:
            return False
        self._bits[index >> 3] &= ~(1 << (index & 7)) & _FULL
        self.present -= 1
        return True

    def fill(self, first: int, count: int) -> None:
        """Mark a run present."""
        if count <= 0:
            return
        self._check(first)
        self._check(first + count - 1)
        low, high = first >> 3, (first + count + 7) >> 3
        before = int.from_bytes(self._bits[low:high], "little")
        after = before | ((1 << count) - 1) << (first & 7)
        self._bits[low:high] = after.to_bytes(high - low, "little")
        self.present += after.bit_count() - before.bit_count()

    def merge(self, other: Bitmap) -> None:
        """Mark present whatever `other` has."""
        if other.count != self.count:
            raise Malformed(f"bitmaps of {self.count} and {other.count} chunks do not merge")
        merged = int.from_bytes(self._bits, "little") | int.from_bytes(other._bits, "little")
        self._bits[:] = merged.to_bytes(len(self._bits), "little")
        self.present = merged.bit_count()

    def missing(self, start: int = 0, stop: int | None = None) -> Iterator[int]:
        """The absent indices from `start` up to `stop`, ascending; full bytes are stepped over."""
        stop = self.count if stop is None else min(stop, self.count)
        position, end = max(0, start) >> 3, (max(0, stop) + 7) >> 3
        while found := _NOT_FULL.search(self._bits, position, end):
            position = found.start()
            for bit in _ABSENT_BITS[self._bits[position]]:
                index = position * 8 + bit
                if start <= index < stop:
                    yield index
            position += 1

    def copy(self) -> Bitmap:
        return Bitmap(self.count, bytes(self._bits))

    def __bytes__(self) -> bytes:
        return bytes(self._bits)

    def _check(self, index: int) -> None:
        if not 0 <= index < self.count:
            raise IndexError(f"chunk {index} of {self.count}")
