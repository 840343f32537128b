"""`python -m tests.simulation.teeth [--seeds N] [NAME …]`: is each planted bug found?

Prints a line a bug: its promise, the seeds that it took, and what was said. Ends with 1 unless each
was found, and by the check of the promise that it breaks.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulation.teeth.hunting import MOST_SEEDS, Hunted, hunt
from tests.simulation.teeth.registry import BUGS, bug_named

_SAID_COLUMNS = 110


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.teeth", description=__doc__)
    parser.add_argument("--seeds", type=int, default=MOST_SEEDS, help="the most for each bug")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these bugs")
    options = parser.parse_args(arguments)
    names = options.names or [bug.name for bug in BUGS]
    unknown = set(names) - {bug.name for bug in BUGS}
    if unknown:
        parser.error(f"no such bug: {', '.join(sorted(unknown))}")
    began_s = time.monotonic()
    hunted = _hunt_all(names, options.seeds)
    missed = [each for each in hunted if not each.found]
    seeds, cpu_s = sum(each.lived for each in hunted), sum(each.cpu_s for each in hunted)
    print(
        f"{len(hunted) - len(missed)} of {len(hunted)} planted bugs found, {seeds} worlds,"
        f" {cpu_s:.0f} s of CPU, {time.monotonic() - began_s:.0f} s"
    )
    return 1 if missed else 0


def _hunt_all(names: Sequence[str], seeds: int) -> list[Hunted]:
    """On all cores, told as each ends."""
    print(f"{'bug':<40} {'promise':>7} {'seeds':>6} {'CPU s':>6}  what was said")
    hunted: list[Hunted] = []
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=fork) as pool:
        for done in as_completed([pool.submit(_hunt_named, name, seeds) for name in names]):
            hunted.append(done.result())
            print(_told(hunted[-1]), flush=True)
    return hunted


def _hunt_named(name: str, seeds: int) -> Hunted:
    return hunt(bug_named(name), range(1, seeds + 1))


def _told(each: Hunted) -> str:
    promise = "-" if each.promise is None else str(int(each.promise))
    wrong = "" if each.found else f"MISSED (expected {int(each.expected)}): "
    said = f"{wrong}{each.said}"[:_SAID_COLUMNS]
    return f"{each.bug:<40} {promise:>7} {each.lived:>6} {each.cpu_s:>6.1f}  {said}"


if __name__ == "__main__":
    sys.exit(main())
