"""Sizes, rates and times as the page shows them: coarse, so that little changes on the screen."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

from chunkq.protocol.condition import State

#: What stands where nothing is known.
NONE: Final = "–"
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_MINUTE_S: Final = 60
_HOUR_S: Final = 60 * _MINUTE_S
_DAY_S: Final = 24 * _HOUR_S
#: Below this, ages count in such steps: a list of fifty need not change fifty cells a second.
_AGE_STEP_S: Final = 5
#: A page can show no more of a text that a peer chose; the whole of it stands on the command line.
MAX_SHOWN_CHARS: Final = 400


def size(size_bytes: int | None) -> str:
    """Three digits and a unit."""
    if size_bytes is None:
        return NONE
    value, unit = float(size_bytes), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    digits = 0 if unit == 0 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {_UNITS[unit]}"


def rate(bytes_per_s: int) -> str:
    return f"{size(bytes_per_s)}/s" if bytes_per_s else NONE


def duration(seconds: float | None) -> str:
    """Two units at most: `45 s`, `12 min`, `3 h 05`, `2 d 4 h`."""
    if seconds is None:
        return NONE
    whole = max(0, int(seconds))
    if whole < _MINUTE_S:
        return f"{whole} s"
    if whole < _HOUR_S:
        return f"{whole // _MINUTE_S} min"
    if whole < _DAY_S:
        return f"{whole // _HOUR_S} h {whole % _HOUR_S // _MINUTE_S:02d}"
    return f"{whole // _DAY_S} d {whole % _DAY_S // _HOUR_S} h"


def since(then_ms: int, now_ms: int) -> str:
    """How long ago; a dash where it never was."""
    if not then_ms:
        return NONE
    seconds = max(0, (now_ms - then_ms) // 1000)
    if seconds < _AGE_STEP_S:
        return "now"
    if seconds < _MINUTE_S:
        return f"{seconds - seconds % _AGE_STEP_S} s"
    return duration(seconds)


def moment(at_ms: int) -> str:
    """A time of the day and its day, UTC, to the second."""
    if not at_ms:
        return NONE
    return datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def count(number: int | None) -> str:
    """With a thin space between thousands."""
    return NONE if number is None else f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def plain(word: str) -> str:
    """A word of ours as people write it: `peer_silent` is `peer silent`."""
    return word.replace("_", " ")


def shown(text: str) -> str:
    """A text of somebody else's: whole lines become one, and what has no width is made visible."""
    cut = text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 1]}…"
    return "".join(each if each.isprintable() else f"\\u{ord(each):04x}" for each in cut)


def prose(sentence: str) -> str:
    """A sentence of ours: commands stand in quotation marks instead of backticks."""
    return re.sub(
        r"`([^`]*)`", "\N{LEFT DOUBLE QUOTATION MARK}\\1\N{RIGHT DOUBLE QUOTATION MARK}", sentence
    )


#: What each state looks like, beside its word: an icon, and a tone of the style sheet.
TONES: Final = {
    State.QUEUED: "waiting",
    State.OPENING: "moving",
    State.RUNNING: "moving",
    State.PAUSED: "paused",
    State.STALLED: "stalled",
    State.RECOVERING: "moving",
    State.VERIFYING: "moving",
    State.PUBLISHING: "moving",
    State.DONE: "done",
    State.FAILED: "failed",
    State.CANCELLED: "cancelled",
}
