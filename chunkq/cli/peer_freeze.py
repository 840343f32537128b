"""`chunkq peer freeze` and `thaw`: ask nothing of a peer for a while, and answer nothing."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from chunkq.cli.freezing import change
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
    change(Options.of(ctx, json=json), "peer", alias, frozen=True, why=why)


def thaw(
    ctx: typer.Context,
    alias: Annotated[str, typer.Argument(help="What the peer is called here.")],
    *,
    json: JsonOption = False,
) -> None:
    """Go on with a peer that was frozen."""
    change(Options.of(ctx, json=json), "peer", alias, frozen=False)
