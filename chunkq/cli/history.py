"""`chunkq history`: transfers that ended, and who did what."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options
from chunkq.cli.selection import PeerOption, ReasonOption, StateOption, TextOption

if TYPE_CHECKING:
    from chunkq.api.operations import Operations

EXAMPLES: Final = """\b
Examples:
  chunkq history                       transfers that ended, the latest first
  chunkq history --failed              and why, of those that failed
  chunkq history --peer beta --rows 200
  chunkq history --audit               who paused, froze, drained, ...
"""
HEADINGS: Final = ("ENDED", "ID", "STATE", "REASON", "SIZE", "NAME")

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES)
def history(
    ctx: typer.Context,
    *,
    failed: Annotated[bool, typer.Option("--failed", help="Only what failed.")] = False,
    audit: Annotated[bool, typer.Option("--audit", help="Who did what, instead.")] = False,
    peer: PeerOption = None,
    state: StateOption = None,
    reason: ReasonOption = None,
    text: TextOption = None,
    rows: Annotated[int, typer.Option(min=1, max=500, help="At most so many.")] = 50,
    page: Annotated[int, typer.Option(min=1, help="Those after; pages count from 1.")] = 1,
    json: JsonOption = False,
) -> int:
    """Show transfers that ended, the latest first. Nothing need be running."""
    from chunkq.api.operations import Operations
    from chunkq.api.views import Query
    from chunkq.cli.selection import filter_of
    from chunkq.errors import StorageError
    from chunkq.settings.actor import actor

    options = Options.of(ctx, json=json)
    states = [*(state or ()), *(["failed"] if failed else [])]
    wanted = filter_of(peer=peer, states=states, reasons=reason, text=text)
    operations = Operations(options.load().settings, by=actor(), notice=console.warn)
    try:
        with suppress(StorageError):  # what is recorded can be shown all the same
            operations.record()
        if audit:
            return _audit(operations, options, page, rows)
        return _transfers(operations, options, Query(filter=wanted, page=page, rows=rows))
    finally:
        operations.close()


def _audit(operations: Operations, options: Options, page: int, rows: int) -> int:
    from dataclasses import asdict

    from chunkq.cli.statustable import moment_text

    found = operations.audit(page, rows)
    for moment in found.rows:
        if options.json:
            console.emit("moment", asdict(moment))
        else:
            transfer = f"  {moment.transfer}" if moment.transfer else ""
            console.out(console.clean(moment_text(moment) + transfer))
    if not found.rows and not options.json:
        console.note("nothing was done by anybody yet")
    return 0


def _transfers(operations: Operations, options: Options, query: object) -> int:
    from chunkq.api.views import Query
    from chunkq.cli.progress import size_text
    from chunkq.cli.statustable import fields_of, short_id, time_of

    assert isinstance(query, Query)
    found = operations.history(query)
    if options.json:
        for row in found.rows:
            console.emit("transfer", fields_of(row))
        return 0
    if not found.rows:
        console.note("no transfer has ended yet" if not found.total else "no more")
        return 0
    console.table(
        HEADINGS,
        [
            (
                time_of(row.ended_ms),
                short_id(row.id),
                str(row.state),
                str(row.reason or "-"),
                size_text(row.size_bytes) if row.size_bytes is not None else "-",
                f"{row.peer}:{row.name}" + (f"  {row.detail}" if row.detail else ""),
            )
            for row in found.rows
        ],
    )
    if found.pages > found.page:
        console.note(f"page {found.page} of {found.pages}: --page {found.page + 1} shows more")
    return 0
