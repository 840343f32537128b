"""How files are cut: every edge of a file's size, chunk size, and page."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkq.errors import Malformed
from chunkq.protocol.geometry import Geometry, chunk_size_for, from_ranges, to_ranges
from chunkq.protocol.limits import (
    DEFAULT_CHUNK_SIZE_BYTES,
    GIB,
    KIB,
    LEAVES_PER_PAGE,
    MAX_CHUNK_COUNT,
    MAX_CHUNK_SIZE_BYTES,
    MAX_FILE_SIZE_BYTES,
    MIB,
    MIN_CHUNK_SIZE_BYTES,
)

CHUNK = 4 * KIB


@pytest.mark.parametrize(
    ("size", "lengths"),
    [
        pytest.param(0, [], id="0-bytes"),
        pytest.param(1, [1], id="1-byte"),
        pytest.param(CHUNK - 1, [CHUNK - 1], id="one-chunk-less-a-byte"),
        pytest.param(CHUNK, [CHUNK], id="exactly-1-chunk"),
        pytest.param(CHUNK + 1, [CHUNK, 1], id="1-chunk-and-a-byte"),
        pytest.param(3 * CHUNK, [CHUNK] * 3, id="exactly-N-chunks"),
        pytest.param(3 * CHUNK + 1, [CHUNK] * 3 + [1], id="N-chunks-and-a-byte"),
    ],
)
def test_lengths_of_chunks_at_the_edges(size: int, lengths: list[int]) -> None:
    """Files of 0 bytes, 1 byte, exactly N chunks and N+1 have the chunks one would draw."""
    geometry = Geometry(size, CHUNK)
    assert lengths == [geometry.length(index) for index in range(geometry.chunk_count)]


@given(st.integers(0, 100 * GIB), st.integers(12, 22))
def test_chunks_and_pages_cover_the_file_once(size: int, exponent: int) -> None:
    """Last chunk and last page end where the file ends, for any size and chunk size."""
    chunk = 1 << exponent
    if size > MAX_CHUNK_COUNT * chunk:
        size %= MAX_CHUNK_COUNT * chunk
    geometry = Geometry(size, chunk)
    if not size:
        assert (0, 0) == (geometry.chunk_count, geometry.page_count)
        return
    last = geometry.chunk_count - 1
    assert size == geometry.offset(last) + geometry.length(last)
    assert 1 <= geometry.length(last) <= chunk
    assert geometry.page_count - 1 == geometry.page_of(last)
    assert last == geometry.page_chunks(geometry.page_count - 1)[-1]


@pytest.mark.parametrize("count", [1, LEAVES_PER_PAGE, LEAVES_PER_PAGE + 1, 2 * LEAVES_PER_PAGE])
def test_pages_at_the_edges(count: int) -> None:
    """Pages hold 512 leaves each and the last one the rest, without a gap."""
    geometry = Geometry(count * CHUNK, CHUNK)
    pages = [geometry.page_chunks(page) for page in range(geometry.page_count)]
    assert list(range(count)) == [index for page in pages for index in page]
    assert all(len(page) == LEAVES_PER_PAGE for page in pages[:-1])


@pytest.mark.parametrize(
    ("size", "chunk"),
    [
        pytest.param(-1, CHUNK, id="negative-size"),
        pytest.param(2**63, CHUNK, id="2^63-bytes"),
        pytest.param(2**32 * CHUNK, CHUNK, id="2^32-chunks"),
        pytest.param(MAX_FILE_SIZE_BYTES + 1, MAX_CHUNK_SIZE_BYTES, id="one-byte-too-many"),
        pytest.param(MAX_CHUNK_COUNT * CHUNK + 1, CHUNK, id="one-chunk-too-many"),
        pytest.param(1, 0, id="chunk-size-0"),
        pytest.param(1, -CHUNK, id="negative-chunk-size"),
        pytest.param(1, CHUNK // 2, id="chunk-too-small"),
        pytest.param(1, 2 * MAX_CHUNK_SIZE_BYTES, id="chunk-too-large"),
        pytest.param(1, 3 * CHUNK, id="no-power-of-two"),
    ],
)
def test_impossible_geometry_is_refused(size: int, chunk: int) -> None:
    """A size or chunk size outside the limits is malformed, however large it claims to be."""
    with pytest.raises(Malformed):
        Geometry(size, chunk)


def test_largest_geometry_is_accepted() -> None:
    """The limits themselves are inside."""
    geometry = Geometry(MAX_FILE_SIZE_BYTES, MAX_CHUNK_SIZE_BYTES)
    assert MAX_CHUNK_COUNT == geometry.chunk_count
    assert MAX_CHUNK_SIZE_BYTES == geometry.length(MAX_CHUNK_COUNT - 1)


@pytest.mark.parametrize("index", [-1, 2])
def test_chunk_and_page_outside_the_file(index: int) -> None:
    """Asking for a chunk or page that is not there is an IndexError, never a negative length."""
    geometry = Geometry(2 * LEAVES_PER_PAGE * CHUNK, CHUNK)
    with pytest.raises(IndexError):
        geometry.page_chunks(index)
    with pytest.raises(IndexError):
        geometry.length(index * LEAVES_PER_PAGE)


@pytest.mark.parametrize(
    ("expected", "size", "preferred", "largest"),
    [
        (DEFAULT_CHUNK_SIZE_BYTES, 0, DEFAULT_CHUNK_SIZE_BYTES, MAX_CHUNK_SIZE_BYTES),
        (64 * KIB, 100 * MIB, DEFAULT_CHUNK_SIZE_BYTES, 100_000),
        (2 * MIB, 8 * 1024 * GIB, DEFAULT_CHUNK_SIZE_BYTES, MAX_CHUNK_SIZE_BYTES),
        (None, 8 * 1024 * GIB, DEFAULT_CHUNK_SIZE_BYTES, 1 * MIB),
        (None, 1, DEFAULT_CHUNK_SIZE_BYTES, MIN_CHUNK_SIZE_BYTES - 1),
        (MAX_CHUNK_SIZE_BYTES, 1, 16 * MIB, 16 * MIB),
        (MIN_CHUNK_SIZE_BYTES, 1, 1, MAX_CHUNK_SIZE_BYTES),
        (None, MAX_FILE_SIZE_BYTES + 1, DEFAULT_CHUNK_SIZE_BYTES, MAX_CHUNK_SIZE_BYTES),
    ],
)
def test_chunk_size_for_a_file_and_link(
    expected: int | None, size: int, preferred: int, largest: int
) -> None:
    """The preferred size, doubled for large files, and never more than the link carries."""
    assert expected == chunk_size_for(size, preferred, largest)


@given(st.integers(0, MAX_FILE_SIZE_BYTES), st.integers(1, 2**24), st.integers(0, 2**24))
def test_chunk_size_chosen_is_always_a_valid_geometry(
    size: int, preferred: int, largest: int
) -> None:
    """Whatever is chosen can be made into a geometry, and fits the link."""
    chunk = chunk_size_for(size, preferred, largest)
    if chunk is not None:
        assert largest >= Geometry(size, chunk).chunk_size_bytes


@given(st.sets(st.integers(0, 300)))
def test_ranges_and_back(indices: set[int]) -> None:
    """Runs name the same indices, and no two of them touch."""
    runs = to_ranges(sorted(indices))
    assert sorted(indices) == list(from_ranges(runs))
    ends = [first + count for first, count in runs]
    assert all(end < first for end, (first, _) in zip(ends, runs[1:], strict=False))
