"""`chunkq retry`: let transfers be tried again."""

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
  chunkq retry 1700000000000-0123abcd     one
  chunkq retry --reason disk_full         all that failed for that reason
  chunkq retry --peer beta                all of a peer that ended so
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES, no_args_is_help=True)
def retry(
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
    """Let transfers that failed or were cancelled be tried again, by `chunkq work`.

    One that waits for its next attempt is tried now.
    """
    from chunkq.cli.steer import steer
    from chunkq.storage.job import JobState

    chosen = Chosen.of(
        names, peer=peer, states=state, reasons=reason, text=text, everything=everything
    )
    return steer(
        Options.of(ctx, json=json),
        chosen,
        lambda store, job_id, by: store.retry(job_id, by),
        sensible=frozenset({JobState.FAILED, JobState.CANCELLED}),
        done="queued",
        asked="under way",
    )
