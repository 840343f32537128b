"""A transfer as a row of a list: its cells, from what the site knows of it."""

from __future__ import annotations

from collections.abc import Sequence

from chunkq.api.views import TransferRow
from chunkq.dashboard import drawing, remedies, wording
from chunkq.dashboard.addresses import transfer_path, transfers_path
from chunkq.dashboard.live import Cells, Value
from chunkq.protocol.condition import State


def transfer_cells(row: TransferRow, now_ms: int, pieces: Sequence[str] = ()) -> Cells:
    """All cells of the lists of transfers and of the history. `pieces`: the cells of its bar."""
    return {
        **state_cells(row),
        **_identity(row),
        **done_cells(row, pieces),
        **buttons(row),
        "rate": wording.rate(row.rate_bytes_per_s),
        "eta": wording.duration(row.eta_s) if row.eta_s is not None else wording.NONE,
        "age": {
            "text": wording.since(row.created_ms, now_ms),
            "title": wording.moment(row.created_ms),
        },
        "progress": {
            "text": wording.since(row.progress_ms, now_ms),
            "title": wording.moment(row.progress_ms),
        },
        "ended": wording.moment(row.ended_ms),
        "retries": str(row.retries) if row.retries else wording.NONE,
        "priority": {"text": row.priority, "data-tone": row.priority},
    }


def state_cells(row: TransferRow) -> dict[str, Value]:
    """State, reason and what to do, in words and as an icon."""
    tone = wording.TONES[row.state]
    reason = wording.plain(row.reason) if row.reason else ""
    stuck = remedies.stuck(row)
    advice = wording.prose(row.advice)
    return {
        "row": {"data-tone": tone},
        "icon": {"href": f"#i-{tone}"},
        "state": row.state.value,
        "reason": {"text": reason, "title": advice, "hidden": not reason},
        "detail": {"text": wording.shown(row.detail), "hidden": not row.detail or not stuck},
        "advice": {"text": advice, "title": advice, "hidden": not advice or not stuck},
        "where": {"hidden": stuck and bool(advice)},
    }


def _identity(row: TransferRow) -> dict[str, Value]:
    name = wording.shown(row.name) or row.id
    source = wording.shown(" ".join(row.sources))
    return {
        "pick": {"value": row.id, "aria-label": f"Select {name}"},
        "name": {"text": name, "href": transfer_path(row.id), "title": source},
        "to": {"text": wording.shown(row.destination), "title": wording.shown(row.destination)},
        "peer": {"text": row.peer, "href": transfers_path(peer=row.peer)},
        "files": {
            "text": f"{wording.count(row.files_done)} of {wording.count(row.files_total)} files",
            "hidden": not (row.tree and row.files_total),
        },
    }


def done_cells(row: TransferRow, pieces: Sequence[str]) -> dict[str, Value]:
    """How much of it is there: figures and a bar."""
    known = row.size_bytes is not None
    done = row.size_bytes if row.state is State.DONE and known else row.done_bytes
    percent = min(100, row.percent)
    bar = drawing.piece_bar(pieces) if pieces else {"have": drawing.bar(percent)}
    return {
        "size": wording.size(row.size_bytes),
        "done": wording.size(done),
        "percent": f"{percent} %" if known or row.state is State.DONE else wording.NONE,
        "bar": {"d": bar["have"]},
        "bar-part": {"d": bar.get("part", "")},
        "bar-flight": {"d": bar.get("in_flight", "")},
        "chunks": {
            "text": f"{wording.count(row.chunks_present)} of {wording.count(row.chunks_total)}",
            "hidden": not row.chunks_total,
        },
    }


def buttons(row: TransferRow) -> dict[str, Value]:
    """Which of the row's buttons are there, and what they say to a reader of the screen."""
    able = remedies.can(row)
    name = wording.shown(row.name) or row.id
    cells: dict[str, Value] = {
        f"do-{verb}": {
            "value": f"{verb} {row.id}",
            "hidden": verb not in able,
            "aria-label": f"{label} {name}",
        }
        for verb, label in VERBS.items()
    }
    cells["more"] = {"hidden": not able - {"pause", "resume", "retry"}}
    return cells


#: What can be done to transfers, as their buttons say it.
VERBS = {
    "pause": "Pause",
    "resume": "Resume",
    "retry": "Retry",
    "cancel": "Cancel, keep what came",
    "drop": "Cancel, drop what came",
    "urgent": "Priority urgent",
    "normal": "Priority normal",
    "bulk": "Priority bulk",
}
