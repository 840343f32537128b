"""What is seen to among jobs: processes that died, wishes nobody fulfilled, bounds of history."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from chunkq.errors import StorageError
from chunkq.protocol.condition import Reason
from chunkq.protocol.priority import priority_word
from chunkq.storage.closing import close
from chunkq.storage.dropping import drop_staging
from chunkq.storage.job import SUFFIX, Job, JobState
from chunkq.storage.journal import What
from chunkq.storage.kinds import lstat_at
from chunkq.storage.mapping import storage_errors
from chunkq.storage.steering import Steering, leave_cancelled, leave_paused, with_priority

#: A job whose worker died so often, one time after the other, takes the worker down by itself.
MAX_ATTEMPTS_LOST: Final = 5
#: History: what went well is of little interest; failures wait for somebody to look at them.
MAX_DONE: Final = 2000
MAX_FAILED: Final = 5000
MAX_CANCELLED: Final = 2000
#: What somebody paused stays for good, what was only interrupted goes beyond this.
MAX_PAUSED: Final = 5000
#: Beyond its bound by this part, a history is cut to it: not at each job, for all are looked at.
_SLACK_PART: Final = 20
#: What the journal says of a job that left `running`.
_TOLD: Final[Mapping[JobState, What]] = {
    JobState.PENDING: "queued",
    JobState.PAUSED: "paused",
    JobState.DONE: "done",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
}


class Keeping(Steering):
    """The jobs as those left them who are not there any more. Raises `StorageError`."""

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        wall_s: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(state_dir, entropy=entropy, wall_s=wall_s, sleep=sleep)
        self._swept = False
        #: Since these histories were last cut.
        self._came: Counter[JobState] = Counter()

    # ------------------------------------------------------------ whose process died

    def recover(self) -> None:
        """Return the jobs of workers that died to the queue, or fail those that kill workers."""
        for name in self._names(JobState.RUNNING):
            self._recover_if_left(name)

    def _recover_if_left(self, name: str) -> None:
        fd = self._lock(JobState.RUNNING, name)
        if fd is None:
            return
        try:
            if self._settle(JobState.RUNNING, name):
                self._recover_one(name)
        finally:
            close(fd)

    def _recover_one(self, name: str) -> None:
        job = self.read(JobState.RUNNING, name)
        if job is None:
            return
        lost = job.lost + 1
        if job.foreground:
            job = replace(leave_paused(job, Reason.INTERRUPTED), lost=lost)
        else:
            job = replace(
                job,
                attempts=job.attempts + 1,
                lost=lost,
                error_code="worker_died",
                error_message="the process that worked on it ended",
                reason="",
                changed_by="",
                state=JobState.FAILED if lost >= MAX_ATTEMPTS_LOST else JobState.PENDING,
                ended_ms=self.now_ms() if lost >= MAX_ATTEMPTS_LOST else 0,
            )
        self._leave(JobState.RUNNING, self._heeding(job))

    def _heeding(self, job: Job) -> Job:
        """The job as those want it who left a wish about it that nobody has fulfilled."""
        for wish in self.control.wishes_of(job.job_id):
            if wish.want == "priority" and priority_word(wish.priority) == wish.priority:
                if job.priority != wish.priority:
                    job = with_priority(job, wish.priority)
            elif wish.want == "cancel" and job.state is not JobState.CANCELLED:
                if wish.drop:
                    with suppress(StorageError):  # it can be cancelled with --drop once more
                        drop_staging(job)
                job = leave_cancelled(job, wish.by, self.now_ms())
            elif wish.want == "pause" and not job.state.ended:
                job = leave_paused(job, Reason.BY_OPERATOR, wish.by)
        return job

    def _leave(self, old: JobState, job: Job, *, durable: bool = True) -> Job:
        """Let `job` appear in its state, and be as those want it who left a wish until then.

        Who leaves one looks again whether the job is still in `running`, and acts himself if not.
        """
        fd, job = self._renew(old, job, durable=durable)
        try:
            wanted = self._heeding(job) if not job.state.ended else job
            if wanted != job:
                new_fd, job = self._renew(job.state, wanted)
                close(fd)
                fd = new_fd
            self.control.take(job.job_id)
        finally:
            close(fd)
        self._tell(_TOLD[job.state], job, by=job.changed_by, durable=durable)
        return job

    # ------------------------------------------------------------ bounds

    def _sweep(self) -> None:
        """Once a process: what others that were killed left behind."""
        if self._swept:
            return
        self._swept = True
        self._remove_debris()
        open_ = {*self._names(JobState.RUNNING), *self._names(JobState.PENDING)}
        self.control.sweep(lambda job_id: job_id + SUFFIX not in open_)
        for state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.PAUSED):
            self._came[state] = MAX_FAILED
            self._prune(state)

    def _prune(self, state: JobState) -> None:
        """Forget those that came there first, beyond the bound of that state."""
        bounds = {
            JobState.DONE: MAX_DONE,
            JobState.FAILED: MAX_FAILED,
            JobState.CANCELLED: MAX_CANCELLED,
            JobState.PAUSED: MAX_PAUSED,
        }
        most = bounds[state]
        # to list thousands for each that ends takes longer than all else
        self._came[state] += 1
        if self._came[state] < most // _SLACK_PART:
            return
        self._came[state] = 0
        names = self._names(state)
        if len(names) <= most + most // _SLACK_PART:
            return
        if state is JobState.PAUSED:
            names = [name for name in names if self._is_left(name)]
        came: list[tuple[int, str]] = []
        with storage_errors("stat", os.path.join(self.path, state)):
            for name in names:
                status = lstat_at(self._fds[state], name)
                if status is not None:
                    came.append((status.st_mtime_ns, name))
        for _, name in sorted(came)[:-most]:
            self._remove(state, name)

    def _is_left(self, name: str) -> bool:
        """Nobody has paused it: a program began it, and may never come back to it."""
        job = self.read(JobState.PAUSED, name)
        return job is None or (job.foreground and job.reason == Reason.INTERRUPTED)
