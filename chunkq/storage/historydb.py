"""The file that history is in: its tables, and what its errors mean.

`state/history.db`, SQLite with a rollback journal: one process writes (see `recorder`), any number
read. A reader takes a page at a time, so the writer never waits for it for long.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import quote

from chunkq.errors import DiskFull, StorageError

NAME: Final = "history.db"
#: Raised when a table changes its meaning; a file of a later one is left alone.
SCHEMA: Final = 1
#: A commit takes some fsyncs; a reader or the writer waits so long for the other.
BUSY_S: Final = 5.0
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

#: The writer was killed within a transaction: who reads next has to undo it first.
_NEEDS_WRITING: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})

#: `transfers`: one row each, as it last ended. `folded` is what text is searched in. `moments`: the
#: lines of the journal, in its order; `audit` is 1 where a person or an operation is told of.
_TABLES: Final = """
CREATE TABLE transfers (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    sources TEXT NOT NULL,
    peer TEXT NOT NULL,
    destination TEXT NOT NULL,
    folded TEXT NOT NULL,
    priority TEXT NOT NULL,
    by_whom TEXT NOT NULL,
    digest TEXT NOT NULL,
    retries INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    new_bytes INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    started_ms INTEGER NOT NULL,
    ended_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX transfers_ended ON transfers (ended_ms, id);
CREATE TABLE moments (
    number INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    what TEXT NOT NULL,
    transfer TEXT NOT NULL,
    by_whom TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    subject TEXT NOT NULL,
    audit INTEGER NOT NULL
);
CREATE INDEX moments_transfer ON moments (transfer) WHERE transfer != '';
CREATE INDEX moments_audit ON moments (number) WHERE audit;
CREATE INDEX moments_time ON moments (at_ms);
CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""


class Damaged(StorageError):
    """The file is no database, or torn."""


class LaterVersion(StorageError):
    """A later version of chunkq wrote it."""


@contextmanager
def database_errors(path: str) -> Iterator[None]:
    """Raise `StorageError`, `DiskFull` or `Damaged` for what SQLite says."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        message = f"{path}: {error}"
        if code in _DAMAGED:
            raise Damaged(message, hint="it is moved away, and begun anew") from error
        if code == sqlite3.SQLITE_FULL:
            raise DiskFull(message, hint="make room on the disk of the state directory") from error
        raise StorageError(message) from error


def open_to_write(path: str) -> sqlite3.Connection:
    """The database, made if need be. Raises `Damaged`, `LaterVersion`, `StorageError`."""
    with database_errors(path):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        connection = _connect(path, "rwc")
        try:
            # Nobody else reads the state directory; a new file is to be as private as that.
            os.chmod(path, 0o600)
            connection.execute("PRAGMA journal_mode = TRUNCATE")
            connection.execute("PRAGMA synchronous = FULL")
            if not _check(connection, path):
                tables = "".join(f"{each};" for each in _TABLES.split(";") if each.strip())
                connection.executescript(f"BEGIN; {tables} PRAGMA user_version = {SCHEMA}; COMMIT;")
        except BaseException:
            connection.close()
            raise
    return connection


def open_to_read(path: str) -> sqlite3.Connection | None:
    """None if there is none, or nothing is in it. Raises `Damaged`, `LaterVersion`, ..."""
    with database_errors(path):
        if not os.path.exists(path):
            return None
        try:
            return _open_checked(path, "ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _NEEDS_WRITING:
                raise
        return _open_checked(path, "rw")


def _open_checked(path: str, mode: str) -> sqlite3.Connection | None:
    connection = _connect(path, mode)
    try:
        if _check(connection, path):
            return connection
    except BaseException:
        connection.close()
        raise
    connection.close()
    return None


def _connect(path: str, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(path)}?mode={mode}",
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
    )
    connection.row_factory = sqlite3.Row
    return connection


def _check(connection: sqlite3.Connection, path: str) -> bool:
    """Whether the tables are there. Raises `LaterVersion`."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA:
        raise LaterVersion(
            f"{path} is of a later version of chunkq",
            hint="bring this host to the same version, or move the file away",
        )
    return version == SCHEMA
