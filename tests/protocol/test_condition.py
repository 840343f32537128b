"""States and reasons: closed sets, each with something to do about it."""

from __future__ import annotations

import pytest

from chunkq import errors
from chunkq.errors import ChunkqError, PacketError
from chunkq.protocol.condition import Reason, State, reason_of_error, reason_of_waiting
from chunkq.protocol.messages import RefusalReason


def every_error() -> list[type[ChunkqError]]:
    """All errors but those of packets, which end no transfer."""
    found = [each for each in vars(errors).values() if isinstance(each, type)]
    ours = [each for each in found if issubclass(each, ChunkqError)]
    abstract = {ChunkqError, errors.TransportError, errors.StatementInvalid}
    return [each for each in ours if not issubclass(each, PacketError) and each not in abstract]


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_says_what_to_do(reason: Reason) -> None:
    """The advice is a sentence."""
    assert reason.advice.endswith(".")
    assert len(reason.advice) > 20


@pytest.mark.parametrize("error", every_error())
def test_every_error_has_a_reason(error: type[ChunkqError]) -> None:
    """None of ours is told as a defect of chunkq."""
    assert reason_of_error(error.__name__) is not Reason.INTERNAL


@pytest.mark.parametrize(
    "word",
    [*RefusalReason, "broker_unreachable", "broker_blocked", "spool_unavailable", "queued"],
)
def test_every_wait_has_a_reason(word: str) -> None:
    """What refusals and carriers say is in the set."""
    assert reason_of_waiting(word) is not Reason.INTERNAL


def test_what_is_not_known_is_a_defect() -> None:
    """A word that nobody has thought of is told, not raised."""
    assert reason_of_error("ZeroDivisionError") is Reason.INTERNAL
    assert reason_of_waiting("moon_phase") is Reason.INTERNAL


def test_three_states_are_ends() -> None:
    """From them only a person leads on."""
    assert [state for state in State if state.ended] == [
        State.DONE,
        State.FAILED,
        State.CANCELLED,
    ]
