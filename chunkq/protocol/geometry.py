"""How a file of a given size is cut into chunks, and chunks into pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from chunkq.errors import Malformed
from chunkq.protocol.limits import (
    LEAVES_PER_PAGE,
    MAX_CHUNK_COUNT,
    MAX_CHUNK_SIZE_BYTES,
    MAX_FILE_SIZE_BYTES,
    MIN_CHUNK_SIZE_BYTES,
)


@dataclass(frozen=True, slots=True)
class Geometry:
    """A file's size and chunk size in bytes; everything else follows. Raises `Malformed`."""

    size_bytes: int
    chunk_size_bytes: int

    def __post_init__(self) -> None:
        size, chunk = self.size_bytes, self.chunk_size_bytes
        if not 0 <= size <= MAX_FILE_SIZE_BYTES:
            raise Malformed(f"file size {size} is outside 0..{MAX_FILE_SIZE_BYTES}")
        if not MIN_CHUNK_SIZE_BYTES <= chunk <= MAX_CHUNK_SIZE_BYTES or chunk & (chunk - 1):
            raise Malformed(f"chunk size {chunk} is not a power of two from 4 KiB to 4 MiB")
        if self.chunk_count > MAX_CHUNK_COUNT:
            raise Malformed(f"{self.chunk_count} chunks are more than {MAX_CHUNK_COUNT}")

    @property
    def chunk_count(self) -> int:
        return -(-self.size_bytes // self.chunk_size_bytes)

    @property
    def page_count(self) -> int:
        return -(-self.chunk_count // LEAVES_PER_PAGE)

    def offset(self, index: int) -> int:
        """Where chunk `index` begins, in bytes."""
        return index * self.chunk_size_bytes

    def length(self, index: int) -> int:
        """Bytes in chunk `index`; only the last may have fewer. Raises `IndexError`."""
        if not 0 <= index < self.chunk_count:
            raise IndexError(f"chunk {index} of {self.chunk_count}")
        return min(self.chunk_size_bytes, self.size_bytes - index * self.chunk_size_bytes)

    def page_of(self, index: int) -> int:
        """The page that holds the leaf of chunk `index`."""
        return index // LEAVES_PER_PAGE

    def page_chunks(self, page: int) -> range:
        """The chunks whose leaves are in `page`. Raises `IndexError`."""
        if not 0 <= page < self.page_count:
            raise IndexError(f"page {page} of {self.page_count}")
        first = page * LEAVES_PER_PAGE
        return range(first, min(first + LEAVES_PER_PAGE, self.chunk_count))


def chunk_size_for(size_bytes: int, preferred_bytes: int, largest_bytes: int) -> int | None:
    """The chunk size for a file: the preferred one, doubled until the file has few enough chunks.

    Always a power of two, rounded down. Returns None when that would exceed what the requester's
    link carries, or the link carries less than the smallest chunk.
    """
    largest = min(largest_bytes, MAX_CHUNK_SIZE_BYTES)
    if largest < MIN_CHUNK_SIZE_BYTES:
        return None
    wanted = max(MIN_CHUNK_SIZE_BYTES, min(preferred_bytes, largest))
    chunk = 1 << (wanted.bit_length() - 1)
    while -(-size_bytes // chunk) > MAX_CHUNK_COUNT:
        chunk *= 2
    return chunk if chunk <= largest else None


def to_ranges(indices: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending indices as `(first, count)` runs."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][0] + runs[-1][1] == index:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return runs


def from_ranges(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    """The indices of `(first, count)` runs, in the order given."""
    for first, count in ranges:
        yield from range(first, first + count)
