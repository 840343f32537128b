"""What people do with jobs: pause, resume, cancel, retry, give another priority.

A job that nobody has in hand changes at once; for one that a process has, the wish is left in
`control`, and the process that has it, or the next one that claims it, fulfils it. All of it may be
done again: what is so already stays as it is.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from chunkq.errors import NotFound, StorageError, UsageError
from chunkq.protocol.condition import Reason
from chunkq.protocol.priority import priority_word
from chunkq.storage.closing import close
from chunkq.storage.control import Control, Want, Wish
from chunkq.storage.dropping import drop_staging
from chunkq.storage.job import SUFFIX, Job, JobState
from chunkq.storage.jobfiles import JobFiles
from chunkq.storage.journal import Event, Journal, What

#: A job whose state another process changes this moment is looked at again after so long, so often:
#: a second in all.
_AGAIN_S: Final = 0.02
_MAX_LOOKS: Final = 50

#: From where a job gets where by which word; what is not here is refused.
_WAITING: Final = frozenset({JobState.PENDING, JobState.PAUSED})


class Steering(JobFiles, ABC):
    """The jobs as operators have them. Raises `NotFound`, `StorageError`."""

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        *,
        entropy: Callable[[int], bytes] = os.urandom,
        wall_s: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(state_dir, entropy=entropy, wall_s=wall_s)
        self.control = Control(state_dir, wall_s=wall_s)
        self.journal = Journal(state_dir)
        self._sleep = sleep

    def close(self) -> None:
        super().close()
        self.control.close()

    def pause(self, job_id: str, by: str) -> Job:
        """Let it rest, with all that has come, until somebody resumes it."""

        def paused(job: Job) -> Job:
            if job.state is JobState.PAUSED:
                return job
            if job.state is not JobState.PENDING:
                raise _refusal(job, "nothing is left to pause", _RETRY_HINT[job.state])
            return leave_paused(job, Reason.BY_OPERATOR, by)

        return self._steer(job_id, paused, "paused", "pause", by)

    def resume(self, job_id: str, by: str) -> Job:
        """Let a worker go on with it; one that is not paused stays as it is."""

        def resumed(job: Job) -> Job:
            if job.state is JobState.PENDING:
                return job
            if job.state is not JobState.PAUSED:
                raise _refusal(job, "it is not paused", _RETRY_HINT[job.state])
            return _anew(job, by)

        self.control.take(job_id, "pause")
        return self._steer(job_id, resumed, "resumed", None, by)

    def cancel(self, job_id: str, by: str, drop: bool = False) -> Job:
        """Give it up. What has come stays for a later retry; `drop`: it goes."""

        def cancelled(job: Job) -> Job:
            if job.state is JobState.DONE:
                raise _refusal(job, "there is nothing to cancel")
            if job.state is JobState.CANCELLED:
                return job
            return leave_cancelled(job, by, self.now_ms())

        job = self._steer(job_id, cancelled, "cancelled", "cancel", by, drop=drop)
        if drop and job.state is JobState.CANCELLED:
            drop_staging(job)
        return job

    def retry(self, job_id: str, by: str = "") -> Job:
        """Let a worker try it again, as if it were new; one that waits for its turn: now."""

        def renewed(job: Job) -> Job:
            if job.state is JobState.DONE:
                raise _refusal(job, "there is nothing to retry", "chunkq get fetches it anew")
            if job.state is JobState.PENDING and not job.attempts:
                return job
            return _anew(job, by)

        self.control.take(job_id, "pause", "cancel")
        return self._steer(job_id, renewed, "retried", None, by)

    def set_priority(self, job_id: str, word: str, by: str) -> Job:
        """`urgent`, `normal` or `bulk`."""
        if priority_word(word) != word:
            raise UsageError(f"{word[:80]!a} is no priority", hint="urgent, normal or bulk")

        def changed(job: Job) -> Job:
            if job.state in (JobState.DONE, JobState.CANCELLED):
                raise _refusal(job, "no priority helps it")
            return job if job.priority == word else with_priority(job, word)

        return self._steer(job_id, changed, "priority", "priority", by, priority=word)

    # ------------------------------------------------------------ the ways there

    def _steer(
        self,
        job_id: str,
        change: Callable[[Job], Job],
        what: What,
        want: Want | None,
        by: str,
        *,
        drop: bool = False,
        priority: str = "",
    ) -> Job:
        """Change a job that nobody has in hand, or leave the wish about one that somebody has.

        `what` happens then. `want`: None if there is nothing to wish of a process that has it.
        """
        for _ in range(_MAX_LOOKS):
            job = self.find(job_id)
            if job is None:
                raise NotFound(f"there is no transfer {job_id[:80]!a}", hint="chunkq status")
            fd = self._lock(job.state, job_id + SUFFIX)
            if fd is not None:
                try:
                    changed = self._change(job.state, job_id + SUFFIX, change)
                finally:
                    close(fd)
                if changed is None:
                    self._sleep(_AGAIN_S)
                    continue
                if changed.revision != job.revision:
                    self._tell(what, changed, by=by, detail=priority)
                if want is not None:
                    self.control.take(job_id, want)
                return changed
            if job.state is JobState.RUNNING:
                if want is None:
                    return job
                wish = Wish(
                    job_id=job_id,
                    want=want,
                    priority=priority,
                    drop=drop,
                    by=by,
                    at_ms=self.now_ms(),
                )
                self.control.wish(wish)
                # it may have been let go of meanwhile, by a process that had not seen the wish
                again = self.find(job_id)
                if again is not None and again.state is JobState.RUNNING:
                    return job
                continue
            self._sleep(_AGAIN_S)
        raise StorageError(f"transfer {job_id} changes its state all the time", hint="try again")

    def _change(self, state: JobState, name: str, change: Callable[[Job], Job]) -> Job | None:
        """Change the copy that we have locked; None if it is another by now, or an orphan's."""
        if not self._settle(state, name):
            return None
        if state is JobState.RUNNING:
            self._recover_one(name)
            return None
        job = self.read(state, name)
        if job is None:
            return None
        changed = change(job)
        return job if changed == job else self._replace(state, changed)

    @abstractmethod
    def _recover_one(self, name: str) -> None:
        """Bring a job out of `running` that we have locked there: its process died."""

    def _tell(
        self, what: What, job: Job, *, by: str = "", detail: str = "", durable: bool = True
    ) -> None:
        """A line of the journal."""
        event = Event(
            at_ms=self.now_ms(),
            what=what,
            transfer=job.job_id,
            by=by,
            reason=job.why or "",
            detail=detail or job.error_message,
            subject=" ".join(job.sources),
        )
        self.journal.add(event, durable=durable)

    def now_ms(self) -> int:
        """The time of day."""
        return int(self._wall_s() * 1000)


