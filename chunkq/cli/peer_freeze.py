"""`chunkq peer freeze` and `thaw`: ask nothing of a peer for a while, and answer nothing."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options

EXAMPLES: Final = """\b
Examples:
  chunkq peer freeze beta --why "their disk is being changed"
  chunkq peer thaw beta
"""


def freeze(
    ctx: typer.Context,
    alias: Annotated[str, typer.Argument(help="What the peer is called here.")],
    *,
    why: Annotated[str, typer.Option(help="Shown to who asks why nothing moves.")] = "",
    json: JsonOption = False,
) -> None:
    """Ask nothing of a peer, and answer it nothing, until it is thawed.

    What is under way stops and goes on by itself afterwards; its requests are told to come later.
    Survives restarts.
    """
    _change(Options.of(ctx, json=json), alias, frozen=True, why=why)


def thaw(
    ctx: typer.Context,
    alias: Annotated[str, typer.Argument(help="What the peer is called here.")],
    *,
    json: JsonOption = False,
) -> None:
    """Go on with a peer that was frozen."""
    _change(Options.of(ctx, json=json), alias, frozen=False)


def _change(options: Options, alias: str, *, frozen: bool, why: str = "") -> None:
    from chunkq.settings import Registry
    from chunkq.settings.actor import actor
    from chunkq.storage.control import Control

    settings = options.load().settings
    if frozen:
        Registry(settings.directories).peer(alias)  # a typo freezes nothing
    control, by = Control(settings.directories.state), actor()
    try:
        was = ("peer", alias) in control.frozen()
        if frozen:
            control.freeze("peer", alias, by, why)
        else:
            control.thaw("peer", alias, by)
    finally:
        control.close()
    if options.json:
        fields = {"alias": alias, "frozen": frozen, "changed": was != frozen}
        console.emit("peer", fields)
    else:
        word = "frozen" if frozen else "thawed"
        console.out(f"{'already ' if was == frozen else ''}{word}: {alias}")
