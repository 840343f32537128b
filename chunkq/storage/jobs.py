"""The jobs of a site: what `chunkq get` is at, and what it left for a requester process.

    jobs/pending -> jobs/running -> jobs/done | jobs/failed | jobs/cancelled | jobs/paused
            ^-----------'  (to be tried again, or its worker died)

A job's state is the directory it is in. A worker locks the file and renames it into `running`; a
file there without a lock is of a process that died: a queued job goes back to the queue, one that a
program had begun itself is paused, so that no worker snatches what the same command will go on
with. Leaving `running` changes the content: the new file appears in its place, locked, and only
then the old one goes (see `jobfiles`). So a crash may leave a job in two places and never in none.
The name in `running` is removed only under the lock of the file that replaces it: nobody can claim
the job meanwhile.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Final

from chunkq.errors import StorageError
from chunkq.protocol.condition import Reason
from chunkq.protocol.priority import Priority, priority_word
from chunkq.storage.closing import close
from chunkq.storage.dropping import drop_staging
from chunkq.storage.job import NAME, SUFFIX, Job, JobClaim, JobState, Option, mark_of
from chunkq.storage.keeping import MAX_ATTEMPTS_LOST, Keeping
from chunkq.storage.steering import leave_cancelled, leave_paused, with_priority

#: How old what is known of others' jobs may be where one is begun.
_INDEX_S: Final = 60.0
_TAKEN_OVER: Final = frozenset(
    {JobState.PAUSED, JobState.PENDING, JobState.FAILED, JobState.CANCELLED}
)
#: Ids of one ms that one command may have: it is begun that often at once, and the clock stands.
_MAX_SAME_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class _Waiting:
    """What is known of a pending job, by the inode that said so."""

    inode: int
    peer: str
    priority: Priority
    fresh: bool


class JobStore(Keeping):
    """The jobs below a state directory, shared by any number of processes.

    Raises `StorageError`. `entropy` makes ids, `wall_s` is the time of day.
    """

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        wall_s: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(state_dir, entropy=entropy, wall_s=wall_s, sleep=sleep)
        self._waiting: dict[str, _Waiting] = {}
        #: Jobs by the last part of their names, as of a moment, and those begun here since.
        self._begun: dict[str, list[str]] = {}
        self._indexed_s = float("-inf")
        self._indexing = threading.Lock()

    # ------------------------------------------------------------ who gives work

    def add(
        self,
        sources: tuple[str, ...],
        destination: str,
        *,
        options: Mapping[str, Option] | None = None,
        created_ms: int,
        by: str = "",
        origin: str = "",
    ) -> Job:
        """Leave a job, durably. They are taken by priority, then in the order of `created_ms`."""
        job = Job(
            job_id=f"{created_ms:013d}-{self._entropy(4).hex()}",
            sources=sources,
            destination=destination,
            options=dict(options or {}),
            created_ms=created_ms,
            by=by,
            origin=origin,
        )
        close(self._write(job))
        self._tell("queued", job, by=by)
        return job

    def begin(
        self,
        sources: tuple[str, ...],
        destination: str,
        *,
        options: Mapping[str, Option] | None = None,
        created_ms: int,
        by: str = "",
        origin: str = "",
        durable: bool = True,
    ) -> JobClaim:
        """A job that this process does itself, at once: in `running`, and ours.

        One of the same sources and destination that was begun before and has not gone well is
        taken over, if nobody has it in hand. Not `durable`: its record may be lost in a power cut
        as long as the job is under way or done, which costs no waiting for the disk.
        """
        self._sweep()
        given = replace(
            Job(job_id="", sources=sources, destination=destination, by=by, origin=origin),
            options=dict(options or {}),
            created_ms=created_ms,
            foreground=True,
            started_ms=self.now_ms(),
            state=JobState.RUNNING,
        )
        mark = mark_of(sources, destination)
        for name in self._begun_before(mark):
            claim = self._take_over(name, given, durable=durable)
            if claim is not None:
                self._tell("started", claim.job, by=by, durable=durable)
                return claim
        for later_ms in range(_MAX_SAME_MS):
            job = replace(given, job_id=f"{created_ms + later_ms:013d}-{mark}")
            name = job.job_id + SUFFIX
            if any(self._is_there(state, name) for state in JobState):
                continue
            try:
                fd = self._write(job, durable=durable, anew=True)
            except FileExistsError:
                continue
            with self._indexing:
                self._begun.setdefault(mark, []).append(name)
            self._tell("started", job, by=by, durable=durable)
            return JobClaim(job, fd, durable=durable)
        raise StorageError(f"{self.path}: no free name for a job", hint="set this machine's clock")

    def _begun_before(self, mark: str) -> list[str]:
        """The names of jobs with that mark, the newest first; those of others up to a minute ago.

        To list thousands of jobs for each of thousands takes long.
        """
        with self._indexing:
            if not 0 <= self._wall_s() - self._indexed_s < _INDEX_S:
                self._indexed_s = self._wall_s()
                self._begun.clear()
                for _, name, _ in self.scan():
                    self._begun.setdefault(name[-len(mark + SUFFIX) : -len(SUFFIX)], []).append(
                        name
                    )
            return sorted(self._begun.get(mark, ()), reverse=True)

    def _take_over(self, name: str, given: Job, *, durable: bool) -> JobClaim | None:
        """Go on with what was begun before; None if somebody has it, or if it is another's."""
        if self._is_there(JobState.RUNNING, name):
            self._recover_if_left(name)
        found = self.find(name.removesuffix(SUFFIX))
        if found is None or found.state not in _TAKEN_OVER:
            return None
        fd = self._lock(found.state, name)
        if fd is None:
            return None
        try:
            known = self.read(found.state, name) if self._settle(found.state, name) else None
            if known is None:
                return None
            if (known.sources, known.destination) != (given.sources, given.destination):
                return None
            job = replace(
                given,
                job_id=known.job_id,
                created_ms=known.created_ms,
                attempts=known.attempts,
                revision=known.revision,
            )
            # durable in any case: there was a record that a power cut would have spared
            new_fd, job = self._renew(found.state, job)
            self.control.take(job.job_id)
            return JobClaim(job, new_fd, durable=durable)
        finally:
            close(fd)

    # ------------------------------------------------------------ who works

    def claim(self, skip: Container[str] = (), skip_peers: Container[str] = ()) -> JobClaim | None:
        """The next job that nobody has, or None: by priority, then the oldest.

        Takes back the jobs of workers that died. `skip`: ids of jobs whose turn has not come again,
        unless somebody has asked to retry them. `skip_peers`: of whom enough are done.
        """
        self.recover()
        self._sweep()
        for name in self._in_order():
            known = self._waiting[name]
            if known.peer in skip_peers or (name.removesuffix(SUFFIX) in skip and not known.fresh):
                continue
            fd = self._lock(JobState.PENDING, name)
            if fd is None:
                continue
            claimed = False
            try:
                job = self._claimable(name)
                if job is not None:
                    self._move(name, JobState.PENDING, JobState.RUNNING)
                    claimed = True
            finally:
                if not claimed:
                    close(fd)
            if job is not None:
                job = replace(job, state=JobState.RUNNING)
                self._tell("started", job, durable=False)
                return JobClaim(job, fd, started_ms=self.now_ms())
        return None

    def _claimable(self, name: str) -> Job | None:
        """The pending job that we have locked; None if it turns out not to be one for us."""
        if not self._settle(JobState.PENDING, name):
            return None
        job = self.read(JobState.PENDING, name)
        if job is None:
            # Not a job: it must not be looked at again and again.
            self._move(name, JobState.PENDING, JobState.FAILED)
            return None
        # what somebody wanted of the process that had it, which did not get to it
        wanted = self._heeding(job)
        if wanted == job:
            return job
        self._leave(JobState.PENDING, wanted)
        return None

    def _in_order(self) -> list[str]:
        """The names of the pending jobs as they are to be taken; all are known afterwards."""
        known: dict[str, _Waiting] = {}
        for name, inode in self._entries(JobState.PENDING):
            found = self._waiting.get(name)
            if found is None or found.inode != inode:
                job = self.read(JobState.PENDING, name)
                peer, word = (job.peer, job.priority) if job else ("", "normal")
                priority = Priority.of(priority_word(word))
                found = _Waiting(inode, peer, priority, fresh=job is None or not job.attempts)
            known[name] = found
        self._waiting = known
        return sorted(known, key=lambda name: (known[name].priority, name))

    def update(self, claim: JobClaim, job: Job) -> None:
        """Write down what has changed about a job in hand; it stays ours."""
        fd, claim.job = self._renew(JobState.RUNNING, job, durable=claim.durable)
        close(claim.fd)
        claim.fd = fd

    def reprioritise(self, claim: JobClaim, word: str, by: str) -> None:
        """Somebody wanted another priority for a job in hand, and it has it."""
        if claim.job.priority != word:
            self.update(claim, with_priority(claim.job, word))
            self._tell("priority", claim.job, by=by, detail=word)
        self.control.take(claim.job.job_id, "priority")

    def complete(
        self,
        claim: JobClaim,
        *,
        size_bytes: int = 0,
        new_bytes: int = 0,
        content_digest: str = "",
    ) -> Job:
        """The job is done; a bounded number of these is remembered."""
        job = replace(
            claim.job,
            state=JobState.DONE,
            error_code="",
            error_message="",
            reason="",
            changed_by="",
            ended_ms=self.now_ms(),
            size_bytes=size_bytes,
            new_bytes=new_bytes,
            content_digest=content_digest,
        )
        job = self._finish(claim, job)
        self._prune(JobState.DONE)
        return job

    def fail(self, claim: JobClaim, code: str, message: str) -> Job:
        """The job failed for good; a bounded number of these is remembered."""
        job = replace(
            claim.job,
            state=JobState.FAILED,
            attempts=claim.job.attempts + 1,
            error_code=code,
            error_message=message,
            reason="",
            changed_by="",
            ended_ms=self.now_ms(),
        )
        job = self._finish(claim, job)
        self._prune(JobState.FAILED)
        return job

    def give_back(
        self, claim: JobClaim, code: str = "", message: str = "", *, reason: str = ""
    ) -> Job:
        """To be tried again later, by anybody; with an error it counts as an attempt.

        Where somebody wants it paused or cancelled, it is. `reason`: why it waits, if for no error.
        """
        job = replace(
            claim.job,
            state=JobState.PENDING,
            attempts=claim.job.attempts + bool(code),
            lost=0,
            error_code=code,
            error_message=message,
            reason=reason,
            changed_by="",
        )
        return self._finish(claim, self._heeding(job))

    def leave_paused(self, claim: JobClaim, reason: Reason, by: str = "") -> Job:
        """It rests until somebody resumes it, or the same command goes on with it."""
        job = self._finish(claim, leave_paused(claim.job, reason, by))
        self._prune(JobState.PAUSED)
        return job

    def leave_cancelled(self, claim: JobClaim, by: str, *, drop: bool = False) -> Job:
        """It is given up; `drop`: with what has come. The transfer must have ended."""
        if drop:
            drop_staging(claim.job)
        job = self._finish(claim, leave_cancelled(claim.job, by, self.now_ms()))
        self._prune(JobState.CANCELLED)
        return job

    def _finish(self, claim: JobClaim, job: Job) -> Job:
        job = replace(job, started_ms=claim.started_ms or job.started_ms)
        durable = claim.durable or job.state in (JobState.FAILED, JobState.CANCELLED)
        durable = durable or job.reason == Reason.BY_OPERATOR
        try:
            return self._leave(JobState.RUNNING, job, durable=durable)
        finally:
            close(claim.fd)


__all__ = ["MAX_ATTEMPTS_LOST", "NAME", "Job", "JobClaim", "JobState", "JobStore", "Option"]
