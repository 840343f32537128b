"""`python -m tests.bench NAME [--json] [--size MIB] [--pairs N] [--settle S]`; `all` runs each."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.bench import spool, throughput
from tests.bench.measure import DEFAULT_SETTLE_S, Report, Settings

#: Every benchmark by name. One that needs a missing peer raises, saying how to install it.
BENCHMARKS: dict[str, Callable[[Settings], Report]] = {
    "throughput": throughput.run,
    "spool": spool.run,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", nargs="?", default="all", choices=["all", *BENCHMARKS])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--size", type=_positive, metavar="MIB", help="instead of its own size")
    parser.add_argument("--pairs", type=_positive, default=5, metavar="N", help="rounds (5)")
    parser.add_argument(
        "--settle", type=float, default=DEFAULT_SETTLE_S, metavar="S", help="quiet time (3)"
    )
    given = parser.parse_args(arguments)
    names = list(BENCHMARKS) if given.name == "all" else [given.name]
    figures = {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="chunkq-bench-") as directory:
            settings = Settings(
                root=Path(directory), size_mib=given.size, pairs=given.pairs, settle_s=given.settle
            )
            report = BENCHMARKS[name](settings)
        print(report.text(), flush=True)
        figures[name] = report.figures
    if given.json:
        print(json.dumps(figures if given.name == "all" else figures[given.name]))
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
