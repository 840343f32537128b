"""Transfers as lines for a terminal of 80 columns, and as fields for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from chunkq.cli.console import clean
from chunkq.cli.progress import size_text, time_text

if TYPE_CHECKING:
    from chunkq.api.views import TransferRow, TransferView, WorkerView
    from chunkq.storage.journal import Event

HEADINGS: Final = ("ID", "STATE", "REASON", "DONE", "RATE", "ETA", "NAME")
#: Cells of the piece map on a line.
_MAP_COLUMNS: Final = 76
_MARKS: Final = {"have": "#", "part": "+", "in_flight": "~", "missing": ".", "failed": "!"}


def short_id(row_id: str) -> str:
    """What commands take for the whole id, unless two are alike."""
    before, _, after = row_id.partition("-")
    return after[:8] if before.isdecimal() or before == "staged" else row_id


def cells_of(row: TransferRow) -> tuple[str, ...]:
    """As `HEADINGS` says."""
    return (
        short_id(row.id),
        str(row.state),
        str(row.reason or "-"),
        f"{row.percent}%" if row.size_bytes is not None else "-",
        f"{size_text(row.rate_bytes_per_s)}/s" if row.rate_bytes_per_s else "-",
        time_text(row.eta_s) if row.eta_s is not None else "-",
        clean(f"{row.peer}:{row.name}" + ("/" if row.tree else "")),
    )


def lines_of(rows: Sequence[TransferRow]) -> Iterator[str]:
    """A table; below a row what is to be said of it."""
    cells = [cells_of(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(HEADINGS, *cells, strict=True)]
    yield "  ".join(map(str.ljust, HEADINGS, widths)).rstrip()
    for row, line in zip(rows, cells, strict=True):
        yield "  ".join(map(str.ljust, line, widths)).rstrip()
        if row.detail:
            yield f"{'':{widths[0]}}  {clean(row.detail)}"


def fields_of(row: TransferRow) -> dict[str, object]:
    """Everything, with words in place of nothing."""
    fields = asdict(row)
    fields["source"] = row.sources[0] if row.sources else ""
    return {**fields, "percent": row.percent, "advice": row.advice}


def fields_of_view(view: TransferView) -> dict[str, object]:
    fields = fields_of(view.row)
    if view.pieces is not None:
        fields["pieces"] = {**asdict(view.pieces), "text": view.pieces.text}
    fields["origins"] = [each.model_dump() for each in view.origins]
    fields["timeline"] = [asdict(each) for each in view.timeline]
    return {
        **fields,
        "digest": view.digest,
        "staging": list(view.staging),
        "commands": dict(view.commands),
    }


def text_of_view(view: TransferView) -> Iterator[str]:
    """One transfer in full."""
    for name, text in _facts(view):
        if text:
            yield f"{name:12}{clean(text)}"
    for each in view.origins:
        left = f", left: {each.left}" if each.left else ""
        yield clean(
            f"{'origin':12}{each.peer}: {size_text(each.new_bytes)}, window {each.window_chunks},"
            f" {each.in_flight} in flight, {each.rtt_ms} ms{left}"
        )
    if view.pieces is not None:
        yield f"{'pieces':12}{view.pieces.text}"
        marks = "".join(_MARKS[cell] for cell in view.pieces.cells)
        for start in range(0, len(marks), _MAP_COLUMNS):
            yield f"  {marks[start : start + _MAP_COLUMNS]}"
    for moment in view.timeline:
        yield clean(f"  {moment_text(moment)}")
    for action, line in view.commands.items():
        yield clean(f"{action + ':':20}{line}")


def _facts(view: TransferView) -> Iterator[tuple[str, str]]:
    row = view.row
    yield "id", row.id
    yield "state", f"{row.state}: {row.reason}" if row.reason else str(row.state)
    yield "why", row.detail
    yield "to do", row.advice
    yield "source", " ".join(row.sources)
    yield "to", row.destination
    of = "" if row.size_bytes is None else f" of {size_text(row.size_bytes)}, {row.percent}%"
    yield "done", size_text(row.done_bytes) + of
    if row.tree:
        yield "files", f"{row.files_done} of {row.files_total or 'unknown'}"
    yield "rate", f"{size_text(row.rate_bytes_per_s)}/s" if row.rate_bytes_per_s else ""
    yield "eta", time_text(row.eta_s) if row.eta_s is not None else ""
    yield "priority", row.priority
    yield "tried", f"{row.retries} times" if row.retries else ""
    yield "asked for", time_of(row.created_ms)
    yield "progress", time_of(row.progress_ms)
    yield "ended", time_of(row.ended_ms)
    yield "process", f"{row.instance} on {row.host}" if row.instance else ""
    yield "blake3", view.digest
    for path in view.staging:
        yield "staging", path


def moment_text(moment: Event) -> str:
    """One line of a timeline or of the audit."""
    by = f"by {moment.by}" if moment.by else ""
    about = " ".join(filter(None, (moment.subject, moment.reason)))
    words = (time_of(moment.at_ms), moment.what, about, by)
    return "  ".join(filter(None, (*words, moment.detail)))


def time_of(at_ms: int) -> str:
    """UTC; empty if there is none."""
    if not at_ms:
        return ""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return str(at_ms)


def workers_table(found: Sequence[WorkerView]) -> tuple[Sequence[str], list[Sequence[str]]]:
    headings = ("INSTANCE", "ROLE", "HOST", "PID", "STATE", "TRANSFERS", "MEMORY", "LINKS")
    rows: list[Sequence[str]] = []
    for each in found:
        state = "draining" if each.draining else "ready" if each.ready else "starting"
        links = ", ".join(f"{link}: {reason or 'ok'}" for link, reason, _ in each.links)
        rows.append(
            (
                each.instance,
                each.role,
                each.host,
                str(each.pid),
                state if each.alive else f"silent since {time_of(each.heard_ms)}",
                str(each.transfers),
                size_text(each.resident_bytes),
                links or "-",
            )
        )
    return headings, rows
