"""One target under libFuzzer, in a process of its own: `-m tests.fuzz.child NAME OPTION ...`.

`NAME` with a `+` behind it: nothing is instrumented but the check of the outcome, which makes it
several times as fast; mutations are of the inputs that are there already.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext

import atheris

GUIDED = not sys.argv[1].endswith("+")

with atheris.instrument_imports(include=["chunkq"]) if GUIDED else nullcontext():
    from tests.fuzz.quick import use_quick_keys
    from tests.fuzz.targets import TARGETS


def main() -> None:
    use_quick_keys()
    name, *options = sys.argv[1:]
    target = TARGETS[name.rstrip("+")]

    def one_input(data: bytes) -> None:
        if target.check(data):
            return

    one = one_input if GUIDED else atheris.instrument_func(one_input)
    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
