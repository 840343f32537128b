"""What was: transfers that ended, and who did what. Read only; see `recorder` for who writes.

Each call opens the file, reads a page and closes it, so that the writer never waits for long.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from chunkq.storage.historydb import NAME, database_errors, open_to_read
from chunkq.storage.journal import Event, Journal

_T = TypeVar("_T")

#: What the list may be ordered by, and the column of each.
_ORDERS: Final = {
    "ended": "ended_ms",
    "created": "created_ms",
    "name": "destination",
    "peer": "peer",
    "size": "size_bytes",
    "retries": "retries",
    "state": "state",
}
Order = Literal["ended", "created", "name", "peer", "size", "retries", "state"]
#: A timeline longer than this is cut at its beginning: it is for a person to read.
MAX_MOMENTS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """A transfer as it last ended. The words are those of `Job` and of `condition`."""

    id: str
    state: str
    reason: str
    detail: str
    sources: tuple[str, ...]
    peer: str
    destination: str
    priority: str
    by: str
    digest: str
    retries: int
    size_bytes: int
    new_bytes: int
    created_ms: int
    started_ms: int
    ended_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which of them; what is empty leaves all. `text` is looked for letter case aside."""

    states: Sequence[str] = ()
    reasons: Sequence[str] = ()
    ids: Sequence[str] = ()
    peer: str = ""
    text: str = ""

    @property
    def clause(self) -> tuple[str, list[object]]:
        """For SQL, with what its marks stand for."""
        terms: list[str] = []
        values: list[object] = []
        for term, words in (
            ("state IN (SELECT value FROM json_each(?))", self.states),
            ("reason IN (SELECT value FROM json_each(?))", self.reasons),
            ("id IN (SELECT value FROM json_each(?))", self.ids),
        ):
            if words:
                terms.append(term)
                values.append(json.dumps(list(words)))
        if self.peer:
            terms.append("peer = ?")
            values.append(self.peer)
        if self.text:
            terms.append("instr(folded, ?)")
            values.append(self.text.casefold())
        return (f"WHERE {' AND '.join(terms)}" if terms else ""), values


class History:
    """The history in a state directory. Raises `StorageError`; blocks."""

    def __init__(self, state_dir: str | os.PathLike[str]) -> None:
        self.path = os.path.join(os.path.abspath(state_dir), NAME)
        self._journal = Journal(state_dir)

    def count(self, wanted: Wanted) -> int:
        """How many transfers."""
        where, values = wanted.clause
        query = f"SELECT count(*) FROM transfers {where}"  # noqa: S608
        return self._read(lambda base: int(base.execute(query, values).fetchone()[0]), 0)

    def transfers(
        self,
        wanted: Wanted,
        *,
        order: Order = "ended",
        descending: bool = True,
        first: int = 0,
        rows: int = 50,
    ) -> list[Ended]:
        """Some of them, from the `first`th on (from 0)."""
        where, values = wanted.clause
        way = "DESC" if descending else "ASC"
        query = (
            f"SELECT * FROM transfers {where}"  # noqa: S608
            f" ORDER BY {_ORDERS[order]} {way}, ended_ms DESC, id LIMIT ? OFFSET ?"
        )
        nothing: list[Ended] = []
        return self._read(
            lambda base: [_ended(row) for row in base.execute(query, (*values, rows, first))],
            nothing,
        )

    def find(self, transfer: str) -> Ended | None:
        """One of them."""
        found = self.transfers(Wanted(ids=(transfer,)), rows=1)
        return found[0] if found else None

    def count_audit(self) -> int:
        """How many lines the audit has."""
        query = "SELECT count(*) FROM moments WHERE audit"
        return self._read(lambda base: int(base.execute(query).fetchone()[0]), 0)

    def audit(self, *, first: int = 0, rows: int = 50) -> list[Event]:
        """Who did what, the latest first."""
        query = "SELECT * FROM moments WHERE audit ORDER BY number DESC LIMIT ? OFFSET ?"
        nothing: list[Event] = []
        return self._read(
            lambda base: [_event(row) for row in base.execute(query, (rows, first))], nothing
        )

    def timeline(self, transfer: str) -> list[Event]:
        """What happened to one transfer, oldest first, what nobody has recorded yet included."""

        def read(base: sqlite3.Connection) -> tuple[list[Event], str]:
            base.execute("BEGIN")
            cursor = base.execute("SELECT value FROM kept WHERE name = 'cursor'").fetchone()
            query = "SELECT * FROM moments WHERE transfer = ? ORDER BY number DESC LIMIT ?"
            rows = base.execute(query, (transfer, MAX_MOMENTS)).fetchall()
            return [_event(row) for row in reversed(rows)], str(cursor[0]) if cursor else ""

        nothing: list[Event] = []
        found, cursor = self._read(read, (nothing, ""))
        found += [each for each in self._unrecorded(cursor) if each.transfer == transfer]
        return found[-MAX_MOMENTS:]

    def _unrecorded(self, cursor: str) -> Iterator[Event]:
        while True:
            events, cursor = self._journal.read(cursor)
            if not events:
                return
            yield from events

    def _read(self, work: Callable[[sqlite3.Connection], _T], nothing: _T) -> _T:
        with self._opened() as base:
            return nothing if base is None else work(base)

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection | None]:
        base = open_to_read(self.path)
        try:
            with database_errors(self.path):
                yield base
        finally:
            if base is not None:
                base.close()


def _ended(row: sqlite3.Row) -> Ended:
    return Ended(
        id=row["id"],
        state=row["state"],
        reason=row["reason"],
        detail=row["detail"],
        sources=tuple(json.loads(row["sources"])),
        peer=row["peer"],
        destination=row["destination"],
        priority=row["priority"],
        by=row["by_whom"],
        digest=row["digest"],
        retries=row["retries"],
        size_bytes=row["size_bytes"],
        new_bytes=row["new_bytes"],
        created_ms=row["created_ms"],
        started_ms=row["started_ms"],
        ended_ms=row["ended_ms"],
    )


def _event(row: sqlite3.Row) -> Event:
    return Event(
        at_ms=row["at_ms"],
        what=row["what"],
        transfer=row["transfer"],
        by=row["by_whom"],
        reason=row["reason"],
        detail=row["detail"],
        subject=row["subject"],
    )
