"""What a planted bug is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

from tests.simulation.faults import Faults
from tests.simulation.teeth.planting import Change, planted


class Promise(IntEnum):
    """The promises of the design, by number."""

    ONE_SIGNED_VERSION = 1
    A_CRASH_COSTS_LITTLE = 2
    NOTHING_STUCK_UNTOLD = 3
    THE_BROKER_LEARNS_NOTHING = 4
    ONLY_GOOD_REQUESTS_COUNT = 5
    NOTHING_OUTSIDE = 6
    BOUNDED = 7
    COMPLETES = 8


@dataclass(frozen=True, kw_only=True)
class PlantedBug:
    """A mistake that somebody could have made. `promise` is the one that it breaks.

    `why`: what goes wrong, and what has to happen for it. `likely`: faults under which a world soon
    meets it, for the slice that is part of every test run.
    """

    name: str
    promise: Promise
    why: str
    likely: Faults
    changes: tuple[Change, ...]

    @contextmanager
    def plant(self) -> Iterator[None]:
        """While this lasts, the product has the bug. Raises `PlantError`."""
        with planted(self.changes):
            yield
