"""`chunkq cancel`: give transfers up."""

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
  chunkq cancel beta:docs/vm.img          what has come stays for a retry
  chunkq cancel --drop beta:docs/vm.img   and that goes, too
  chunkq cancel --state failed            forget about what failed
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES, no_args_is_help=True)
def cancel(
    ctx: typer.Context,
    names: NamesArgument = None,
    *,
    peer: PeerOption = None,
    state: StateOption = None,
    reason: ReasonOption = None,
    text: TextOption = None,
    everything: AllOption = False,
    drop: bool = typer.Option(
        False, "--drop", help="Remove what has come of unfinished files, too."
    ),
    json: JsonOption = False,
) -> int:
    """Give transfers up. What has come stays for a retry, unless --drop.

    Files that are in place stay there in any case.
    """
    from chunkq.cli.steer import steer
    from chunkq.storage.job import JobState

    chosen = Chosen.of(
        names, peer=peer, states=state, reasons=reason, text=text, everything=everything
    )
    return steer(
        Options.of(ctx, json=json),
        chosen,
        lambda store, job_id, by: store.cancel(job_id, by, drop),
        sensible=frozenset({JobState.PENDING, JobState.RUNNING, JobState.PAUSED, JobState.FAILED}),
        done="cancelled",
        asked="cancelling",
    )
