"""`chunkq config show`: the settings in force."""

from __future__ import annotations

from typing import Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options
from chunkq.settings import show as show_settings

EXAMPLES: Final = """\b
Examples:
  chunkq config show
  CHUNKQ_REQUESTER_PATIENCE=10m chunkq config show --json
\b
A flag wins over the environment, that over config.toml, that over the
default. requester.patience has the variable CHUNKQ_REQUESTER_PATIENCE, and
links.default.url has CHUNKQ_LINK_URL. Passwords are never shown.
"""

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    epilog=EXAMPLES,
    help="Show the settings and where each comes from.",
)


@app.callback()
def config() -> None:
    """Show the settings and where each comes from."""


@app.command("show", epilog=EXAMPLES)
def show(ctx: typer.Context, *, json: JsonOption = False) -> None:
    """Show every setting, its value, and where it comes from."""
    options = Options.of(ctx, json=json)
    rows = []
    for key, value, source in show_settings(options.load()):
        if options.json:
            origin = {"source": source.kind, "place": source.place}
            console.emit("setting", {"key": key, "value": value, **origin})
        rows.append((key, _plain(value), str(source)))
    if not options.json:
        console.table(("KEY", "VALUE", "FROM"), rows)


def _plain(value: object) -> str:
    if value is None:
        return "-"
    return str(value).lower() if isinstance(value, bool) else str(value)
