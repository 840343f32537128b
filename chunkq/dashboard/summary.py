"""The strip on top: what moves, what is stuck and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from chunkq.api.views import TransferRow
from chunkq.dashboard import remedies, wording
from chunkq.dashboard.addresses import transfers_path
from chunkq.dashboard.live import Cells, Value
from chunkq.protocol.condition import Reason, State

#: More than these would push the list off the screen; the rest is counted in one line.
MAX_GROUPS: Final = 6
#: States as the strip counts them, in the order of what an operator wants to know.
_COUNTED: Final = (
    State.STALLED,
    State.FAILED,
    State.RUNNING,
    State.OPENING,
    State.RECOVERING,
    State.VERIFYING,
    State.PUBLISHING,
    State.QUEUED,
    State.PAUSED,
    State.DONE,
    State.CANCELLED,
)
#: Buttons that a group may have, by their verbs; others are named by what they thaw.
_VERBS: Final = ("retry", "resume", "pause")
_MOVING: Final = frozenset(
    {State.OPENING, State.RUNNING, State.RECOVERING, State.VERIFYING, State.PUBLISHING}
)


#: Of these no peer is the cause: transfers from all peers stand together.
_OF_THIS_SITE: Final = frozenset(
    {
        Reason.NO_WORKER,
        Reason.WORKER_DIED,
        Reason.DISK_FULL,
        Reason.DISK_ERROR,
        Reason.DESTINATION_EXISTS,
        Reason.DESTINATION_UNUSABLE,
        Reason.IN_USE,
        Reason.INTERRUPTED,
        Reason.INTERNAL,
    }
)


@dataclass(frozen=True, slots=True)
class Group:
    """Transfers that stand in one state for one reason at one peer."""

    state: State
    reason: Reason | None
    peer: str
    count: int


def groups_of(rows: Iterable[TransferRow]) -> list[Group]:
    """Those that are stuck, the largest group first."""
    counts = Counter(
        (row.state, row.reason, "" if row.reason in _OF_THIS_SITE else row.peer)
        for row in rows
        if remedies.stuck(row)
    )
    return [Group(*key, count) for key, count in counts.most_common()]


def count_cells(counts: Mapping[State, int]) -> dict[str, Value]:
    """One value a state, for the chips; `moving` and `title` for the headline and the tab."""
    cells: dict[str, Value] = {
        f"count-{state}": wording.count(counts.get(state, 0)) for state in _COUNTED
    }
    for state in _COUNTED:
        cells[f"chip-{state}"] = {"hidden": not counts.get(state, 0)}
    moving = sum(counts.get(state, 0) for state in _MOVING)
    cells["moving"] = wording.count(moving)
    return cells


def chips() -> list[tuple[str, str, str]]:
    """State, tone and address of each chip."""
    return [
        (state.value, wording.TONES[state], transfers_path(state=state.value)) for state in _COUNTED
    ]


def group_cells(groups: list[Group], links: Mapping[str, str]) -> dict[str, Cells]:
    """The rows of the strip, by a key that stays while the group is there. `links`: of peers."""
    return {
        f"{group.state}:{group.reason or ''}:{group.peer}": _cells(group, links.get(group.peer, ""))
        for group in groups[:MAX_GROUPS]
    }


def _cells(group: Group, link: str) -> Cells:
    tone = "stalled" if group.state is State.QUEUED else wording.TONES[group.state]
    reason = wording.plain(group.reason) if group.reason else "no reason given"
    where = transfers_path(state=group.state, reason=group.reason or "", peer=group.peer)
    offered = remedies.for_reason(group.state, group.reason, group.peer, link)
    by_verb = {each.do: each for each in offered}
    thaw = next((each for each in offered if each.do.startswith("thaw-")), None)
    command = remedies.command_for(group.reason)
    what = f"{wording.count(group.count)} {group.state}"
    cells: dict[str, Value] = {
        "row": {"data-tone": tone},
        "icon": {"href": f"#i-{tone}"},
        "what": {"text": what, "href": where},
        "why": f"{reason} at {group.peer}" if group.peer else reason,
        "advice": wording.prose(group.reason.advice) if group.reason else "",
        "where": {"value": where.partition("?")[2]},
        "thaw": {
            "value": thaw.do if thaw else "",
            "text": thaw.label if thaw else "",
            "hidden": thaw is None,
        },
        "command": {"text": command, "hidden": not command},
    }
    for verb in _VERBS:
        cells[f"do-{verb}"] = {
            "hidden": verb not in by_verb,
            "aria-label": f"{verb.capitalize()} all {what}: {reason}",
        }
    return cells
