"""`chunkq link freeze` and `thaw`: ask nothing over a link for a while, and answer nothing."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options
from chunkq.errors import NotFound

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
    _change(Options.of(ctx, json=json), name, frozen=True, why=why)


@app.command("thaw", epilog=EXAMPLES)
def thaw(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The link's name in the configuration.")],
    *,
    json: JsonOption = False,
) -> None:
    """Go on with a link that was frozen."""
    _change(Options.of(ctx, json=json), name, frozen=False)


def _change(options: Options, name: str, *, frozen: bool, why: str = "") -> None:
    from chunkq.settings.actor import actor
    from chunkq.settings.nearest import did_you_mean
    from chunkq.storage.control import Control

    settings = options.load().settings
    if frozen and name not in settings.links:
        known = sorted(settings.links)
        raise NotFound(
            f"no link is called {name!a}",
            hint=did_you_mean(name, known) or f"known: {', '.join(known)}",
        )
    control, by = Control(settings.directories.state), actor()
    try:
        was = ("link", name) in control.frozen()
        if frozen:
            control.freeze("link", name, by, why)
        else:
            control.thaw("link", name, by)
    finally:
        control.close()
    if options.json:
        fields = {"link": name, "frozen": frozen, "changed": was != frozen}
        console.emit("link", fields)
    else:
        word = "frozen" if frozen else "thawed"
        console.out(f"{'already ' if was == frozen else ''}{word}: {name}")
