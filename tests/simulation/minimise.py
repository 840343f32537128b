"""Which of a seed's faults it takes: each is switched off in turn, and stays off if it can."""

from __future__ import annotations

from dataclasses import replace

from tests.simulation.world import Options, Outcome, run_seed


def minimise(outcome: Outcome, options: Options) -> Outcome:
    """The same failure with as few faults as a greedy search finds."""
    smallest = outcome
    for name in outcome.faults.enabled:
        fewer = replace(options, without=(*_off(options, outcome, smallest), name))
        found = run_seed(outcome.seed, fewer)
        if found.failed and _kind(found) == _kind(outcome):
            smallest = found
    return smallest


def _off(options: Options, first: Outcome, now: Outcome) -> tuple[str, ...]:
    gone = set(first.faults.enabled) - set(now.faults.enabled)
    return (*options.without, *sorted(gone))


def _kind(outcome: Outcome) -> int:
    """The promise; 0 for what should never happen at all."""
    return 0 if outcome.broken is None else outcome.broken.promise
