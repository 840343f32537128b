"""Every transfer in staging, brought up to date by reading only the state files that changed.

A state file changes under its lock only, so a look costs one `stat` for each directory and each
file that is or was locked. Locks of other hosts and containers are not seen: every so often a
directory is looked at whole.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from chunkq.errors import StorageError
from chunkq.protocol.names import STAGING_NAME
from chunkq.storage.closing import close
from chunkq.storage.locks import lock_key
from chunkq.storage.looking import Look
from chunkq.storage.mapping import storage_errors
from chunkq.storage.places import Places
from chunkq.storage.staging import STATE_SUFFIX
from chunkq.storage.transfers import TransferSummary, summarise

#: Each directory is looked at whole once in so many times, in turn.
WHOLE_EVERY: Final = 16

#: The directory that the file goes to, and the transfer's id on disk.
Key = tuple[str, str]


@dataclass(slots=True)
class _File:
    stamp: tuple[int, int, int]
    lock: tuple[int, int]
    locked: bool


@dataclass(slots=True)
class _Directory:
    look: Look
    files: dict[str, _File] = field(default_factory=dict)


class StagingIndex:
    """What is in the staging directories that a state directory knows. One thread at a time."""

    def __init__(
        self, state_dir: str | os.PathLike[str], wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._places = Places(state_dir)
        self._wall_ns = wall_ns
        self._directories: dict[str, _Directory] = {}
        self._turn = 0
        #: By directory and transfer id.
        self.transfers: dict[Key, TransferSummary] = {}
        #: How many state files were read, ever.
        self.files_read = 0

    def refresh(self, locked: set[tuple[int, int]]) -> set[Key]:
        """Look again; what came, changed or went. `locked`: see `locked_inodes`.

        A directory that cannot be read stays as it was. Raises `StorageError` if the state
        directory cannot be read.
        """
        self._turn += 1
        changed: set[Key] = set()
        wanted = self._places.known()
        for directory in self._directories.keys() - wanted:
            changed |= self._drop(directory)
        for number, directory in enumerate(wanted):
            whole = (number + self._turn) % WHOLE_EVERY == 0
            try:
                changed |= self._refresh(directory, locked, whole)
            except StorageError:
                continue
        return changed

    def within(self, directory: str) -> list[Key]:
        """What is in the staging of one directory."""
        known = self._directories.get(directory)
        found = [(directory, _id(name)) for name in known.files] if known else []
        return [key for key in found if key in self.transfers]

    def _refresh(self, directory: str, locked: set[tuple[int, int]], whole: bool) -> set[Key]:
        path = os.path.join(directory, STAGING_NAME)
        try:
            status = os.stat(path, follow_symlinks=False)
        except OSError:
            return self._drop(directory)
        known = self._directories.get(directory)
        if known is None:
            known = self._directories[directory] = _Directory(Look(self._wall_ns))
        anew = known.look.changed(status) or whole
        if anew:
            names = _names(path)
        else:
            names = [
                name
                for name, file in known.files.items()
                if file.locked or (locked and file.lock in locked)
            ]
            if not names:
                return set()
        changed = {(directory, _id(name)) for name in known.files.keys() - set(names) if anew}
        for key in changed:
            del known.files[key[1] + STATE_SUFFIX]
            self.transfers.pop(key, None)
        with storage_errors("open", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            changed |= {
                (directory, _id(name))
                for name in names
                if self._look_at(fd, directory, name, known, locked)
            }
        finally:
            close(fd)
        return changed

    def _look_at(
        self, fd: int, directory: str, name: str, known: _Directory, locked: set[tuple[int, int]]
    ) -> bool:
        """Bring one file up to date; whether anything changed."""
        key = (directory, _id(name))
        before = known.files.get(name)
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            known.files.pop(name, None)
            known.look.forget()
            return self.transfers.pop(key, None) is not None
        stamp = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
        lock = lock_key(status)
        is_locked = lock in locked
        if before is not None and before.stamp == stamp:
            if before.locked == is_locked:
                return False
            before.locked = is_locked
            if key in self.transfers:
                self.transfers[key] = replace(self.transfers[key], locked=is_locked)
            return True
        # Remembered before it is read: what is written meanwhile is seen the next time.
        known.files[name] = _File(stamp, lock, is_locked)
        self.files_read += 1
        try:
            found = summarise(fd, os.path.join(directory, STAGING_NAME), name, locked)
        except StorageError:
            del known.files[name]
            raise
        if found is None:
            return self.transfers.pop(key, None) is not None
        self.transfers[key] = found
        return True

    def _drop(self, directory: str) -> set[Key]:
        known = self._directories.pop(directory, None)
        gone = {(directory, _id(name)) for name in known.files} if known else set()
        for key in gone:
            self.transfers.pop(key, None)
        return gone


def _names(path: str) -> list[str]:
    with storage_errors("readdir", path):
        return [name for name in os.listdir(path) if name.endswith(STATE_SUFFIX)]


def _id(name: str) -> str:
    return name.removesuffix(STATE_SUFFIX)
