"""What a person sees of a comparison: a line while it runs, a line a file, a line at the end."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from chunkq.cli import console
from chunkq.cli.progress import size_text
from chunkq.protocol.checking import Checked, Verdict

if TYPE_CHECKING:
    from chunkq.api.transfer import Transfer
    from chunkq.api.verification import Verified
    from chunkq.runtime.verifying import Standing

#: Runs of chunks that are written out; a file that is all wrong would fill the screen.
MAX_RUNS_TOLD: Final = 8
#: And in JSON.
MAX_RUNS_EMITTED: Final = 1000
#: JSON progress, in seconds.
EMIT_S: Final = 1.0


class Line:
    """Progress in place on a terminal, or JSON objects now and then."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self._json = as_json
        self._live = sys.stderr.isatty() and not quiet and not as_json
        self._drawn = False
        self._began_s: float | None = None
        self._emitted_s: float | None = None
        #: What was last to be seen of it.
        self.last = "before anything was compared"

    def show(self, standing: Standing, repairing: Transfer | None, now: float) -> None:
        self._began_s = self._began_s or now
        self.last = _render(standing, repairing, now - self._began_s)
        if self._live:
            sys.stderr.write(f"\r{console.clean(self.last)}\x1b[K")
            sys.stderr.flush()
            self._drawn = True
        elif self._json and now - (self._emitted_s or self._began_s) >= EMIT_S:
            self._emitted_s = now
            console.emit(
                "progress",
                {
                    "path": standing.path,
                    "files_done": standing.files_done,
                    "files_total": standing.files_total,
                    "bytes_done": standing.bytes_done,
                    "bytes_total": standing.bytes_total,
                    "repairing": repairing is not None,
                },
            )

    def clear(self) -> None:
        """Leave the line to what comes next."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False


def _render(standing: Standing, repairing: Transfer | None, seconds: float) -> str:
    if repairing is not None:
        moment = repairing.progress()
        waiting = f", waiting: {moment.waiting.reason}" if moment.waiting else ""
        return f"repairing {repairing.destination}: {size_text(moment.new_bytes)}{waiting}"
    total = standing.bytes_total
    percent = 100 * min(standing.bytes_done, total) // total if total else 100
    rate = standing.bytes_done / seconds if seconds > 0 else 0.0
    return (
        f"{percent:3d}%  {size_text(standing.bytes_done)} of {size_text(total)}"
        f"  {size_text(rate)}/s  {standing.files_done} of {standing.files_total} files"
    )


def text_of(checked: Checked) -> str:
    """One file that is not as received, and where."""
    if checked.verdict is Verdict.OK:
        return f"{checked.path}: ok"
    line = f"{checked.path}: {checked.verdict}: {checked.detail}"
    runs = checked.bad_bytes
    if checked.good is None or not runs:
        return line
    bad = checked.good.count - checked.good.present
    told = ", ".join(f"{offset}+{length}" for offset, length in runs[:MAX_RUNS_TOLD])
    more = ", ..." if len(runs) > MAX_RUNS_TOLD else ""
    within = "" if checked.exact else " (somewhere in there)"
    return f"{line}; {bad} of {checked.good.count} chunks, bytes {told}{more}{within}"


def fields_of(checked: Checked) -> dict[str, object]:
    """The same as JSON."""
    fields: dict[str, object] = {
        "path": checked.path,
        "verdict": str(checked.verdict),
        "matches": checked.verdict is Verdict.OK,
        "blake3": checked.blake3,
        "source": checked.source,
        "size_bytes": checked.size_bytes,
    }
    if checked.detail:
        fields["detail"] = checked.detail
    if checked.good is not None and checked.geometry is not None and not checked.good.complete:
        fields["chunk_size_bytes"] = checked.geometry.chunk_size_bytes
        fields["bad_chunks"] = checked.good.count - checked.good.present
        fields["bad_runs"] = checked.bad_chunks[:MAX_RUNS_EMITTED]
        fields["exact"] = checked.exact
    return fields


def summary(found: Verified) -> str:
    """The last line."""
    parts = [
        f"{count} {verdict}"
        for verdict in Verdict
        if (count := found.counts.get(verdict, 0)) or verdict is Verdict.OK
    ]
    files = f"{found.files} file{'' if found.files == 1 else 's'}"
    line = f"{files}, {size_text(found.bytes_total)}: {', '.join(parts)}"
    if found.resumed:
        line += f" ({found.resumed} of them compared by an earlier run)"
    if found.repaired:
        line += f"; {len(found.repaired)} repaired, {size_text(found.new_bytes)} fetched"
    if found.unknown:
        line += f"; {len(found.unknown)} not known as received"
    return line
