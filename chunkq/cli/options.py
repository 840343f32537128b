"""What is given before the command's name, and how commands get at it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from chunkq.settings import Loaded

#: `--json` may stand before or after the command's name.
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object a line, each with a type.")
]

#: Where a worker tells its metrics; instead of `[metrics] listen`.
MetricsOption = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="HOST:PORT",
        help="Answer /metrics, /healthz and /readyz there, as 127.0.0.1:9753.",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The global options of one run of the program."""

    config_dir: Path | None = None
    state_dir: Path | None = None
    quiet: bool = False
    verbose: bool = False
    json: bool = False

    @classmethod
    def of(cls, ctx: typer.Context, *, json: bool = False) -> Options:
        """What was given, with `json` if either place has it."""
        given = ctx.find_root().obj
        options = given if isinstance(given, Options) else cls()
        return replace(options, json=options.json or json)

    def load(self, **flags: object) -> Loaded:
        """The settings; `flags` are dotted keys with `__` for the dot, None where not given.

        Raises `ConfigError`.
        """
        from chunkq.settings import load

        given = {key.replace("__", "."): value for key, value in flags.items() if value is not None}
        if self.verbose:
            given.setdefault("log.level", "debug")
        elif self.quiet:
            given.setdefault("log.level", "error")
        return load(config_dir=self.config_dir, state_dir=self.state_dir, flags=given)
