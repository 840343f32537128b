"""`python -m tests.fuzz [TARGET ...] [--seconds S | --executions N [--guided N]] [--jobs N]`:
campaigns that are guided by coverage.

With `--guided` only so many of the executions are: the others are mutations of what those came to,
with nothing instrumented, which is several times as fast.

Each target runs in a fork of its own, bounded in time, memory and the length of its input. What
it finds is kept beside the corpus, and shown with the command that runs it again:
`python -m tests.fuzz TARGET --input FILE`.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue

from tests.fuzz.forks import Forks, Told
from tests.fuzz.quick import use_quick_keys
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

#: libFuzzer's bounds: one input may take so long, by a clock that a busy machine does not stop, and
#: the process so much memory.
TIMEOUT_S = 60
RSS_LIMIT_MIB = 512
#: Longer inputs only make it slow; limits beyond are tested by hand. A longer seed may double.
MAX_INPUT_BYTES = 512


@dataclass(frozen=True)
class Outcome:
    """What one target's campaign came to."""

    name: str
    executions: int
    seconds: float
    coverage: int
    slowest_s: int
    failed: bool
    output: str

    def __str__(self) -> str:
        return (
            f"{self.name:<18} {self.executions:>12,} executions  {self.seconds:>7.0f} s"
            f"  {self.coverage:>5} branches  slowest {self.slowest_s} s"
            f"  {'FAILED' if self.failed else 'ok'}"
        )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--executions", type=int, default=0, help="for each, instead of seconds")
    parser.add_argument("--guided", type=int, default=None, help="of the executions (all)")
    parser.add_argument("--jobs", type=int, default=2, help="at once (2)")
    parser.add_argument("--corpus", type=Path, help="keep what was learnt here")
    parser.add_argument("--input", type=Path, help="run one input and show what comes of it")
    given = parser.parse_args(arguments)
    unknown = sorted(set(given.names) - set(TARGETS))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    targets = [TARGETS[name] for name in given.names or TARGETS]
    use_quick_keys()
    if given.input:
        return run_one(targets[0], given.input.read_bytes())
    legs = _legs(given.seconds, given.executions, given.guided)
    names: Queue[Target] = Queue()
    for target in targets:
        names.put(target)
    with tempfile.TemporaryDirectory(prefix="chunkq-fuzz-") as directory:
        root = given.corpus or Path(directory)
        with ThreadPoolExecutor(given.jobs) as pool:
            jobs = [pool.submit(_work, names, root, legs) for _ in range(given.jobs)]
        outcomes = [outcome for job in jobs for outcome in job.result()]
    print(f"{'in all':<18} {sum(outcome.executions for outcome in outcomes):>12,} executions")
    for outcome in outcomes:
        if outcome.failed:
            print(f"\n{outcome.name}:\n{outcome.output}")
    return int(any(outcome.failed for outcome in outcomes))


def run_one(target: Target, data: bytes) -> int:
    print("taken" if target.check(data) else "refused with a typed error")
    return 0


def _legs(seconds: int, executions: int, guided: int | None) -> dict[bool, str]:
    """Whether nothing is instrumented, and for how long; one leg after the other."""
    if not executions:
        return {False: f"-max_total_time={seconds}"}
    guided = executions if guided is None else min(executions, guided)
    legs = {False: guided, True: executions - guided}
    return {plain: f"-runs={runs}" for plain, runs in legs.items() if runs}


def _work(targets: Queue[Target], root: Path, legs: dict[bool, str]) -> list[Outcome]:
    """Take targets until there are none."""
    outcomes = []
    with ExitStack() as stack:
        forks = {plain: stack.enter_context(Forks(plain=plain)) for plain in legs}
        while True:
            try:
                target = targets.get_nowait()
            except Empty:
                return outcomes
            outcomes.append(campaign(target, root, [(forks[plain], legs[plain]) for plain in legs]))
            print(outcomes[-1], flush=True)


def campaign(target: Target, root: Path, legs: list[tuple[Forks, str]]) -> Outcome:
    """Run one target."""
    corpus = root / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [
        f"-timeout={TIMEOUT_S}",
        f"-rss_limit_mb={RSS_LIMIT_MIB}",
        f"-max_len={max([MAX_INPUT_BYTES, *(2 * len(seed) for seed in target.seeds())])}",
        f"-artifact_prefix={corpus}/failed-",
        "-print_final_stats=1",
        "-keep_seed=1",  # what was learnt in one leg is for the next
        str(corpus),
    ]
    began_s = time.monotonic()
    done: list[Told] = []
    for forks, bound in legs:
        done.append(forks.run(target.name, [bound, *options]))
        if done[-1].code:
            break

    def told(what: str) -> list[int]:
        found = [re.findall(rf"{what}:\s*(\d+)", each.text) for each in done]
        return [int(numbers[-1]) for numbers in found if numbers] or [0]

    failures = [f"input {path.read_bytes().hex()}" for path in sorted(corpus.glob("failed-*"))]
    tail = "\n".join(done[-1].text.splitlines()[-40:])
    return Outcome(
        name=target.name,
        executions=sum(told("stat::number_of_executed_units")),
        seconds=time.monotonic() - began_s,
        coverage=max(told(" cov")),
        slowest_s=max(told("stat::slowest_unit_time_sec")),
        failed=done[-1].code != 0,
        output="\n".join([tail, *failures]),
    )


if __name__ == "__main__":
    sys.exit(main())
