"""`python -m tests.bench NAME [--json]`: one benchmark, `all` of them, or `--list` what there is.

Ends with 3 if a peer was missing: the table says how to install it, the others were measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import machine, registry
from tests.bench.measure import DEFAULT_SETTLE_S, Report, Settings

#: Something that the comparison needs is not installed. 1 is a failure, 2 a wrong command line.
EXIT_MISSING = 3


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    if given.list:
        for name in registry.names():
            print(f"{name:<12} {registry.BENCHMARKS[name]}")
        return 0
    names = registry.names() if given.name == "all" else [given.name]
    reports = {name: _run(name, given) for name in names}
    if given.json:
        objects: dict[str, Any] = {name: report.json() for name, report in reports.items()}
        print(json.dumps(objects if given.name == "all" else objects[given.name]))
    return EXIT_MISSING if any(report.missing for report in reports.values()) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("name", nargs="?", default="all", choices=["all", *registry.names()])
    parser.add_argument("--list", action="store_true", help="say what there is and end")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--size", type=_positive, metavar="MIB", help="instead of its own size")
    parser.add_argument("--count", type=_positive, metavar="N", help="instead of its own number")
    parser.add_argument("--pairs", type=_positive, default=5, metavar="N", help="rounds (5)")
    parser.add_argument(
        "--settle", type=float, default=DEFAULT_SETTLE_S, metavar="S", help="quiet time (3)"
    )
    return parser


def _run(name: str, given: argparse.Namespace) -> Report:
    """One benchmark in a directory of its own; its table is printed as soon as it is there."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="chunkq-bench-") as directory:
        settings = Settings(
            root=Path(directory),
            size_mib=given.size,
            count=given.count,
            pairs=given.pairs,
            settle_s=given.settle,
        )
        report = registry.load(name)(settings)
        report.about = {**machine.described(settings.root), **report.about}
    print(report.text(), flush=True)
    return report


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
