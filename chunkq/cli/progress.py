"""What a person sees of a transfer under way: one line that never runs backwards."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from chunkq.cli import console
from chunkq.protocol.limits import KIB
from chunkq.runtime.progress import Progress

#: The rate is that of the last seconds: shorter jumps about, longer is of the past.
RATE_WINDOW_S: Final = 5.0
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")

#: What a reason means to somebody who waits.
REASONS: Final = {
    "preparing": "the origin is hashing the file",
    "busy": "the origin is busy",
    "peer_silent": "no answer from the peer",
    "broker_unreachable": "the broker cannot be reached",
    "broker_blocked": "the broker takes nothing: short of memory or disk, or of nodes",
    "spool_unavailable": "the spool directory is not there",
    "disk_full": "no room on this disk; goes on by itself once there is",
    "queued": "other transfers from that peer go first",
    "clock_skew": "the clocks of both sites differ",
    "expired": "the origin asks to begin anew",
    "peer_frozen": "frozen here",
    "link_frozen": "frozen here",
}


#: Columns for which a detail is worth beginning.
LEAST_DETAIL: Final = 20
#: Reasons whose detail says more than they do: which quota, which disk, until when.
TOLD: Final = frozenset({"busy", "disk_full", "queued", "peer_frozen", "link_frozen"})


def size_text(size: float) -> str:
    """Bytes for people: three significant digits or so."""
    for unit in _UNITS:
        if size < KIB or unit == _UNITS[-1]:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= KIB
    raise AssertionError


def time_text(seconds: float) -> str:
    """A duration for people."""
    whole = int(seconds + 0.5)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole // 60 % 60:02d} h"


@dataclass(slots=True)
class Meter:
    """Rate and estimate from moments of progress. Times in seconds, of one clock."""

    _samples: deque[tuple[float, int]] = field(default_factory=deque)
    _most: int = 0

    def add(self, now: float, progress: Progress) -> None:
        self._most = max(self._most, progress.bytes_present)
        self._samples.append((now, progress.new_bytes))
        while len(self._samples) > 2 and now - self._samples[0][0] > RATE_WINDOW_S:
            self._samples.popleft()

    @property
    def bytes_shown(self) -> int:
        """Bytes present, as a number that only rises."""
        return self._most

    @property
    def rate(self) -> float:
        """New bytes a second."""
        if len(self._samples) < 2:
            return 0.0
        (began, before), (now, after) = self._samples[0], self._samples[-1]
        return (after - before) / (now - began) if now > began else 0.0

    def eta_s(self, total: int) -> float | None:
        rate = self.rate
        return (total - self._most) / rate if rate > 0 and total > self._most else None


def render(progress: Progress, meter: Meter, width: int) -> str:
    """One line of at most `width` columns; what matters most comes first."""
    shown = min(meter.bytes_shown, progress.bytes_total) if progress.bytes_total else 0
    if progress.waiting is not None and not progress.bytes_total:
        head = f"{progress.peer}:"
    elif progress.bytes_total:
        percent = 100 * shown // progress.bytes_total
        head = f"{percent:3d}%  {size_text(shown)} of {size_text(progress.bytes_total)}"
    else:
        head = progress.phase
    parts = [head, *_details(progress, meter)]
    line = ""
    for part in parts:
        longer = f"{line}  {part}" if line else part
        if len(longer) > width:
            if part.startswith("(") and len(line) + LEAST_DETAIL < width:
                line = longer[: width - 1] + "…"
            break
        line = longer
    return line or head[:width]


def _details(progress: Progress, meter: Meter) -> list[str]:
    if progress.waiting is not None:
        waiting = progress.waiting
        why = REASONS.get(waiting.reason, waiting.reason)
        if waiting.total:
            why += f" ({100 * waiting.done // waiting.total}% of {size_text(waiting.total)})"
        told = waiting.reason in TOLD and waiting.detail
        return [f"waiting: {why}", *([f"({waiting.detail})"] if told else [])]
    details = []
    if progress.phase in ("verifying", "publishing", "recovering"):
        details.append(progress.phase)
    else:
        details.append(f"{size_text(meter.rate)}/s")
        if (eta := meter.eta_s(progress.bytes_total)) is not None:
            details.append(f"{time_text(eta)} left")
    shares = _shares(progress.origins)
    if shares:
        details.append(shares)
    if progress.files_total > 1:
        details.append(f"{progress.files_done} of {progress.files_total} files")
    elif progress.chunks_total:
        details.append(f"{progress.chunks_present}/{progress.chunks_total} chunks")
    if not shares:
        details.append(f"from {progress.peer}")
    return details


def _shares(origins: Mapping[str, int]) -> str:
    """Of several, who brings how much; with three names of a usual length it fits into a line."""
    total = sum(origins.values())
    if not total or len(origins) < 2:
        return ""
    return " ".join(f"{peer} {100 * came // total}%" for peer, came in origins.items())


def origins_text(origins: Mapping[str, int], left: Mapping[str, str]) -> str:
    """Who brought how much of something that came from several, and who was of no use."""
    brought = [f"{peer} {size_text(came)}" for peer, came in origins.items() if came]
    parts = [f"from {', '.join(brought)}"] if brought else []
    return "; ".join([*parts, *(f"not from {peer}: {why}" for peer, why in left.items())])


class Screen:
    """Shows progress: in place on a terminal, a line now and then elsewhere, or JSON objects."""

    def __init__(self, *, as_json: bool, quiet: bool, interval_s: float) -> None:
        self._json = as_json
        self._live = sys.stderr.isatty() and not quiet and not as_json
        self._interval_s = 0.0 if quiet else interval_s
        self._quiet = quiet
        self._told_at: float | None = None
        self._drawn = False
        self._resumed = False

    def show(self, progress: Progress, meter: Meter, now: float) -> None:
        """Show this moment, if it is time to."""
        meter.add(now, progress)
        self._show_resumption(progress)
        if self._json:
            if self._due(now, 1.0):
                console.emit("progress", _as_fields(progress, meter))
        elif self._live:
            self._draw(render(progress, meter, _columns() - 1))
        elif self._interval_s and self._due(now, self._interval_s):
            console.note(render(progress, meter, 200))

    def clear(self) -> None:
        """Leave the line to what comes next."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

    def _show_resumption(self, progress: Progress) -> None:
        present, total = progress.resumed_chunks, progress.chunks_total
        if self._resumed or not present or not total or progress.files_total != 1:
            return
        self._resumed = True
        percent = 100 * present // total
        if self._json:
            console.emit("resuming", {"chunks_present": present, "chunks_total": total})
        elif not self._quiet:
            self.clear()
            console.note(f"resuming at {percent}% ({present} of {total} chunks)")

    def _due(self, now: float, interval_s: float) -> bool:
        if self._told_at is not None and now - self._told_at < interval_s:
            return False
        self._told_at = now
        return True

    def _draw(self, line: str) -> None:
        sys.stderr.write(f"\r{console.clean(line)}\x1b[K")
        sys.stderr.flush()
        self._drawn = True


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _as_fields(progress: Progress, meter: Meter) -> dict[str, object]:
    fields: dict[str, object] = {
        "source": progress.source,
        "phase": progress.phase,
        "bytes_present": meter.bytes_shown,
        "bytes_total": progress.bytes_total,
        "new_bytes": progress.new_bytes,
        "bytes_per_s": round(meter.rate),
        "chunks_present": progress.chunks_present,
        "chunks_total": progress.chunks_total,
        "files_done": progress.files_done,
        "files_total": progress.files_total,
        "origins": dict(progress.origins),
        "left": dict(progress.left),
    }
    if progress.waiting is not None:
        fields["waiting"] = progress.waiting.reason
        fields["detail"] = progress.waiting.detail
    return fields
