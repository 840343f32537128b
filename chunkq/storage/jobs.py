"""Jobs that `chunkq get --queue` leaves for a requester process: one JSON file each.

    jobs/pending -> jobs/running -> jobs/done | jobs/failed
            ^-----------'  (to be tried again, or its worker died)

A job's state is the directory it is in. A worker locks the file and renames it into `running`; a
file there without a lock is of a worker that died. Leaving `running` changes the content: the new
file appears in its place, locked, and only then the old one goes. So a crash may leave a job in two
places, of which `running` is the one that does not count, and never in none. The name in `running`
is removed only under the lock of the file that replaces it: nobody can claim the job meanwhile.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import Final

from pydantic import TypeAdapter

from chunkq.errors import NotFound, StorageError
from chunkq.protocol.limits import KIB
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.kinds import lstat_at
from chunkq.storage.locks import lock_file
from chunkq.storage.mapping import storage_errors

#: A job whose worker died so often, one time after the other, takes the worker down by itself.
MAX_ATTEMPTS_LOST: Final = 5
#: What a killed process left half written is removed after so long; no writing takes an hour.
_DEBRIS_AGE_S: Final = 3600.0
#: History: what went well is of little interest; failures wait for somebody to look at them.
MAX_DONE: Final = 200
MAX_FAILED: Final = 1000
#: Some hundred sources of the longest path.
_MAX_FILE_SIZE_BYTES: Final = 1024 * KIB
_NAME: Final = re.compile(r"[0-9]{13,20}-[0-9a-f]{8}\.json")
_SUFFIX: Final = ".json"
_HALF_WRITTEN: Final = re.compile(
    rf"{_NAME.pattern}\.[0-9]+{re.escape(descriptors.TEMPORARY_SUFFIX)}"
)

Option = str | int | float | bool | None


class JobState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to get and where to; `sources` are where one thing is to be had.

    `attempts` counts the times it was begun and not finished, `lost` those of the last of them that
    ended with their worker.
    """

    job_id: str
    sources: tuple[str, ...]
    destination: str
    options: Mapping[str, Option] = field(default_factory=dict)
    created_ms: int = 0
    attempts: int = 0
    lost: int = 0
    error_code: str = ""
    error_message: str = ""
    state: JobState = JobState.PENDING

    @property
    def peer(self) -> str:
        """Whom it asks first."""
        return self.sources[0].partition(":")[0] if self.sources else ""


@cache
def _parser() -> TypeAdapter[Job]:
    """What a job's file may hold, types and all: it may have been edited by hand."""
    return TypeAdapter(Job)


class JobClaim:
    """A job that this process has; close it with `JobStore.complete`, `fail` or `give_back`."""

    def __init__(self, job: Job, fd: int) -> None:
        self.job = job
        self.fd = fd