_RETRY_HINT: Final = {
    JobState.FAILED: "chunkq retry",
    JobState.CANCELLED: "chunkq retry",
    JobState.DONE: None,
    JobState.PENDING: None,
    JobState.PAUSED: None,
    JobState.RUNNING: None,
}


def leave_paused(job: Job, reason: Reason, by: str = "") -> Job:
    """The job as it rests."""
    return replace(
        job,
        state=JobState.PAUSED,
        reason=reason,
        changed_by=by,
        error_code="",
        error_message="",
        lost=0,
    )


def leave_cancelled(job: Job, by: str, now_ms: int) -> Job:
    """The job as somebody gave it up."""
    return replace(
        leave_paused(job, Reason.BY_OPERATOR, by), state=JobState.CANCELLED, ended_ms=now_ms
    )


def with_priority(job: Job, word: str) -> Job:
    return replace(job, options={**job.options, "priority": word})


def _anew(job: Job, by: str) -> Job:
    """As if it were new, for any worker."""
    return replace(
        job,
        state=JobState.PENDING,
        attempts=0,
        lost=0,
        error_code="",
        error_message="",
        reason="",
        changed_by=by,
        ended_ms=0,
        foreground=False,
    )


def _refusal(job: Job, why: str, hint: str | None = None) -> StorageError:
    word = "waiting" if job.state in _WAITING else str(job.state)
    return StorageError(f"transfer {job.job_id} is {word}: {why}", hint=hint)
