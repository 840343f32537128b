"""`chunkq resume`: let paused transfers go on."""

from __future__ import annotations

from typing import Final

import typer

from chunkq.cli.options import JsonOption, Options
from chunkq.cli.selection import (
    AllOption,
    Chosen,
    NamesArgument,
    PeerOption,
    ReasonOption,
    StateOption,
    TextOption,
)

EXAMPLES: Final = """\b
Examples:
  chunkq resume beta:docs/vm.img          one
  chunkq resume --all                     all that are paused
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES, no_args_is_help=True)
def resume(
    ctx: typer.Context,
    names: NamesArgument = None,
    *,
    peer: PeerOption = None,
    state: StateOption = None,
    reason: ReasonOption = None,
    text: TextOption = None,
    everything: AllOption = False,
    json: JsonOption = False,
) -> int:
    """Let paused transfers go on where they were; `chunkq work` does them."""
    from chunkq.cli.steer import steer
    from chunkq.storage.job import JobState

    chosen = Chosen.of(
        names, peer=peer, states=state, reasons=reason, text=text, everything=everything
    )
    return steer(
        Options.of(ctx, json=json),
        chosen,
        lambda store, job_id, by: store.resume(job_id, by),
        sensible=frozenset({JobState.PAUSED}),
        done="resumed",
        asked="under way",
    )
