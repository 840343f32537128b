"""Sizes, durations and rates as people write them: `256KiB`, `10m`, `10Mbit/s`, and back."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BeforeValidator

#: What is chosen by what is found.
AUTO: Final = "auto"
_NUMBER: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")

#: 16 EiB, or as many seconds: above it nothing is a size, a rate or a duration.
_MOST: Final = float(1 << 64)
#: How much of a number of a thousand digits is worth repeating.
_SHOWN_CHARS: Final = 40
_SIZE_UNITS: Final = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
#: Lines are sold in bits.
_BIT_UNITS: Final = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}
_PER_SECOND: Final = re.compile(r"\s*/\s*s(ec)?\s*$", re.IGNORECASE)
_DURATION_UNITS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_size(value: object) -> int:
    """Bytes of `262144`, `"256KiB"` or `"1.5 GB"`. Raises `ValueError`."""
    number, unit = _split(value, "a size such as 256KiB or 64MiB")
    factor = _SIZE_UNITS.get(unit.lower())
    if factor is None:
        raise ValueError(f"{value!r} has no unit that is known; use B, KiB, MiB, GiB or TiB")
    size = _finite(number * factor, value)
    if size != int(size):
        raise ValueError(f"{value!r} is not a whole number of bytes")
    return int(size)


def parse_duration(value: object) -> float:
    """Seconds of `90`, `"90s"`, `"10m"`, `"1.5h"` or `"30d"`. Raises `ValueError`."""
    number, unit = _split(value, "a duration such as 30s, 10m or 30d")
    factor = _DURATION_UNITS.get(unit.lower())
    if factor is None:
        raise ValueError(f"{value!r} has no unit that is known; use ms, s, m, h or d")
    return _finite(number * factor, value)


def parse_rate(value: object) -> int:
    """Bytes a second of `1048576`, `"10MiB/s"`, `"10 MiB"` or `"10Mbit/s"`. Raises `ValueError`."""
    if isinstance(value, str):
        value = _PER_SECOND.sub("", value)
    number, unit = _split(value, "a rate such as 10MiB/s or 10Mbit/s")
    if unit.lower() in _BIT_UNITS:
        return int(_finite(number * _BIT_UNITS[unit.lower()] / 8, value))
    return parse_size(value)


def _split(value: object, wanted: str) -> tuple[float, str]:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"{value!r} is not {wanted}")  # noqa: TRY004 pydantic wants ValueError
    if isinstance(value, str):
        match = _NUMBER.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r} is not {wanted}")
        return float(match[1]), match[2]
    if value < 0:
        raise ValueError(f"{value!r} is not {wanted}")
    return _finite(value, value), ""


def _finite(number: float, value: object) -> float:
    """`number`, if it can be meant; `value` is what was given. Raises `ValueError`."""
    if number <= _MOST:  # which is false for "not a number", too
        return number
    shown = str(value) if isinstance(value, str | float) else "the number"
    raise ValueError(f"{shown[:_SHOWN_CHARS]} is too large to be meant")


def show_size(size_bytes: int) -> str:
    """The shortest exact form that `parse_size` reads back: `256KiB`, `1000B`."""
    for unit, factor in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return f"{size_bytes}B"


def show_rate(bytes_per_s: int) -> str:
    """The shortest exact form that `parse_rate` reads back: `10MiB/s`, `10Mbit/s`."""
    for unit, bits in (("Gbit", 10**9), ("Mbit", 10**6), ("kbit", 10**3)):
        if bytes_per_s and bytes_per_s * 8 % bits == 0 and bytes_per_s % 1024:
            return f"{bytes_per_s * 8 // bits}{unit}/s"
    return f"{show_size(bytes_per_s)}/s"


def show_duration(duration_s: float) -> str:
    """The shortest exact form that `parse_duration` reads back: `10m`, `1.5s`."""
    for unit, factor in (("d", 86400), ("h", 3600), ("m", 60)):
        if duration_s and duration_s % factor == 0:
            return f"{int(duration_s // factor)}{unit}"
    return f"{duration_s:g}s"


def parse_size_or_auto(value: object) -> int | None:
    """As `parse_size`, and None for `"auto"`. Raises `ValueError`."""
    return None if value is None or value == AUTO else parse_size(value)


SizeBytes = Annotated[int, BeforeValidator(parse_size)]
RateBytes = Annotated[int, BeforeValidator(parse_rate)]
DurationSeconds = Annotated[float, BeforeValidator(parse_duration)]
SizeOrAuto = Annotated[int | None, BeforeValidator(parse_size_or_auto)]
