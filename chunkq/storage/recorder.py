"""The one that writes history: takes what the journal and the jobs tell, and forgets in time.

Whoever has the lock is the recorder; the dashboard and the workers of a host all try to be. Lines
of the journal and how far it was read are one transaction: none is lost, and none comes twice.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from chunkq.storage.closing import close
from chunkq.storage.historydb import NAME, Damaged, database_errors, open_to_write
from chunkq.storage.job import SUFFIX, Job, JobState
from chunkq.storage.jobfiles import JobFiles
from chunkq.storage.journal import OPERATIONS, Event, Journal
from chunkq.storage.locks import lock_file
from chunkq.storage.mapping import storage_errors
from chunkq.storage.wallclock import wall_ms as wall_clock_ms

_DAY_MS: Final = 86_400_000
#: What went well is of little interest after a season.
KEEP_DONE_MS: Final = 90 * _DAY_MS
MAX_DONE: Final = 100_000
#: Failures, and who did what: more than a year, so that last year's same week can be looked at.
KEEP_MS: Final = 400 * _DAY_MS
#: Forgetting looks at indexes only; once an hour is often enough for bounds in days.
PRUNE_EVERY_MS: Final = 3_600_000
#: Rows that go in one transaction: some milliseconds, in which readers wait.
PRUNE_ROWS: Final = 2000
_ENDS: Final = frozenset({"done", "failed", "cancelled"})
_ENDED: Final = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)
_LOCK: Final = "history.lock"
_CURSOR: Final = "cursor"

Notice = Callable[[str], None]


class Recorder:
    """History's writer, if this process is the one. One thread at a time; close it.

    `notice` hears, as a sentence, of what a person should know: a damaged file was moved away.
    """

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        jobs: JobFiles,
        *,
        notice: Notice = lambda _: None,
        wall_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._state_dir = os.path.abspath(state_dir)
        self.path = os.path.join(self._state_dir, NAME)
        self._jobs = jobs
        self._journal = Journal(state_dir)
        self._notice = notice
        self._wall_ms = wall_ms
        self._lock_fd = -1
        self._connection: sqlite3.Connection | None = None
        #: Transfers whose end the journal told of before their file was in its place.
        self._awaited: set[str] = set()
        self._pruned_ms = 0

    @property
    def recording(self) -> bool:
        """Whether this process has the lock."""
        return self._lock_fd >= 0

    def record(self) -> bool:
        """Take what is new; False if another process is the recorder. Raises `StorageError`."""
        if not self.recording and not self._lock():
            return False
        try:
            if self._connection is None:
                self._begin()
            self._record()
        except Damaged as error:
            self._move_away(error)
            self._begin()
            self._record()
        return True

    def close(self) -> None:
        """Let another process be the recorder."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        fd, self._lock_fd = self._lock_fd, -1
        if fd >= 0:
            close(fd)

    # ------------------------------------------------------------ beginning

    def _lock(self) -> bool:
        path = os.path.join(self._state_dir, _LOCK)
        with storage_errors("open", self._state_dir):
            directory_fd = os.open(self._state_dir, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fd = lock_file(directory_fd, _LOCK, path)
        finally:
            close(directory_fd)
        if fd is not None:
            self._lock_fd = fd
        return fd is not None

    def _begin(self) -> None:
        """Open the database, and take the jobs that ended while nobody recorded."""
        self._connection = open_to_write(self.path)
        with database_errors(self.path):
            known = {row[0] for row in self._connection.execute("SELECT id FROM transfers")}
        missed = [
            (state, name)
            for state, name, _ in self._jobs.scan()
            if state in _ENDED and name.removesuffix(SUFFIX) not in known
        ]
        found = (self._jobs.read(state, name) for state, name in missed)
        with self._transaction() as connection:
            _put_jobs(connection, (job for job in found if job is not None))

    def _move_away(self, error: Damaged) -> None:
        """Begin anew beside what is damaged; what the journal still has comes again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        aside = f"{self.path}.damaged-{self._wall_ms()}"
        with storage_errors("rename", self.path):
            os.replace(self.path, aside)
            with suppress(FileNotFoundError):
                os.unlink(f"{self.path}-journal")
        self._awaited.clear()
        self._notice(f"the history is damaged ({error.message}): kept as {aside}, begun anew")

    # ------------------------------------------------------------ taking

    def _record(self) -> None:
        while self._take():
            pass
        now_ms = self._wall_ms()
        if abs(now_ms - self._pruned_ms) >= PRUNE_EVERY_MS:
            while self._prune(now_ms):
                pass
            self._pruned_ms = now_ms

    def _take(self) -> bool:
        """One read of the journal; False if nothing was left."""
        assert self._connection is not None
        with database_errors(self.path):
            row = self._connection.execute(
                "SELECT value FROM kept WHERE name = ?", (_CURSOR,)
            ).fetchone()
        cursor = str(row[0]) if row else ""
        events, after = self._journal.read(cursor)
        self._awaited |= {each.transfer for each in events if each.what in _ENDS and each.transfer}
        ended = [job for each in self._awaited if (job := self._jobs.find(each)) is not None]
        settled = [job for job in ended if job.state in _ENDED]
        if not events and not settled and after == cursor:
            return False
        with self._transaction() as connection:
            _put_moments(connection, events)
            _put_jobs(connection, settled)
            connection.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (_CURSOR, after))
        # One that is found nowhere was forgotten already: it is not to be waited for.
        waits = {job.job_id for job in ended if not job.state.ended}
        self._awaited &= waits
        return bool(events)

    def _prune(self, now_ms: int) -> bool:
        """Forget some of what is too old; whether there may be more."""
        with self._transaction() as connection:
            old = connection.execute(
                "SELECT id FROM transfers WHERE ended_ms < ? AND state = 'done'"
                " UNION ALL SELECT id FROM transfers WHERE ended_ms < ? AND state != 'done'"
                " UNION ALL SELECT id FROM (SELECT id FROM transfers WHERE state = 'done'"
                " ORDER BY ended_ms DESC, id LIMIT -1 OFFSET ?) LIMIT ?",
                (now_ms - KEEP_DONE_MS, now_ms - KEEP_MS, MAX_DONE, PRUNE_ROWS),
            ).fetchall()
            ids = [(row[0],) for row in old]
            connection.executemany("DELETE FROM transfers WHERE id = ?", ids)
            connection.executemany("DELETE FROM moments WHERE transfer = ? AND NOT audit", ids)
            gone = connection.execute(
                "DELETE FROM moments WHERE number IN (SELECT number FROM moments"
                " WHERE at_ms < ? AND (audit = 0 OR at_ms < ?)"
                " AND transfer NOT IN (SELECT id FROM transfers) LIMIT ?)",
                (now_ms - KEEP_DONE_MS, now_ms - KEEP_MS, PRUNE_ROWS),
            ).rowcount
        return len(ids) >= PRUNE_ROWS or gone >= PRUNE_ROWS

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        assert self._connection is not None
        with database_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise


#: Who asked for a transfer stands in its row: to begin one is no deed of an operator.
_ORDINARY: Final = frozenset({"queued", "started"})


def _put_moments(connection: sqlite3.Connection, events: Iterable[Event]) -> None:
    connection.executemany(
        "INSERT INTO moments (at_ms, what, transfer, by_whom, reason, detail, subject, audit)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            (
                each.at_ms,
                each.what,
                each.transfer,
                each.by,
                each.reason,
                each.detail,
                each.subject,
                (bool(each.by) and each.what not in _ORDINARY) or each.what in OPERATIONS,
            )
            for each in events
        ),
    )


def _put_jobs(connection: sqlite3.Connection, jobs: Iterable[Job]) -> None:
    connection.executemany(
        f"INSERT OR REPLACE INTO transfers VALUES ({', '.join('?' * 17)})",  # noqa: S608
        (_row(job) for job in jobs),
    )


def _row(job: Job) -> tuple[object, ...]:
    sources = [_text(each) for each in job.sources]
    destination = _text(job.destination)
    return (
        job.job_id,
        str(job.state),
        str(job.why or ""),
        _text(job.error_message),
        json.dumps(sources),
        _text(job.peer),
        destination,
        "\n".join((*sources, destination)).casefold(),
        _text(job.priority),
        _text(job.by),
        _text(job.content_digest),
        job.attempts,
        min(job.size_bytes, _MOST),
        min(job.new_bytes, _MOST),
        min(job.created_ms, _MOST),
        min(job.started_ms, _MOST),
        min(job.ended_ms, _MOST) or min(job.created_ms, _MOST),
    )


#: What fits into a column; a job's file may have been edited by hand.
_MOST: Final = (1 << 63) - 1


def _text(text: str) -> str:
    """Names on disk may be no text."""
    return text.encode(errors="replace").decode()
