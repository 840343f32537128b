"""All jobs in memory, brought up to date by reading only the files that changed.

A look costs one `stat` a directory while nothing happens, and one a file where something did.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from chunkq.storage.job import NAME, SUFFIX, Job, JobState
from chunkq.storage.jobfiles import JobFiles, counts
from chunkq.storage.locks import lock_key
from chunkq.storage.looking import Look
from chunkq.storage.mapping import storage_errors

#: In this order jobs move, so that one on its way is met in one of two places.
_FLOW: Final = (
    JobState.PENDING,
    JobState.RUNNING,
    *(state for state in JobState if state not in (JobState.PENDING, JobState.RUNNING)),
)
#: One that is in no place was moved against the order just now, or is gone.
_LOOKS: Final = 2

#: inode and change time: a file that replaces another may get the inode of one before that.
_Stamp = tuple[int, int]


@dataclass(frozen=True, slots=True)
class SeenJob:
    """A job as its file had it. `lock`: as in `locked_inodes()`. `changed_ms`: of its file."""

    job: Job
    lock: tuple[int, int]
    changed_ms: int


@dataclass(frozen=True, slots=True)
class _File:
    stamp: _Stamp
    lock: tuple[int, int]
    changed_ms: int


class JobIndex:
    """What is in the files of jobs. Raises `StorageError`. One thread at a time."""

    def __init__(self, store: JobFiles, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._store = store
        self._looks = {state: Look(wall_ns) for state in JobState}
        self._files: dict[JobState, dict[str, _File]] = {state: {} for state in JobState}
        #: By id.
        self.jobs: dict[str, SeenJob] = {}
        #: How many files were read, ever.
        self.files_read = 0

    def refresh(self) -> set[str]:
        """Look again; the ids of jobs that came, changed or went."""
        changed: set[str] = set()
        lost: set[str] = set()
        for _ in range(_LOOKS):
            touched = lost | {name for state in _FLOW for name in self._scan(state)}
            lost = set()
            for name in touched:
                found = self._find(name)
                job_id = name.removesuffix(SUFFIX)
                if found is not None:
                    self.jobs[job_id] = found
                    changed.add(job_id)
                elif job_id in self.jobs:
                    lost.add(name)
            if not lost:
                break
            for look in self._looks.values():
                look.forget()
        for name in lost:
            changed.add(name.removesuffix(SUFFIX))
            del self.jobs[name.removesuffix(SUFFIX)]
        return changed

    def _scan(self, state: JobState) -> set[str]:
        """The names in one directory that are not as they were."""
        path = os.path.join(self._store.path, state)
        with storage_errors("readdir", path):
            if not self._looks[state].changed(os.stat(path)):
                return set()
            found = dict(_entries(path))
        before, self._files[state] = self._files[state], found
        return {name for name in before if name not in found} | {
            name
            for name, file in found.items()
            if (known := before.get(name)) is None or known.stamp != file.stamp
        }

    def _find(self, name: str) -> SeenJob | None:
        """The copy that counts, of what may be in two places after a crash."""
        copies: list[SeenJob] = []
        for state, files in self._files.items():
            file = files.get(name)
            if file is None:
                continue
            self.files_read += 1
            job = self._store.read(state, name)
            if job is not None:
                copies.append(SeenJob(job, file.lock, file.changed_ms))
            else:
                self._looks[state].forget()
        return max(copies, key=lambda seen: counts(seen.job), default=None)


def _entries(path: str) -> Iterator[tuple[str, _File]]:
    with os.scandir(path) as entries:
        for entry in entries:
            if not NAME.fullmatch(entry.name):
                continue
            with suppress(FileNotFoundError):  # moved between the two calls
                status = entry.stat(follow_symlinks=False)
                stamp = (status.st_ino, status.st_ctime_ns)
                yield entry.name, _File(stamp, lock_key(status), status.st_mtime_ns // 1_000_000)
