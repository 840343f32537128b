"""Transfers that ended and who did what, as an operator sees them."""

from __future__ import annotations

from typing import Final

from chunkq.api.rows import name_of
from chunkq.api.views import MAX_PAGE_ROWS, Page, Query, SortKey, TransferRow
from chunkq.protocol.condition import Reason, State
from chunkq.storage.history import Ended, History, Order, Wanted
from chunkq.storage.journal import Event

#: What the list of running transfers may be ordered by and history knows, and whether the usual
#: direction is downwards. All else is by the end, the latest first.
_ORDERS: Final[dict[SortKey, tuple[Order, bool]]] = {
    "name": ("name", False),
    "peer": ("peer", False),
    "size": ("size", False),
    "age": ("created", True),
    "retries": ("retries", False),
}


class Past:
    """Reads history. Blocks; raises `StorageError`."""

    def __init__(self, history: History) -> None:
        self._history = history

    def transfers(self, query: Query) -> Page[TransferRow]:
        """A page; sorted by anything it does not know, the latest end comes first."""
        wanted = _wanted(query)
        size = min(max(1, query.rows), MAX_PAGE_ROWS)
        total = self._history.count(wanted)
        pages = max(1, -(-total // size))
        page = min(max(1, query.page), pages)
        order, downwards = _ORDERS.get(query.sort, ("ended", True))
        found = self._history.transfers(
            wanted,
            order=order,
            descending=downwards != query.descending,
            first=(page - 1) * size,
            rows=size,
        )
        return Page([row_of(each) for each in found], total, page, pages)

    def find(self, transfer: str) -> tuple[TransferRow, str] | None:
        """One of them and the digest of its content."""
        found = self._history.find(transfer)
        return None if found is None else (row_of(found), found.digest)

    def audit(self, page: int, rows: int) -> Page[Event]:
        """Who did what, the latest first."""
        size = min(max(1, rows), MAX_PAGE_ROWS)
        total = self._history.count_audit()
        pages = max(1, -(-total // size))
        page = min(max(1, page), pages)
        found = self._history.audit(first=(page - 1) * size, rows=size)
        return Page(found, total, page, pages)

    def timeline(self, transfer: str) -> tuple[Event, ...]:
        """What happened to one transfer, oldest first."""
        return tuple(self._history.timeline(transfer))


def _wanted(query: Query) -> Wanted:
    given = query.filter
    return Wanted(
        states=sorted(map(str, given.states)),
        reasons=sorted(map(str, given.reasons)),
        ids=sorted(given.ids),
        peer=given.peer,
        text=given.text,
    )


def row_of(ended: Ended) -> TransferRow:
    """As the list has them; words of a later version are not lost on the way."""
    source = ended.sources[0] if ended.sources else ""
    done = ended.state == State.DONE
    tree = source.endswith("/")
    return TransferRow(
        id=ended.id,
        state=State(ended.state) if ended.state in set(State) else State.FAILED,
        reason=Reason(ended.reason) if ended.reason in set(Reason) else None,
        detail=ended.detail,
        sources=ended.sources,
        peer=ended.peer,
        name=name_of(source),
        destination=ended.destination,
        tree=tree,
        size_bytes=ended.size_bytes if done or ended.size_bytes else None,
        done_bytes=ended.size_bytes if done else 0,
        files_total=0 if tree else 1,
        files_done=int(done and not tree),
        created_ms=ended.created_ms,
        progress_ms=ended.ended_ms,
        ended_ms=ended.ended_ms,
        retries=ended.retries,
        priority=ended.priority,
    )
