"""The files of jobs: one JSON file each, in a directory for each state.

A file is replaced as a whole: the new one appears in its place, locked, and only then the old one
goes. So a crash may leave a job in two places and never in none. Of two copies the one with the
higher revision counts, and of two equal ones (an earlier version of chunkq left them) the one that
is not in `running`; the other is removed by whoever meets it, under both locks.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from chunkq.errors import StorageError
from chunkq.protocol.limits import KIB
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.job import NAME, SUFFIX, Job, JobState, decode, encode
from chunkq.storage.kinds import lstat_at
from chunkq.storage.locks import lock_file
from chunkq.storage.mapping import storage_errors

#: Names for what is being written: whoever removes what was left has one of them for a moment.
_MAX_TEMPORARIES: Final = 20
#: Some hundred sources of the longest path.
_MAX_FILE_SIZE_BYTES: Final = 1024 * KIB
#: Jobs move while they are listed: the directories are read again until none has changed, or so
#: often; then what was seen in any of the readings is told.
_MAX_READINGS: Final = 3
_HALF_WRITTEN: Final = re.compile(
    rf"{NAME.pattern}\.[0-9]+{re.escape(descriptors.TEMPORARY_SUFFIX)}"
)


class JobFiles:
    """The directories below a state directory, shared by any number of processes.

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
        self._fds: dict[JobState, int] = {}
        for state in JobState:
            path = os.path.join(self.path, state)
            with storage_errors("mkdir", path):
                os.makedirs(path, mode=0o700, exist_ok=True)
                self._fds[state] = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        for fd in self._fds.values():
            close(fd)
        self._fds.clear()

    # ------------------------------------------------------------ looking

    def scan(self) -> Iterator[tuple[JobState, str, int]]:
        """`(state, file name, inode)` of every job, without reading them; each once.

        A job that keeps its state and its inode is what it was, unless it is in `running`.
        """
        found: dict[str, dict[JobState, int]] = {}
        for _ in range(_MAX_READINGS):
            before = self._changes()
            seen: dict[str, dict[JobState, int]] = {}
            for state in JobState:
                for name, inode in self._entries(state):
                    seen.setdefault(name, {})[state] = inode
            found.update(seen)
            if self._changes() == before:
                found = seen
                break
        for name, places in found.items():
            state = next(iter(places)) if len(places) == 1 else self._newest(name, places)
            yield state, name, places[state]

    def read(self, state: JobState, name: str) -> Job | None:
        """The job in a file that `scan` told of; None if it is not there any more, or no job."""
        path = os.path.join(self.path, state, name)
        raw = descriptors.read_file(self._fds[state], name, path, _MAX_FILE_SIZE_BYTES)
        if raw is None:
            return None
        job = decode(raw)
        if job is None or job.job_id + SUFFIX != name:
            return None
        return replace(job, state=state)

    def jobs(self, state: JobState) -> list[Job]:
        """The jobs of one state, oldest first; unreadable ones are left out."""
        names = sorted(name for where, name, _ in self.scan() if where is state)
        found = (self.read(state, name) for name in names)
        return [job for job in found if job is not None]

    def find(self, job_id: str) -> Job | None:
        """The job of that id, in whatever state it is."""
        name = job_id + SUFFIX
        if not NAME.fullmatch(name):
            return None
        for _ in range(_MAX_READINGS):
            copies = self._copies(name)
            if copies:
                return max(copies, key=counts)
        return None

    def _copies(self, name: str) -> list[Job]:
        found = [self.read(state, name) for state in JobState if self._is_there(state, name)]
        return [job for job in found if job is not None]

    def _newest(self, name: str, places: dict[JobState, int]) -> JobState:
        copies = self._copies(name)
        if not copies:
            return next(iter(places))
        newest = max(copies, key=counts).state
        return newest if newest in places else next(iter(places))

    def _changes(self) -> tuple[int, ...]:
        return tuple(os.fstat(fd).st_mtime_ns for fd in self._fds.values())

    def _entries(self, state: JobState) -> list[tuple[str, int]]:
        path = os.path.join(self.path, state)
        with storage_errors("readdir", path), os.scandir(self._fds[state]) as entries:
            return [(entry.name, entry.inode()) for entry in entries if NAME.fullmatch(entry.name)]

    def _names(self, state: JobState) -> list[str]:
        with storage_errors("readdir", os.path.join(self.path, state)):
            return sorted(name for name in os.listdir(self._fds[state]) if NAME.fullmatch(name))

    def _is_there(self, state: JobState, name: str) -> bool:
        return lstat_at(self._fds[state], name) is not None

    # ------------------------------------------------------------ changing

    def _lock(self, state: JobState, name: str) -> int | None:
        path = os.path.join(self.path, state, name)
        return lock_file(self._fds[state], name, path, create=False)

    def _replace(self, old: JobState, job: Job, *, durable: bool = True) -> Job:
        """Let `job` appear in its state, and its file in `old`, which we have locked, go."""
        new_fd, job = self._renew(old, job, durable=durable)
        close(new_fd)
        return job

    def _renew(self, old: JobState, job: Job, *, durable: bool = True) -> tuple[int, Job]:
        """The same, and what appeared is still locked by the descriptor returned."""
        job = replace(job, revision=job.revision + 1)
        new_fd = self._write(job, durable=durable)
        try:
            if old is not job.state:
                self._remove(old, job.job_id + SUFFIX)
        except BaseException:
            close(new_fd)
            raise
        return new_fd, job

    def _write(self, job: Job, *, durable: bool = True, anew: bool = False) -> int:
        """Put a new file in its place, whole and locked by the descriptor returned.

        `anew`: `FileExistsError` if there is one of that name.
        """
        raw = encode(job)
        directory_fd, name = self._fds[job.state], job.job_id + SUFFIX
        path = os.path.join(self.path, job.state, name)
        fd, temporary = self._begin(directory_fd, name, path)
        try:
            with storage_errors("write", path):
                os.ftruncate(fd, 0)
                descriptors.write_full(fd, 0, [raw])
            if durable:
                with storage_errors("fsync", path, sync=True):
                    os.fsync(fd)
            self._name(directory_fd, temporary, name, path, anew=anew)
            if durable:
                with storage_errors("fsync", path, sync=True):
                    descriptors.sync_directory(directory_fd)
        except BaseException:
            descriptors.remove_if_there(directory_fd, temporary)
            close(fd)  # its lock would keep the job from everybody while this process lives
            raise
        return fd

    @staticmethod
    def _begin(directory_fd: int, name: str, path: str) -> tuple[int, str]:
        """A file to write, and its name: locked from the first, so that nobody sweeps it away."""
        for attempt in range(_MAX_TEMPORARIES):
            unique = f"{threading.get_native_id()}{attempt:02d}"
            temporary = f"{name}.{unique}{descriptors.TEMPORARY_SUFFIX}"
            fd = lock_file(directory_fd, temporary, path)
            if fd is not None:
                return fd, temporary
        raise StorageError(f"lock {path}: its temporary files are in use")

    @staticmethod
    def _name(directory_fd: int, temporary: str, name: str, path: str, *, anew: bool) -> None:
        """Give what is whole its name. Raises `FileExistsError` if that is to be new and is not."""
        if not anew:
            with storage_errors("rename", path):
                os.rename(temporary, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
            return
        try:
            descriptors.link_no_clobber(directory_fd, temporary, directory_fd, name)
        except FileExistsError:
            raise
        except OSError as error:
            raise StorageError(f"link {path}: {error.strerror}") from error
        descriptors.remove_if_there(directory_fd, temporary)

    def _settle(self, state: JobState, name: str) -> bool:
        """Whether the copy in `state`, which we have locked, counts; the others go if it does.

        A newer copy that nobody works on makes ours go. Each goes only under the lock of the other:
        else the other might be moved to its place meanwhile.
        """
        others = [other for other in JobState if other is not state and self._is_there(other, name)]
        if not others:
            return True
        job = self.read(state, name)
        if job is None:
            return True
        for other in others:
            fd = self._lock(other, name)
            twin = self.read(other, name)
            try:
                if twin is not None and counts(twin) > counts(job):
                    if fd is not None:
                        self._remove(state, name)
                    return False
                if fd is not None:
                    self._remove(other, name)
            finally:
                if fd is not None:
                    close(fd)
        return True

    def _remove_debris(self) -> None:
        """What processes that were killed had begun to write: nobody has it locked."""
        for state, fd in self._fds.items():
            with storage_errors("readdir", os.path.join(self.path, state)):
                names = [name for name in os.listdir(fd) if _HALF_WRITTEN.fullmatch(name)]
            for name in names:
                locked = self._lock(state, name)
                if locked is None:
                    continue
                try:
                    self._remove(state, name)
                finally:
                    close(locked)

    def _move(self, name: str, source: JobState, target: JobState) -> None:
        with storage_errors("rename", os.path.join(self.path, target, name)):
            fds = self._fds[source], self._fds[target]
            os.rename(name, name, src_dir_fd=fds[0], dst_dir_fd=fds[1])

    def _remove(self, state: JobState, name: str) -> None:
        descriptors.remove_if_there(self._fds[state], name)


def counts(job: Job) -> tuple[int, bool]:
    """Of two copies of a job the greater one counts."""
    return job.revision, job.state is not JobState.RUNNING
