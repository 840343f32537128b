"""What an operator does to transfers, by filter; all of it is journaled with who did it.

A transfer that a process has in hand gets a wish, and that process writes the line when it has done
as it was told; for other jobs the store does, and here what is about staging alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Literal

from chunkq.api.lists import matching
from chunkq.api.rows import STAGED
from chunkq.api.views import Filter, Outcome, TransferRow
from chunkq.errors import ChunkqError, StorageError, UsageError
from chunkq.protocol.condition import State
from chunkq.protocol.priority import priority_word
from chunkq.storage.jobs import JobStore
from chunkq.storage.journal import Event, Journal
from chunkq.storage.wallclock import wall_ms as wall_clock_ms

Action = Literal["pause", "resume", "retry", "cancel", "priority"]

_OPEN: Final = frozenset(state for state in State if not state.ended)
#: Which of those that a filter finds are meant; who names one is told why it cannot be.
_MEANT: Final[dict[Action, frozenset[State]]] = {
    "pause": _OPEN - {State.PAUSED},
    "resume": frozenset({State.PAUSED}),
    "retry": frozenset({State.FAILED, State.CANCELLED}),
    "cancel": _OPEN,
    "priority": _OPEN,
}

#: Tells a process of another host, which does there what would be done here. It raises
#: `ChunkqError` if it cannot be told.
Send = Callable[[TransferRow, Action, str, bool, str], None]
#: Removes what is in staging under an id and no job's.
Drop = Callable[[str], None]


class Actions:
    """The hands of an operator. Blocks; nothing is raised for single transfers that refuse."""

    def __init__(
        self,
        store: JobStore,
        journal: Journal,
        *,
        drop: Drop,
        send: Send | None = None,
        wall_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._store = store
        self._journal = journal
        self._drop = drop
        self._send = send
        self._wall_ms = wall_ms

    def act(
        self,
        rows: Iterable[TransferRow],
        wanted: Filter,
        action: Action,
        by: str,
        *,
        word: str = "",
        drop: bool = False,
    ) -> Outcome:
        """Do it to all that the filter finds. `word`: the priority. Raises `UsageError`."""
        if action == "priority" and priority_word(word) != word:
            raise UsageError(f"{word[:80]!a} is no priority", hint="urgent, normal or bulk")
        done = 0
        refused: list[tuple[str, str]] = []
        found = matching(rows, wanted)
        unknown = wanted.ids - {row.id for row in found}
        for row in found:
            if not wanted.ids and row.state not in _MEANT[action]:
                continue
            try:
                self._one(row, action, by, word, drop=drop)
            except ChunkqError as error:
                hint = f" ({error.hint})" if error.hint else ""
                refused.append((row.id, f"{error.message}{hint}"))
            else:
                done += 1
        # A job may have come since the last look.
        for job_id in sorted(unknown):
            try:
                self._job(job_id, action, by, word, drop=drop)
            except ChunkqError as error:
                refused.append((job_id, error.message))
            else:
                done += 1
        return Outcome(done, tuple(refused))

    def _one(self, row: TransferRow, action: Action, by: str, word: str, *, drop: bool) -> None:
        if self._store.find(row.id) is not None:
            self._job(row.id, action, by, word, drop=drop)
        elif row.host and not row.id.startswith(STAGED):
            if self._send is None:
                raise StorageError(
                    f"transfer {row.id} is on {row.host}", hint="do it there, or on the page"
                )
            self._send(row, action, word, drop, by)
        elif action == "cancel" and drop and row.id.startswith(STAGED):
            self._drop(row.id.removeprefix(STAGED))
            self._tell("cancelled", row.id, by, detail="what had come was removed")
        else:
            raise StorageError(
                f"transfer {row.id} is no job, but of a program that embeds chunkq",
                hint="cancel it with --drop, or go on with `chunkq get`",
            )

    def _job(self, job_id: str, action: Action, by: str, word: str, *, drop: bool) -> None:
        """The store, or the process that has the job, tells the journal."""
        store = self._store
        if action == "pause":
            store.pause(job_id, by)
        elif action == "resume":
            store.resume(job_id, by)
        elif action == "retry":
            store.retry(job_id, by)
        elif action == "cancel":
            store.cancel(job_id, by, drop=drop)
        else:
            store.set_priority(job_id, word, by)

    def _tell(self, what: str, transfer: str, by: str, detail: str = "") -> None:
        self._journal.add(
            Event(at_ms=self._wall_ms(), what=what, transfer=transfer, by=by, detail=detail)
        )
