"""`chunkq link freeze` and `thaw`: ask nothing over a link for a while, and answer nothing."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from chunkq.cli.freezing import change
from chunkq.cli.options import JsonOption, Options

EXAMPLES: Final = """\b
Examples:
  chunkq link freeze office --why "their disk is being changed"
  chunkq link thaw office
"""

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    epilog=EXAMPLES,
    help="Freeze and thaw links.",
)


@app.command("freeze", epilog=EXAMPLES)
def freeze(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The link's name in the configuration.")],
    *,
    why: Annotated[str, typer.Option(help="Shown to who asks why nothing moves.")] = "",
    json: JsonOption = False,
) -> None:
    """Ask nothing over a link, and answer nothing, until it is thawed.

    What is under way stops and goes on by itself afterwards; its requests are told to come later.
    Survives restarts.
    """
    change(Options.of(ctx, json=json), "link", name, frozen=True, why=why)


@app.command("thaw", epilog=EXAMPLES)
def thaw(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The link's name in the configuration.")],
    *,
    json: JsonOption = False,
) -> None:
    """Go on with a link that was frozen."""
    change(Options.of(ctx, json=json), "link", name, frozen=False)
