"""The map of chunks and its words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chunkq.api.pieces import MAX_CELLS, pieces_of
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.limits import MAX_CHUNK_COUNT


def bitmap(count: int, *present: int) -> Bitmap:
    found = Bitmap(count)
    for index in present:
        found.add(index)
    return found


def test_the_words_of_the_map() -> None:
    """Present, contiguous, gaps, in flight."""
    found = pieces_of(bitmap(10, 0, 1, 2, 5, 9), [(3, 1), (6, 2)])

    assert "5 of 10, contiguous to 3, 2 gaps, 3 in flight" == found.text
    assert (
        ("have",) * 3
        + ("in_flight", "missing", "have", "in_flight", "in_flight", "missing", "have")
    ) == found.cells


def test_what_came_bad_is_told_first() -> None:
    """It is asked for again, and still is what somebody should look at; what came well is not."""
    found = pieces_of(bitmap(6, 0, 4), [(2, 2)], [(3, 2), (99, 1)])

    assert "2 of 6, contiguous to 1, 2 gaps, 2 in flight, 1 failed" == found.text
    assert ("have", "missing", "in_flight", "failed", "have", "missing") == found.cells


def test_nothing_and_everything() -> None:
    """No gap in what is whole; all is one in what has not begun."""
    whole = bitmap(3, 0, 1, 2)

    assert "3 of 3, contiguous to 3, no gaps" == pieces_of(whole).text
    assert "0 of 3, contiguous to 0, 1 gap" == pieces_of(bitmap(3)).text
    assert () == pieces_of(Bitmap(0)).cells


def test_many_chunks_share_a_cell() -> None:
    """At most so many cells, each saying what its chunks are."""
    found = pieces_of(bitmap(4 * MAX_CELLS, 0, 1, 2, 3, 4))

    assert MAX_CELLS == len(found.cells)
    assert ("have", "part", "missing") == found.cells[:3]


def test_what_came_meanwhile_is_not_in_flight() -> None:
    """The report is older than the bitmap, and may name runs that cannot be."""
    found = pieces_of(bitmap(4, 0, 1), [(0, 3), (3, 999), (999, 5)])

    assert 2 == found.in_flight
    assert ("have", "have", "in_flight", "in_flight") == found.cells


def test_the_largest_file_there_is() -> None:
    """Four million chunks are some hundred cells as well."""
    largest = Bitmap(MAX_CHUNK_COUNT)
    largest.fill(7, MAX_CHUNK_COUNT - 7)

    assert f"{MAX_CHUNK_COUNT - 7} of {MAX_CHUNK_COUNT}, contiguous to 0, 1 gap" == (
        pieces_of(largest).text
    )


@given(st.sets(st.integers(0, 1000)), st.integers(1, 1001))
def test_the_figures_are_those_of_the_bitmap(present: set[int], count: int) -> None:
    """Counted here one by one."""
    inside = sorted(index for index in present if index < count)
    found = pieces_of(bitmap(count, *inside))
    have = [index in present for index in range(count)]
    gaps = sum(not have[i] and (i == 0 or have[i - 1]) for i in range(count))
    contiguous = next((i for i in range(count) if not have[i]), count)

    assert (len(inside), contiguous, gaps) == (found.present, found.contiguous, found.gaps)
    assert min(count, MAX_CELLS) == len(found.cells)
