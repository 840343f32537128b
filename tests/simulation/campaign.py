"""Many seeds, on all cores; what was found, and how much was tried."""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import get_context

from tests.simulation.minimise import minimise
from tests.simulation.world import Options, Outcome, run_seed

#: Seeds that a process does at once: a few seconds of work.
_SHARE = 50
_SECONDS_PER_YEAR = 365.25 * 24 * 3600
#: A process is replaced after so many shares, so that nothing piles up in it.
_SHARES_PER_PROCESS = 40


@dataclass
class Tally:
    """Sums over the seeds of a campaign."""

    seeds: int = 0
    events: int = 0
    packets: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    occurred: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    #: In how many seeds each check had something to look at.
    checked: Counter[str] = field(default_factory=Counter)
    failed: list[Outcome] = field(default_factory=list)

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.events += outcome.events
        self.packets += outcome.packets
        self.virtual_s += outcome.virtual_s
        self.occurred.update(outcome.occurred)
        self.ends.update(outcome.ends)
        self.checked.update(outcome.checked.keys())
        if outcome.failed:
            self.failed.append(outcome)

    def merge(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.events += other.events
        self.packets += other.packets
        self.virtual_s += other.virtual_s
        self.cpu_s += other.cpu_s
        self.occurred += other.occurred
        self.ends += other.ends
        self.checked += other.checked
        self.failed += other.failed

    def __str__(self) -> str:
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.occurred.items()))
        ends = ", ".join(f"{name} {count}" for name, count in sorted(self.ends.items()))
        checked = ", ".join(f"{name} {count}" for name, count in sorted(self.checked.items()))
        years = self.virtual_s / _SECONDS_PER_YEAR
        return "\n".join(
            (
                f"{self.seeds} seeds, {self.events} events, {self.packets} packets",
                f"{years:.1f} simulated years",
                f"CPU: {1000 * self.cpu_s / max(1, self.seeds):.0f} ms a seed",
                f"faults: {faults or 'none'}",
                f"runs that ended with: {ends or 'nothing'}",
                f"seeds in which a check had something to look at: {checked}",
                f"failed: {len(self.failed)}",
            )
        )


def run_share(seeds: Iterable[int]) -> Tally:
    """Some seeds in this process."""
    tally, began_s = Tally(), time.process_time()
    gc.collect()
    gc.freeze()  # what is there for good need not be looked through after each seed
    for seed in seeds:
        tally.add(run_seed(seed))
    tally.cpu_s = time.process_time() - began_s
    return tally


def campaign(first: int, count: int, processes: int | None = None) -> Iterator[Tally]:
    """Shares of a campaign, as they are done. `processes` None: one a core."""
    processes = processes or os.cpu_count() or 1
    shares = [
        range(at, min(at + _SHARE, first + count)) for at in range(first, first + count, _SHARE)
    ]
    if processes == 1:
        yield from map(run_share, shares)
        return
    context = get_context("spawn")
    with context.Pool(processes, maxtasksperchild=_SHARES_PER_PROCESS) as pool:
        yield from pool.imap_unordered(run_share, shares)


def report(outcome: Outcome) -> str:
    """All that helps with a seed that failed."""
    smallest = minimise(outcome, Options())
    return "\n".join(
        (
            f"seed {outcome.seed}: {outcome.finding}",
            f"faults: {outcome.faults}",
            f"enough for it: {', '.join(smallest.faults.enabled) or 'none'}",
            "the last events with these:",
            *(f"  {line}" for line in smallest.trace),
            f"again: python -m tests.simulation --seed {outcome.seed} --trace",
        )
    )
