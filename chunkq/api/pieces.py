"""The map of a file's chunks: a bitmap cut into some hundred equal cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from chunkq.api.views import Pieces
from chunkq.protocol.bitmap import Bitmap

#: So many fit side by side on a phone, at a few pixels each, in four lines.
MAX_CELLS: Final = 400


def pieces_of(
    bitmap: Bitmap,
    in_flight: Iterable[tuple[int, int]] = (),
    failed: Iterable[tuple[int, int]] = (),
) -> Pieces:
    """`in_flight`: `(first, count)` runs that were asked for. `failed`: of those that came bad.

    Costs a few passes over the bitmap's bytes, whatever its size.
    """
    total = bitmap.count
    present = int.from_bytes(bytes(bitmap), "little")
    whole = (1 << total) - 1
    missing = whole & ~present
    flying = _runs(in_flight, total) & missing
    bad = _runs(failed, total) & missing
    # A gap begins where a chunk is missing and the one before it is not.
    gaps = (missing & ~(missing << 1)).bit_count()
    contiguous = (missing & -missing).bit_length() - 1 if missing else total
    cells = []
    for start, stop in _cells(total):
        mask = (1 << (stop - start)) - 1
        have, on_way, wrong = (bits >> start & mask for bits in (present, flying, bad))
        cells.append(_word(have, on_way, wrong, mask))
    return Pieces(
        total=total,
        present=bitmap.present,
        contiguous=contiguous,
        gaps=gaps,
        in_flight=flying.bit_count(),
        failed=bad.bit_count(),
        cells=tuple(cells),
    )


def _cells(total: int) -> Iterable[tuple[int, int]]:
    count = min(total, MAX_CELLS)
    for cell in range(count):
        yield total * cell // count, total * (cell + 1) // count


def _word(present: int, flying: int, bad: int, mask: int) -> str:
    if present == mask:
        return "have"
    if bad:
        return "failed"
    if flying:
        return "in_flight"
    return "part" if present else "missing"


def _runs(runs: Iterable[tuple[int, int]], total: int) -> int:
    found = 0
    for first, count in runs:
        if first < total:
            found |= ((1 << min(count, total - first)) - 1) << first
    return found
