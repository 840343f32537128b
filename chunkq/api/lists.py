"""Pages of a list: what a filter leaves, in an order that does not waver."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from chunkq.api.views import MAX_PAGE_ROWS, Filter, Page, Query, SortKey, TransferRow
from chunkq.protocol.condition import State
from chunkq.protocol.priority import Priority

_Row = TypeVar("_Row")

#: What a person has to see to stands first, then what moves, then what waits its turn or was so
#: wished, then what is over. Something queued that cannot begin comes before what moves.
ORDER: Final = (
    State.STALLED,
    State.FAILED,
    State.RECOVERING,
    State.OPENING,
    State.RUNNING,
    State.VERIFYING,
    State.PUBLISHING,
    State.PAUSED,
    State.QUEUED,
    State.DONE,
    State.CANCELLED,
)
_RANK: Final = {state: 2 * rank for rank, state in enumerate(ORDER)}
_HELD_UP: Final = _RANK[State.FAILED] + 1


def choose(rows: Iterable[TransferRow], query: Query) -> Page[TransferRow]:
    """The page that is asked for; beyond the last one, the last."""
    found = matching(rows, query.filter)
    # Both sorts are stable: what is equal by the key keeps the order of `created_ms` and `id`.
    found.sort(key=_newest_first)
    found.sort(key=_KEYS[query.sort], reverse=query.descending)
    return page_of(found, query.page, query.rows)


def matching(rows: Iterable[TransferRow], wanted: Filter) -> list[TransferRow]:
    """The rows for which all that is given holds."""
    if wanted == Filter():
        return list(rows)
    text = wanted.text.casefold()
    return [
        row
        for row in rows
        if (not wanted.ids or row.id in wanted.ids)
        and (not wanted.states or row.state in wanted.states)
        and (not wanted.reasons or row.reason in wanted.reasons)
        and (not wanted.peer or row.peer == wanted.peer)
        and (not text or _has_text(row, text))
    ]


def page_of(rows: Sequence[_Row], page: int, size: int) -> Page[_Row]:
    """Pages count from 1, and there is always one."""
    size = min(max(1, size), MAX_PAGE_ROWS)
    pages = max(1, -(-len(rows) // size))
    page = min(max(1, page), pages)
    return Page(rows[(page - 1) * size : page * size], len(rows), page, pages)


def _has_text(row: TransferRow, text: str) -> bool:
    return text in row.destination.casefold() or any(
        text in source.casefold() for source in row.sources
    )


def _newest_first(row: TransferRow) -> tuple[int, str]:
    return (-row.created_ms, row.id)


def _by_state(row: TransferRow) -> tuple[int, int]:
    """Jobs that wait stand in the order in which they are taken."""
    if row.state is State.QUEUED:
        return (_HELD_UP if row.reason else _RANK[row.state]), row.created_ms
    return _RANK[row.state], 0


def _by_size(row: TransferRow) -> int:
    return -1 if row.size_bytes is None else row.size_bytes


def _by_eta(row: TransferRow) -> float:
    return float("inf") if row.eta_s is None else row.eta_s


def _by_priority(row: TransferRow) -> int:
    try:
        return -Priority.of(row.priority)  # type: ignore[arg-type]
    except (KeyError, ValueError):
        return 0


_KEYS: Final[dict[SortKey, Callable[[TransferRow], Any]]] = {
    "state": _by_state,
    "name": lambda row: (row.name.casefold(), row.name),
    "peer": lambda row: row.peer,
    "size": _by_size,
    "done": lambda row: row.percent,
    "rate": lambda row: row.rate_bytes_per_s,
    "eta": _by_eta,
    "age": lambda row: -row.created_ms,
    "progress": lambda row: row.progress_ms,
    "retries": lambda row: row.retries,
    "priority": _by_priority,
}
