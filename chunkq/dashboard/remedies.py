"""What can be done about a transfer, and about a reason, from the page itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from chunkq.api.views import TransferRow
from chunkq.protocol.condition import Reason, State

#: Found in staging, without a job: the command that began it goes on with it, the page cannot.
_STAGED: Final = "staged-"
_UNDER_WAY: Final = frozenset(
    {
        State.QUEUED,
        State.OPENING,
        State.RUNNING,
        State.STALLED,
        State.RECOVERING,
        State.VERIFYING,
        State.PUBLISHING,
    }
)
#: States that a person has to look at, where they have a reason of another kind than `_GOES_ON`.
_STUCK_STATES: Final = frozenset({State.STALLED, State.FAILED, State.QUEUED, State.PAUSED})
#: Reasons that pass by themselves or that somebody chose.
_GOES_ON: Final = frozenset({Reason.WAITING_TURN, Reason.BY_OPERATOR, Reason.NO_CREDIT})
#: Trying at once is worth it: the cause may have been mended, and nothing says so by itself.
_WORTH_RETRYING: Final = frozenset(Reason) - {
    Reason.DESTINATION_EXISTS,
    Reason.DESTINATION_UNUSABLE,
    Reason.MISTAKEN,
    Reason.UNSUPPORTED,
}


@dataclass(frozen=True, slots=True)
class Remedy:
    """A button: what it does (`verb target`, as `actions` reads it) and its words."""

    do: str
    label: str


def steerable(row: TransferRow) -> bool:
    """Whether it has a job that can be told something."""
    return not row.id.startswith(_STAGED)


def can(row: TransferRow) -> frozenset[str]:
    """The verbs that mean something to a transfer in its state."""
    if not steerable(row):
        return frozenset() if row.instance else frozenset({"drop"})
    if row.state in _UNDER_WAY:
        able = {"pause", "cancel", "drop", "urgent", "normal", "bulk"} - {row.priority}
        # one that waits before its next try may be tried at once
        return frozenset(able | {"retry"} if row.retries and not row.instance else able)
    if row.state is State.PAUSED:
        return frozenset({"resume", "cancel", "drop"})
    if row.state is State.FAILED:
        return frozenset({"retry", "cancel", "drop"})
    return frozenset({"retry", "drop"}) if row.state is State.CANCELLED else frozenset()


def stuck(row: TransferRow) -> bool:
    """Whether it stands, and not because it waits for its turn or somebody wanted it so."""
    if row.state not in _STUCK_STATES:
        return False
    return row.reason not in _GOES_ON if row.reason else row.state is not State.QUEUED


def for_reason(
    state: State, reason: Reason | None, peer: str, link: str = ""
) -> tuple[Remedy, ...]:
    """What to offer to a group of transfers that stand for one reason, best first."""
    offered: list[Remedy] = []
    if reason is Reason.PEER_FROZEN and peer:
        offered.append(Remedy(f"thaw-peer {peer}", f"Thaw {peer}"))
    if reason is Reason.LINK_FROZEN and link:
        offered.append(Remedy(f"thaw-link {link}", f"Thaw link {link}"))
    if state is State.FAILED and reason in _WORTH_RETRYING:
        offered.append(Remedy("retry", "Retry"))
    if state is State.PAUSED:
        offered.append(Remedy("resume", "Resume"))
    if state in _UNDER_WAY:
        offered.append(Remedy("pause", "Pause"))
    return tuple(offered)


#: What only a command can do, to be copied; `{peer}` and `{link}` are filled in.
_COMMANDS: Final = {
    Reason.BROKER_UNREACHABLE: "chunkq doctor",
    Reason.BROKER_REFUSED: "chunkq doctor",
    Reason.SPOOL_UNAVAILABLE: "chunkq doctor",
    Reason.CLOCK_SKEW: "chunkq doctor",
    Reason.PEER_SILENT: "chunkq serve",
    Reason.NO_WORKER: "chunkq work",
}


def command_for(reason: Reason | None) -> str:
    """The command line that mends it or says more; empty if there is none."""
    return _COMMANDS.get(reason, "") if reason else ""
