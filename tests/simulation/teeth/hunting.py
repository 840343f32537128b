"""Seed after seed with a bug planted, until a promise is broken."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tests.simulation.teeth.bug import PlantedBug, Promise
from tests.simulation.world import run_seed

#: A bug that no world of so many meets is one that the simulator does not see.
MOST_SEEDS: Final = 2000


@dataclass(frozen=True, slots=True)
class Hunted:
    """What became of the hunt for one bug. `seed`: the one that found it, the `lived`th."""

    bug: str
    expected: Promise
    seed: int | None
    lived: int
    promise: Promise | None
    said: str
    cpu_s: float

    @property
    def found(self) -> bool:
        """Whether a promise was broken, and the one that this bug breaks."""
        return self.promise is self.expected


def hunt(bug: PlantedBug, seeds: Iterable[int] = range(1, MOST_SEEDS + 1)) -> Hunted:
    """Live the worlds of these seeds with the bug in the product, up to the first that breaks."""
    began_s, lived = time.process_time(), 0
    promise: Promise | None = None
    said, seed = "no world has met it", None
    with bug.plant():
        for seed in seeds:
            lived += 1
            outcome = run_seed(seed)
            if outcome.failed:
                said = outcome.finding.strip().splitlines()[-1]
                if outcome.broken is not None:
                    promise = Promise(outcome.broken.promise)
                break
        else:
            seed = None
    return Hunted(bug.name, bug.promise, seed, lived, promise, said, time.process_time() - began_s)
