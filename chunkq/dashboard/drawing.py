"""Bars, maps and lines as SVG paths: shapes that differ, so that nothing is told by colour alone.

Only the `d` of a path changes while a page is open; colours and sizes are the style sheet's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Final

#: The words that `Pieces.cells` has.
KINDS: Final = ("have", "part", "in_flight", "missing", "failed")
#: Width of a bar's drawing, height of it: the style sheet stretches it.
BAR_WIDTH: Final = 200
BAR_HEIGHT: Final = 10
#: Cells of a bar: a few pixels each in a row of the list.
BAR_CELLS: Final = 50
#: Cells in a row of the map, and the size of one with the gap around it.
MAP_COLUMNS: Final = 50
MAP_CELL: Final = 10
_MAP_GAP: Final = 1.5
LINE_WIDTH: Final = 600
LINE_HEIGHT: Final = 80


def bar(percent: int) -> str:
    """One block from the left."""
    return f"M0 0h{percent * BAR_WIDTH // 100}v{BAR_HEIGHT}H0z" if percent else ""


def piece_bar(cells: Sequence[str]) -> dict[str, str]:
    """A path for each kind of cell, all in one line; `part` and `in_flight` stand lower."""
    paths = dict.fromkeys(KINDS, "")
    at = 0
    for kind, run in groupby(cells):
        count = sum(1 for _ in run)
        left, right = (round(each * BAR_WIDTH / len(cells), 1) for each in (at, at + count))
        top = {"part": BAR_HEIGHT // 2, "in_flight": 2 * BAR_HEIGHT // 3}.get(kind, 0)
        if kind != "missing":
            paths[kind] += f"M{left} {top}H{right}V{BAR_HEIGHT}H{left}z"
        at += count
    return paths


def coarse(cells: Sequence[str], most: int = BAR_CELLS) -> list[str]:
    """The same in fewer cells: whole only if all in it is, in flight if anything is."""
    size = max(1, -(-len(cells) // most))
    return [_together(cells[at : at + size]) for at in range(0, len(cells), size)]


def _together(cells: Sequence[str]) -> str:
    kinds = set(cells)
    if len(kinds) == 1:
        return cells[0]
    return next((kind for kind in ("failed", "in_flight") if kind in kinds), "part")


def map_rows(cells: Sequence[str]) -> int:
    """The height of the map, in cells."""
    return max(1, -(-len(cells) // MAP_COLUMNS))


def piece_map(cells: Sequence[str]) -> dict[str, str]:
    """A path for each kind: a full square, a half one, a dot, an empty frame, a cross."""
    paths: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for index, kind in enumerate(cells):
        row, column = divmod(index, MAP_COLUMNS)
        paths[kind].append(_cell(kind, column * MAP_CELL, row * MAP_CELL))
    return {kind: "".join(parts) for kind, parts in paths.items()}


def piece(kind: str) -> str:
    """One cell alone, for the legend."""
    return _cell(kind, 0, 0)


def _cell(kind: str, left: int, top: int) -> str:
    side = MAP_CELL - 2 * _MAP_GAP
    x, y = left + _MAP_GAP, top + _MAP_GAP
    if kind == "have":
        return f"M{x} {y}h{side}v{side}h-{side}z"
    if kind == "part":
        return f"M{x} {y + side / 2}h{side}v{side / 2}h-{side}z"
    if kind == "in_flight":
        half = side / 2
        return f"M{x + half} {y}l{half} {half}l-{half} {half}l-{half} -{half}z"
    if kind == "failed":
        return f"M{x} {y}l{side} {side}M{x + side} {y}l-{side} {side}"
    return f"M{x + 0.5} {y + 0.5}h{side - 1}v{side - 1}h-{side - 1}z"


def line(points: Sequence[tuple[int, int]]) -> tuple[str, str]:
    """`(time, value)` points as a line and as the area under it; both empty for fewer than two."""
    if len(points) < 2:
        return "", ""
    first, last = points[0][0], points[-1][0]
    highest = max(1, *(value for _, value in points))
    span = max(1, last - first)
    places = [
        (
            round((at - first) * LINE_WIDTH / span, 1),
            round(LINE_HEIGHT - value * (LINE_HEIGHT - 2) / highest, 1),
        )
        for at, value in points
    ]
    drawn = "M" + _joined(places)
    return drawn, f"{drawn}L{LINE_WIDTH} {LINE_HEIGHT}L0 {LINE_HEIGHT}z"


def _joined(places: Iterable[tuple[float, float]]) -> str:
    return "L".join(f"{x} {y}" for x, y in places)
