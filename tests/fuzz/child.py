"""One target under libFuzzer, in a process of its own: `-m tests.fuzz.child NAME OPTION ...`."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["chunkq"]):
    from tests.fuzz.quick import use_quick_keys
    from tests.fuzz.targets import TARGETS


def main() -> None:
    use_quick_keys()
    name, *options = sys.argv[1:]
    target = TARGETS[name]

    def one_input(data: bytes) -> None:
        target.check(data)

    atheris.Setup([sys.argv[0], *options], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
