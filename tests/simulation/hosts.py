"""The machines of a world: a wall clock each, that may be wrong, stand still and jump."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.simulation.clock import WALL_START_MS, VirtualClock
from tests.simulation.loop import Running

#: Where in the second a world begins: no whole millisecond, or stamps would count as coarse ones.
_START_NS = WALL_START_MS * 1_000_000 + 234_567


@dataclass(slots=True, eq=False)
class Host:
    """`offset_s`: its wall clock minus the world's. `boots`: how often it was started."""

    name: str
    clock: VirtualClock
    offset_s: float = 0.0
    frozen_at_s: float | None = None
    boots: int = 1

    def wall_ns(self) -> int:
        now_s = self.clock.now_s if self.frozen_at_s is None else self.frozen_at_s
        return _START_NS + int((now_s + self.offset_s) * 1_000_000_000)

    def wall_ms(self) -> int:
        return self.wall_ns() // 1_000_000

    @property
    def boot_id(self) -> bytes:
        return self.boots.to_bytes(16, "big")


@dataclass(frozen=True, slots=True)
class ProcessClock:
    """`ports.Clock` of one process."""

    host: Host
    time: Callable[[], float]
    process: Running

    def monotonic_s(self) -> float:
        return self.host.clock.now_s - self.process.slept_s

    def wall_ms(self) -> int:
        return self.host.wall_ms()
