"""The bitmap against a plain set of numbers."""

from __future__ import annotations

import time
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from chunkq.errors import Malformed
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.limits import MAX_CHUNK_COUNT

COUNT = 61
INDICES = st.integers(0, COUNT - 1)


class BitmapAgainstSet(RuleBasedStateMachine):
    """Any sequence of operations leaves the bitmap and a set with the same members."""

    def __init__(self) -> None:
        super().__init__()
        self.bitmap = Bitmap(COUNT)
        self.model: set[int] = set()

    @rule(index=INDICES)
    def add(self, index: int) -> None:
        assert (index not in self.model) == self.bitmap.add(index)
        self.model.add(index)

    @rule(index=INDICES)
    def clear(self, index: int) -> None:
        assert (index in self.model) == self.bitmap.clear(index)
        self.model.discard(index)

    @rule(first=INDICES, count=st.integers(0, COUNT))
    def fill(self, first: int, count: int) -> None:
        count = min(count, COUNT - first)
        self.bitmap.fill(first, count)
        self.model |= set(range(first, first + count))

    @rule(others=st.sets(INDICES))
    def merge(self, others: set[int]) -> None:
        other = Bitmap(COUNT)
        for index in others:
            other.add(index)
        self.bitmap.merge(other)
        self.model |= others

    @rule(start=st.integers(-3, COUNT + 3), stop=st.none() | st.integers(-3, COUNT + 20))
    def missing(self, start: int, stop: int | None) -> None:
        wanted = range(max(0, start), COUNT if stop is None else min(stop, COUNT))
        assert [i for i in wanted if i not in self.model] == list(self.bitmap.missing(start, stop))

    @precondition(lambda self: len(self.model) == COUNT)
    @rule()
    def complete(self) -> None:
        assert self.bitmap.complete

    @invariant()
    def same_members(self) -> None:
        assert self.model == {i for i in range(-9, COUNT + 9) if i in self.bitmap}
        assert len(self.model) == self.bitmap.present
        assert (len(self.model) == COUNT) == self.bitmap.complete
        again = Bitmap(COUNT, bytes(self.bitmap))
        assert again == self.bitmap
        assert again.present == self.bitmap.present


TestBitmapAgainstSet = BitmapAgainstSet.TestCase


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9])
def test_full_bitmap_at_byte_edges(count: int) -> None:
    """A filled bitmap is complete, misses nothing, and keeps the bits past its end zero."""
    bitmap = Bitmap(count)
    bitmap.fill(0, count)
    assert bitmap.complete
    assert [] == list(bitmap.missing())
    assert ((1 << count) - 1).to_bytes((count + 7) // 8, "little") == bytes(bitmap)


@pytest.mark.parametrize(
    ("count", "data"),
    [(8, b""), (8, b"\0\0"), (9, b"\xff"), (7, b"\x80"), (9, b"\xff\x02"), (0, b"\0")],
)
def test_bytes_of_another_bitmap_are_refused(count: int, data: bytes) -> None:
    """A wrong size, or a bit past the last chunk, is malformed."""
    with pytest.raises(Malformed):
        Bitmap(count, data)


@pytest.mark.parametrize(("first", "count"), [(-1, 2), (5, 4), (8, 1)])
def test_fill_past_the_end_changes_nothing(first: int, count: int) -> None:
    """A run that is not wholly inside is refused before any bit is set."""
    bitmap = Bitmap(8)
    with pytest.raises(IndexError):
        bitmap.fill(first, count)
    assert Bitmap(8) == bitmap


@pytest.mark.parametrize("index", [-1, 8])
def test_index_outside_is_an_error_and_no_member(index: int) -> None:
    """An index outside the file is never present, and cannot be added or cleared."""
    bitmap = Bitmap(8, b"\xff")
    assert index not in bitmap
    with pytest.raises(IndexError):
        bitmap.add(index)
    with pytest.raises(IndexError):
        bitmap.clear(index)


def test_merge_of_other_count_is_refused() -> None:
    """Bitmaps of two files do not merge."""
    with pytest.raises(Malformed):
        Bitmap(8).merge(Bitmap(9))


def test_copy_is_apart() -> None:
    """Changing a copy leaves the first alone."""
    bitmap = Bitmap(8)
    bitmap.copy().add(3)
    assert 3 not in bitmap


@given(st.sets(st.integers(0, MAX_CHUNK_COUNT - 1), max_size=20))
def test_missing_of_the_largest_bitmap(absent: set[int]) -> None:
    """The few absent chunks of an almost complete largest file are found, all and in order."""
    bitmap = Bitmap(MAX_CHUNK_COUNT, b"\xff" * (MAX_CHUNK_COUNT // 8))
    for index in absent:
        bitmap.clear(index)
    assert sorted(absent) == list(bitmap.missing())


def test_missing_of_the_largest_bitmap_is_fast() -> None:
    """Finding the last of 2^22 chunks takes milliseconds: far under one step for each byte."""
    bitmap = Bitmap(MAX_CHUNK_COUNT, b"\xff" * (MAX_CHUNK_COUNT // 8))
    bitmap.clear(MAX_CHUNK_COUNT - 1)
    best = min(_seconds_to_find_first(bitmap) for _ in range(5))
    assert best < 0.02
    assert [MAX_CHUNK_COUNT - 1] == list(islice(bitmap.missing(), 2))


def _seconds_to_find_first(bitmap: Bitmap) -> float:
    start = time.process_time()
    next(bitmap.missing())
    return time.process_time() - start
