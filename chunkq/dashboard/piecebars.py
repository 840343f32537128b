"""Which pieces of each transfer of a list are there, read again only where more have come."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Final

from chunkq.api.operations import Operations
from chunkq.api.views import TransferRow
from chunkq.dashboard import drawing

#: Rows of some tabs with full pages.
_MAX_KEPT: Final = 2048


class PieceBars:
    """Cells of bars, by what was there when they were drawn."""

    def __init__(self, board: Operations) -> None:
        self._board = board
        self._kept: OrderedDict[str, tuple[int, tuple[str, ...]]] = OrderedDict()

    def of(self, rows: Iterable[TransferRow]) -> Mapping[str, tuple[str, ...]]:
        """Id → cells, of those that have some chunks and not all. Reads files: call in a thread."""
        return {
            row.id: cells
            for row in rows
            if 0 < row.chunks_present < row.chunks_total
            and not (row.tree or row.state.ended)
            and (cells := self._cells(row))
        }

    def _cells(self, row: TransferRow) -> tuple[str, ...]:
        present, cells = self._kept.get(row.id, (-1, ()))
        if present != row.chunks_present:
            pieces = self._board.pieces(row)
            cells = tuple(drawing.coarse(pieces.cells)) if pieces is not None else ()
            self._kept[row.id] = (row.chunks_present, cells)
            self._kept.move_to_end(row.id)
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return cells
