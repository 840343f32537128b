"""`python -m tests.simulation`: a campaign of seeds, or one of them with all it did."""

from __future__ import annotations

import argparse
import sys

from tests.simulation.campaign import Tally, campaign, report
from tests.simulation.world import Options, run_seed

#: Of the seeds that failed, so many are told in full.
_TOLD = 5
#: How often progress is told, in seeds.
_PROGRESS = 1000


def main() -> int:
    """0 if every seed held its promises."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--processes", type=int, default=None, help="default: one a core")
    parser.add_argument("--seed", type=int, default=None, help="only this one")
    parser.add_argument("--without", nargs="*", default=[], help="faults to switch off")
    parser.add_argument("--trace", action="store_true", help="print all that happened")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _one(arguments.seed, tuple(arguments.without), trace=arguments.trace)
    tally = Tally()
    for share in campaign(arguments.first, arguments.seeds, arguments.processes):
        before = tally.seeds // _PROGRESS
        for outcome in share.failed:
            print(f"seed {outcome.seed}: {outcome.finding}", flush=True)
        tally.merge(share)
        if tally.seeds // _PROGRESS > before:
            print(f"{tally.seeds} seeds, {len(tally.failed)} failed", flush=True)
    for outcome in sorted(tally.failed, key=lambda each: each.seed)[:_TOLD]:
        print(report(outcome))
    print(tally)
    return 1 if tally.failed else 0


def _one(seed: int, without: tuple[str, ...], *, trace: bool) -> int:
    outcome = run_seed(seed, Options(without=without, keep_trace=trace))
    for line in outcome.trace:
        print(line)
    print(f"faults: {outcome.faults}")
    print(f"digest {outcome.digest}, {outcome.events} events, {outcome.virtual_s:.1f} s")
    print(outcome.finding or "all promises held")
    return 1 if outcome.failed else 0


if __name__ == "__main__":
    sys.exit(main())
