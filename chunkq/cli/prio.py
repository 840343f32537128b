"""`chunkq prio`: give transfers another priority."""

from __future__ import annotations

from typing import Annotated, Final

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
from chunkq.protocol.priority import PriorityWord

EXAMPLES: Final = """\b
Examples:
  chunkq prio urgent beta:docs/vm.img     overtakes what is under way
  chunkq prio bulk --peer beta            all of a peer go last
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES, no_args_is_help=True)
def prio(
    ctx: typer.Context,
    priority: Annotated[PriorityWord, typer.Argument(help="urgent, normal or bulk.")],
    names: NamesArgument = None,
    *,
    peer: PeerOption = None,
    state: StateOption = None,
    reason: ReasonOption = None,
    text: TextOption = None,
    everything: AllOption = False,
    json: JsonOption = False,
) -> int:
    """Give transfers another priority; those under way have it at once."""
    from chunkq.cli.steer import steer
    from chunkq.storage.job import JobState

    chosen = Chosen.of(
        names, peer=peer, states=state, reasons=reason, text=text, everything=everything
    )
    return steer(
        Options.of(ctx, json=json),
        chosen,
        lambda store, job_id, by: store.set_priority(job_id, priority, by),
        sensible=frozenset({JobState.PENDING, JobState.RUNNING, JobState.PAUSED, JobState.FAILED}),
        done="changed",
        asked="changing",
    )
