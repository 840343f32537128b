"""What a process has: a log, clocks, chance."""

from __future__ import annotations

from typing import Protocol


class Log(Protocol):
    """A stable event name and fields; what may be written of them is telemetry's business."""

    def __call__(self, event: str, /, *, level: str = "info", **fields: object) -> None: ...


# ---------------------------------------------------------------- time and chance


class Clock(Protocol):
    """Both clocks of a machine: one never goes backwards, one is shared with the peer."""

    def monotonic_s(self) -> float: ...

    def wall_ms(self) -> int:
        """Milliseconds since 1970, UTC."""
        ...


class Entropy(Protocol):
    """Unpredictable bytes."""

    def __call__(self, size: int, /) -> bytes: ...
