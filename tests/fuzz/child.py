"""Targets under libFuzzer, each in a fork of this process, which is told of them on stdin:
`python -m tests.fuzz.child [--plain]`.

What is imported is instrumented once, which takes seconds. `--plain`: nothing is but the check of
the outcome, so that it is several times as fast; mutations are of inputs that are there already.
A line is a JSON list: a file for what is said, the target's name, options. The answer is the exit
code, on a line of its own.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext

import atheris

PLAIN = "--plain" in sys.argv

with nullcontext() if PLAIN else atheris.instrument_imports(include=["chunkq"]):
    from tests.fuzz.quick import use_quick_keys
    from tests.fuzz.targets import TARGETS


def main() -> None:
    use_quick_keys()
    for line in sys.stdin:
        told, name, *options = json.loads(line)
        pid = os.fork()
        if pid == 0:
            with open(told, "wb") as file:
                os.dup2(file.fileno(), sys.stdout.fileno())
                os.dup2(file.fileno(), sys.stderr.fileno())
            _fuzz(name, options)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _fuzz(name: str, options: list[str]) -> None:
    target = TARGETS[name]

    def one_input(data: bytes) -> None:
        if target.check(data):
            return

    one = atheris.instrument_func(one_input) if PLAIN else one_input
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
