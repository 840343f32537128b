"""What a transfer's progress means to a person: its state, and why it is in it."""

from __future__ import annotations

from typing import Final

from chunkq.protocol.condition import Reason, State, reason_of_error, reason_of_waiting
from chunkq.runtime.progress import Observation

#: So long nothing has come: some round trips of most links, and soon enough for who looks on.
STALL_S: Final = 3.0

Judgement = tuple[State, Reason | None, str]

_PHASES: Final = {
    "opening": State.OPENING,
    "running": State.RUNNING,
    "recovering": State.RECOVERING,
    "verifying": State.VERIFYING,
    "publishing": State.PUBLISHING,
    "done": State.DONE,
    "failed": State.FAILED,
    "stopped": State.PAUSED,
}
#: What needs the peer: only there can it be the peer, or the way to it, that holds it up.
_ASKS: Final = (State.OPENING, State.RUNNING, State.RECOVERING)


def judge(seen: Observation, quiet_s: float) -> Judgement:
    """State, reason and a sentence. `quiet_s`: for how long nothing has come.

    A peer that prepares the file is at work, so that is no stall.
    """
    state = _PHASES.get(seen.progress.phase, State.RUNNING)
    waiting = seen.progress.waiting
    if state is State.FAILED:
        return state, reason_of_error(seen.error), ""
    if state is State.PAUSED:
        return state, Reason.INTERRUPTED, ""
    if seen.queued:
        return State.QUEUED, Reason.WAITING_TURN, waiting.detail if waiting else ""
    if state is State.DONE:
        return state, None, ""
    if waiting is not None:
        reason = reason_of_waiting(waiting.reason)
        if reason is Reason.PREPARING:
            return state, reason, waiting.detail
        if quiet_s >= STALL_S:
            return State.STALLED, reason, waiting.detail
        return state, reason, waiting.detail
    if state in _ASKS and quiet_s >= STALL_S:
        return _judge_silence(seen, state, quiet_s)
    return state, None, ""


def _judge_silence(seen: Observation, state: State, quiet_s: float) -> Judgement:
    """Nothing has come, and the transfer itself does not say why."""
    if seen.lanes and all(lane.silent for lane in seen.lanes):
        detail = f"what was asked for is overdue; nothing has come for {quiet_s:.0f} s"
        return State.STALLED, Reason.PEER_SILENT, detail
    if seen.starved and not any(lane.in_flight for lane in seen.lanes):
        return State.STALLED, Reason.NO_CREDIT, "others have all that may be on the way"
    return state, None, ""
