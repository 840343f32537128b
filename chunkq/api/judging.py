"""In what state a transfer is and why, from all that is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

from chunkq.api.processes import Process
from chunkq.protocol.condition import Reason, State
from chunkq.protocol.report import TransferReport
from chunkq.protocol.transfer_events import Phase
from chunkq.storage.job import JobState
from chunkq.storage.jobindex import SeenJob
from chunkq.storage.transfers import TransferSummary

#: What was locked after the table of locks was read seems to be nobody's for a moment.
JUST_NOW_MS: Final = 3_000

_OF_JOBS: Final = {
    JobState.PAUSED: State.PAUSED,
    JobState.CANCELLED: State.CANCELLED,
    JobState.FAILED: State.FAILED,
}
_OF_PHASES: Final = {
    Phase.OPENING: State.OPENING,
    Phase.RUNNING: State.RUNNING,
    Phase.RECOVERING: State.RECOVERING,
    Phase.VERIFYING: State.VERIFYING,
    Phase.PUBLISHING: State.PUBLISHING,
}


class Judgement(NamedTuple):
    state: State
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What a process says of a transfer. `fresh`: it is there now."""

    transfer: TransferReport
    process: Process
    fresh: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What holds for all transfers at one moment.

    `workers`: a requester worker is there and takes jobs. `held_up`: peers of whom nothing is
    begun, and why.
    """

    now_ms: int = 0
    workers: bool = False
    held_up: Mapping[str, tuple[Reason, str]] = field(default_factory=dict)


def judge(
    seen: SeenJob,
    staged: TransferSummary | None,
    said: Said | None,
    locked: bool,
    around: Around,
) -> Judgement:
    """Of a job. `locked`: a process has it in hand."""
    found = _judge(seen, staged, said, locked, around)
    if staged is None or not staged.problem or locked or found.state.ended:
        return found
    return found._replace(detail="; ".join(filter(None, (found.detail, _damage(staged)))))


def _judge(
    seen: SeenJob,
    staged: TransferSummary | None,
    said: Said | None,
    locked: bool,
    around: Around,
) -> Judgement:
    job = seen.job
    if job.state is JobState.RUNNING:
        return _running(seen, staged, said, locked, around)
    if job.state is JobState.PENDING:
        return _pending(seen, around)
    if job.state is JobState.DONE:
        return Judgement(State.DONE)
    detail = job.error_message or (f"by {job.changed_by}" if job.changed_by else "")
    return Judgement(_OF_JOBS[job.state], job.why or Reason.BY_OPERATOR, detail)


def _running(
    seen: SeenJob,
    staged: TransferSummary | None,
    said: Said | None,
    locked: bool,
    around: Around,
) -> Judgement:
    if said is not None and said.fresh:
        return Judgement(said.transfer.state, said.transfer.reason, said.transfer.detail)
    if locked or _just_now(seen.changed_ms, around):
        if said is None:
            return Judgement(_phase(staged))
        since = _clock(said.process.heard_ms)
        who = f"{said.process.report.role}, process {said.process.report.pid}"
        return Judgement(State.STALLED, Reason.WORKER_SILENT, f"{who}: nothing since {since}")
    if seen.job.foreground:
        return Judgement(State.PAUSED, Reason.INTERRUPTED, "the process that got it ended")
    reason = Reason.WORKER_DIED if around.workers else Reason.NO_WORKER
    return Judgement(State.QUEUED, reason, "the process that worked on it ended")


def _pending(seen: SeenJob, around: Around) -> Judgement:
    job = seen.job
    if job.peer in around.held_up:
        return Judgement(State.QUEUED, *around.held_up[job.peer])
    last = ""
    if job.error_code:
        times = "once" if job.attempts == 1 else f"{job.attempts} times"
        last = f"tried {times}, last: {job.error_message}"
    if not around.workers:
        return Judgement(State.QUEUED, Reason.NO_WORKER, last)
    return Judgement(State.QUEUED, job.why, last)


def judge_staged(staged: TransferSummary, around: Around) -> Judgement:
    """Of what was found in staging and is no job's."""
    if staged.locked or _just_now(staged.modified_ms, around):
        return Judgement(_phase(staged))
    if staged.problem:
        return Judgement(State.PAUSED, Reason.DISK_ERROR, _damage(staged))
    return Judgement(State.PAUSED, Reason.INTERRUPTED)


def _damage(staged: TransferSummary) -> str:
    return f"{staged.problem}; the next run reads again what has come"


def _phase(staged: TransferSummary | None) -> State:
    """By the state file; what is published or failed was put there a moment ago."""
    if staged is None or staged.phase is None:
        return State.OPENING
    return _OF_PHASES.get(Phase(staged.phase), State.RUNNING)


def _just_now(at_ms: int, around: Around) -> bool:
    return abs(around.now_ms - at_ms) < JUST_NOW_MS


def _clock(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%H:%M:%S UTC")