class JobStore:
    """The jobs below a state directory, shared by any number of processes.

    Raises `StorageError`. `entropy` makes ids, `wall_s` is the time of day.
    """

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self.path = os.path.join(os.path.abspath(state_dir), "jobs")
        self._entropy = entropy
        self._wall_s = wall_s
        self._swept = False
        self._fds: dict[JobState, int] = {}
        #: Whom jobs that wait ask first; that never changes.
        self._peers: dict[str, str] = {}
        for state in JobState:
            path = os.path.join(self.path, state)
            with storage_errors("mkdir", path):
                os.makedirs(path, mode=0o700, exist_ok=True)
                self._fds[state] = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        for fd in self._fds.values():
            close(fd)
        self._fds.clear()

    # ------------------------------------------------------------ who gives work

    def add(
        self,
        sources: tuple[str, ...],
        destination: str,
        *,
        options: Mapping[str, Option] | None = None,
        created_ms: int,
    ) -> Job:
        """Leave a job, durably. They are taken in the order of `created_ms`."""
        job = Job(
            job_id=f"{created_ms:013d}-{self._entropy(4).hex()}",
            sources=sources,
            destination=destination,
            options=dict(options or {}),
            created_ms=created_ms,
        )
        close(self._write(job, JobState.PENDING))
        return job

    def jobs(self, state: JobState) -> list[Job]:
        """The jobs of one state, oldest first; unreadable ones are left out."""
        found = (self._read(state, name) for name in self._names(state))
        return [job for job in found if job is not None]

    def retry(self, job_id: str) -> Job:
        """Let a failed job be tried again, as if it were new. Raises `NotFound`."""
        name = job_id + _SUFFIX
        if not _NAME.fullmatch(name) or self._read(JobState.FAILED, name) is None:
            raise NotFound(f"there is no failed job {job_id!a}")
        failed_fd = self._lock(JobState.FAILED, name)
        if failed_fd is None:
            raise StorageError(f"job {job_id} is changing its state", hint="try again")
        try:
            job = self._read(JobState.FAILED, name)
            if job is None:
                raise NotFound(f"there is no failed job {job_id!a}")
            renewed = replace(
                job, attempts=0, lost=0, error_code="", error_message="", state=JobState.PENDING
            )
            self._replace(JobState.FAILED, renewed)
        finally:
            close(failed_fd)
        return renewed

    # ------------------------------------------------------------ who works

    def claim(self, skip: Container[str] = (), skip_peers: Container[str] = ()) -> JobClaim | None:
        """The oldest job that nobody has, or None. Takes back the jobs of workers that died.

        `skip`: ids of jobs whose turn has not come again. `skip_peers`: of whom enough are done.
        """
        self.recover()
        if not self._swept:
            self._swept = True
            self._remove_debris()
        names = self._names(JobState.PENDING)
        self._peers = {name: self._peers[name] for name in names if name in self._peers}
        for name in names:
            if name.removesuffix(_SUFFIX) in skip or self._peer_of(name) in skip_peers:
                continue
            fd = self._lock(JobState.PENDING, name)
            if fd is None:
                continue
            job = self._read(JobState.PENDING, name)
            if job is None:
                # Not a job: it must not be looked at again and again.
                self._move(name, JobState.PENDING, JobState.FAILED)
                close(fd)
                continue
            self._move(name, JobState.PENDING, JobState.RUNNING)
            return JobClaim(replace(job, state=JobState.RUNNING), fd)
        return None

    def _peer_of(self, name: str) -> str:
        """The peer that a job asks first; empty if the job cannot be read."""
        if name not in self._peers:
            job = self._read(JobState.PENDING, name)
            self._peers[name] = job.peer if job else ""
        return self._peers[name]

    def complete(self, claim: JobClaim) -> None:
        """The job is done; a bounded number of these is remembered."""
        job = replace(claim.job, error_code="", error_message="")
        self._finish(claim, replace(job, state=JobState.DONE))
        self._prune(JobState.DONE, MAX_DONE)

    def fail(self, claim: JobClaim, code: str, message: str) -> None:
        """The job failed for good; a bounded number of these is remembered."""
        job = replace(
            claim.job,
            attempts=claim.job.attempts + 1,
            error_code=code,
            error_message=message,
        )
        self._finish(claim, replace(job, state=JobState.FAILED))
        self._prune(JobState.FAILED, MAX_FAILED)

    def give_back(self, claim: JobClaim, code: str = "", message: str = "") -> None:
        """To be tried again later, by anybody; with an error it counts as an attempt."""
        job = replace(
            claim.job,
            attempts=claim.job.attempts + bool(code),
            lost=0,
            error_code=code,
            error_message=message,
        )
        self._finish(claim, replace(job, state=JobState.PENDING))

    def recover(self) -> None:
        """Return the jobs of workers that died to the queue, or fail those that kill workers."""
        for name in self._names(JobState.RUNNING):
            fd = self._lock(JobState.RUNNING, name)
            if fd is None:
                continue
            try:
                self._recover_one(name)
            finally:
                close(fd)

    def _recover_one(self, name: str) -> None:
        for state in (JobState.DONE, JobState.FAILED, JobState.PENDING):
            if self._read(state, name) is None:
                continue
            twin_fd = self._lock(state, name)
            if twin_fd is not None:
                self._remove(JobState.RUNNING, name)
                close(twin_fd)
            return
        job = self._read(JobState.RUNNING, name)
        if job is None:
            return
        lost = job.lost + 1
        job = replace(
            job,
            attempts=job.attempts + 1,
            lost=lost,
            error_code="worker_died",
            error_message="the process that worked on it ended",
            state=JobState.FAILED if lost >= MAX_ATTEMPTS_LOST else JobState.PENDING,
        )
        self._replace(JobState.RUNNING, job)

    # ------------------------------------------------------------ files

    def _finish(self, claim: JobClaim, job: Job) -> None:
        try:
            self._replace(JobState.RUNNING, job)
        finally:
            close(claim.fd)

    def _replace(self, old: JobState, job: Job) -> None:
        """Let `job` appear in its new state, and its file in `old`, which we have locked, go."""
        new_fd = self._write(job, job.state)
        try:
            self._remove(old, job.job_id + _SUFFIX)
        finally:
            close(new_fd)

    def _names(self, state: JobState) -> list[str]:
        with storage_errors("readdir", os.path.join(self.path, state)):
            return sorted(name for name in os.listdir(self._fds[state]) if _NAME.fullmatch(name))

    def _lock(self, state: JobState, name: str) -> int | None:
        path = os.path.join(self.path, state, name)
        return lock_file(self._fds[state], name, path, create=False)

    def _write(self, job: Job, state: JobState) -> int:
        """Put a new file in its place, whole, durable and locked by the descriptor returned."""
        content = asdict(job)
        del content["state"]
        raw = json.dumps(content, ensure_ascii=True, indent=1).encode()
        directory_fd, name = self._fds[state], job.job_id + _SUFFIX
        path = os.path.join(self.path, state, name)
        temporary = f"{name}.{os.getpid()}{descriptors.TEMPORARY_SUFFIX}"
        try:
            descriptors.write_new(directory_fd, temporary, path, [raw], mode=0o600)
            fd = lock_file(directory_fd, temporary, path, create=False)
            if fd is None:
                raise StorageError(f"lock {path}: its temporary file is in use")
            with storage_errors("rename", path):
                os.rename(temporary, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        except StorageError:
            descriptors.remove_if_there(directory_fd, temporary)
            raise
        with storage_errors("fsync", path, sync=True):
            descriptors.sync_directory(directory_fd)
        return fd

    def _read(self, state: JobState, name: str) -> Job | None:
        path = os.path.join(self.path, state, name)
        raw = descriptors.read_file(self._fds[state], name, path, _MAX_FILE_SIZE_BYTES)
        if raw is None:
            return None
        try:
            job = replace(_parser().validate_json(raw, strict=True), state=state)
        except ValueError:
            return None
        return job if job.job_id + _SUFFIX == name else None

    def _remove_debris(self) -> None:
        """What processes that were killed had begun to write."""
        for state, fd in self._fds.items():
            with storage_errors("readdir", os.path.join(self.path, state)):
                names = [name for name in os.listdir(fd) if _HALF_WRITTEN.fullmatch(name)]
            for name in names:
                status = lstat_at(fd, name)
                if status is not None and self._wall_s() - status.st_mtime > _DEBRIS_AGE_S:
                    self._remove(state, name)

    def _move(self, name: str, source: JobState, target: JobState) -> None:
        with storage_errors("rename", os.path.join(self.path, target, name)):
            fds = self._fds[source], self._fds[target]
            os.rename(name, name, src_dir_fd=fds[0], dst_dir_fd=fds[1])

    def _remove(self, state: JobState, name: str) -> None:
        descriptors.remove_if_there(self._fds[state], name)

    def _prune(self, state: JobState, most: int) -> None:
        for name in self._names(state)[:-most]:
            self._remove(state, name)
