"""What progress means to a person: a state, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chunkq.protocol.condition import Reason, State
from chunkq.protocol.transfer_events import Waiting
from chunkq.runtime.judging import STALL_S, judge
from chunkq.runtime.progress import LaneProgress, Observation, Progress

LANE = LaneProgress(peer="beta", new_bytes=0, window_chunks=8, in_flight=3, rtt_s=0.1, silent=False)
RUNNING = Observation(
    id="one",
    progress=Progress(source="beta:docs/a", peer="beta", phase="running"),
    lanes=(LANE,),
)
LONG = STALL_S + 60


def phased(phase: str, **fields: object) -> Observation:
    return replace(RUNNING, progress=replace(RUNNING.progress, phase=phase), **fields)


def waiting(word: str, phase: str = "running") -> Observation:
    progress = replace(RUNNING.progress, phase=phase, waiting=Waiting(word, "so it is"))
    return replace(RUNNING, progress=progress)


@pytest.mark.parametrize(
    ("seen", "quiet_s", "state", "reason"),
    [
        pytest.param(RUNNING, 0, State.RUNNING, None, id="moves"),
        pytest.param(RUNNING, LONG, State.RUNNING, None, id="a-long-round-trip-is-no-stall"),
        pytest.param(phased("opening"), 0, State.OPENING, None, id="opens"),
        pytest.param(phased("recovering"), 0, State.RECOVERING, None, id="recovers"),
        pytest.param(phased("verifying"), LONG, State.VERIFYING, None, id="reads-back"),
        pytest.param(phased("publishing"), LONG, State.PUBLISHING, None, id="publishes"),
        pytest.param(phased("done"), LONG, State.DONE, None, id="is-done"),
        pytest.param(phased("stopped"), 0, State.PAUSED, Reason.INTERRUPTED, id="was-stopped"),
        pytest.param(
            phased("failed", error="NotFound"), 0, State.FAILED, Reason.NOT_FOUND, id="failed"
        ),
        pytest.param(
            replace(waiting("queued", "opening"), queued=True),
            LONG,
            State.QUEUED,
            Reason.WAITING_TURN,
            id="has-no-turn",
        ),
        pytest.param(waiting("busy"), 0, State.RUNNING, Reason.BUSY, id="busy-for-a-moment"),
        pytest.param(waiting("busy"), LONG, State.STALLED, Reason.BUSY, id="busy"),
        pytest.param(waiting("disk_full"), LONG, State.STALLED, Reason.DISK_FULL, id="disk"),
        pytest.param(
            waiting("broker_unreachable", "opening"),
            LONG,
            State.STALLED,
            Reason.BROKER_UNREACHABLE,
            id="no-broker-from-the-start",
        ),
        pytest.param(
            waiting("preparing", "opening"),
            LONG,
            State.OPENING,
            Reason.PREPARING,
            id="the-peer-is-at-work",
        ),
        pytest.param(
            replace(RUNNING, lanes=(replace(LANE, silent=True),)),
            LONG,
            State.STALLED,
            Reason.PEER_SILENT,
            id="overdue",
        ),
        pytest.param(
            replace(RUNNING, lanes=(replace(LANE, silent=True), LANE)),
            LONG,
            State.RUNNING,
            None,
            id="another-origin-is-not-overdue",
        ),
        pytest.param(
            replace(RUNNING, lanes=(replace(LANE, in_flight=0),), starved=True),
            LONG,
            State.STALLED,
            Reason.NO_CREDIT,
            id="others-have-the-window",
        ),
    ],
)
def test_a_state_and_its_reason(
    seen: Observation, quiet_s: float, state: State, reason: Reason | None
) -> None:
    """Only what does not move for a while, and says why or is overdue, is stalled."""
    assert (state, reason) == judge(seen, quiet_s)[:2]


def test_the_sentence_is_that_of_the_transfer() -> None:
    """It names hosts and times that the word alone does not."""
    assert "so it is" == judge(waiting("broker_blocked"), LONG)[2]
