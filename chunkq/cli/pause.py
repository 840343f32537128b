"""`chunkq pause`: let transfers rest, with all that has come."""

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
  chunkq pause 1700000000000-0123abcd     one, by its id in `chunkq status`
  chunkq pause beta:docs/vm.img           by what is fetched
  chunkq pause --peer beta                all from a peer
  chunkq pause --all                      all that wait or are under way
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES, no_args_is_help=True)
def pause(
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
    """Let transfers rest, with all that has come, until `chunkq resume`.

    A process that has one in hand stops it within a second.
    """
    from chunkq.cli.steer import steer
    from chunkq.storage.job import JobState

    chosen = Chosen.of(
        names, peer=peer, states=state, reasons=reason, text=text, everything=everything
    )
    return steer(
        Options.of(ctx, json=json),
        chosen,
        lambda store, job_id, by: store.pause(job_id, by),
        sensible=frozenset({JobState.PENDING, JobState.RUNNING}),
        done="paused",
        asked="pausing",
    )
