"""`chunkq status`: what is under way, waits, failed, is done, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options
from chunkq.cli.selection import PeerOption, ReasonOption, StateOption, TextOption

if TYPE_CHECKING:
    from chunkq.api.operations import Operations
    from chunkq.api.views import Filter, TransferRow

EXAMPLES: Final = """\b
Examples:
  chunkq status                        what moves, waits or failed, and why
  chunkq status --watch                the same, drawn again once a second
  chunkq status 0123abcd               one in full, by its id or its beginning
  chunkq status --peer beta --state stalled
  chunkq status --all                  and what is done or cancelled
  chunkq status --workers              the processes of this site
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES)
def status(
    ctx: typer.Context,
    name: Annotated[
        str | None, typer.Argument(metavar="[TRANSFER]", help="Its id, a beginning, or its source.")
    ] = None,
    *,
    peer: PeerOption = None,
    state: StateOption = None,
    reason: ReasonOption = None,
    text: TextOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show what is done or cancelled, too.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing, until Ctrl-C.")] = False,
    workers: Annotated[bool, typer.Option("--workers", help="Show processes instead.")] = False,
    json: JsonOption = False,
) -> int:
    """Show transfers: where each stands and why. Nothing need be running."""
    from chunkq.api.operations import Operations
    from chunkq.cli.selection import filter_of
    from chunkq.settings.actor import actor

    options = Options.of(ctx, json=json)
    wanted = filter_of(peer=peer, states=state, reasons=reason, text=text)
    operations = Operations(options.load().settings, by=actor())
    try:
        operations.refresh()
        if workers:
            return _workers(operations, options)
        if name is not None:
            return _one(operations, options, name)
        shown = _unless_told(wanted, everything=everything)
        if watch:
            from chunkq.cli.watching import watch as go_on

            return go_on(operations, shown, as_json=options.json)
        return _list(rows_of(operations, shown), options)
    finally:
        operations.close()


def _unless_told(wanted: Filter, *, everything: bool) -> Filter:
    """What is over and went as it should is shown only where that was asked for."""
    from dataclasses import replace

    from chunkq.protocol.condition import State

    if everything or wanted.states:
        return wanted
    return replace(wanted, states=frozenset(State) - {State.DONE, State.CANCELLED})


def rows_of(operations: Operations, wanted: Filter) -> list[TransferRow]:
    """All rows that the filter leaves; what needs somebody first."""
    from chunkq.api.views import MAX_PAGE_ROWS, Query

    found: list[TransferRow] = []
    page = 1
    while True:
        one = operations.transfers(Query(filter=wanted, page=page, rows=MAX_PAGE_ROWS))
        found += one.rows
        if page >= one.pages:
            return found
        page += 1


def _list(rows: list[TransferRow], options: Options) -> int:
    from chunkq.cli.statustable import fields_of, lines_of

    if options.json:
        for row in rows:
            console.emit("transfer", fields_of(row))
        return 0
    if not rows:
        console.note("nothing is under way, and no job waits")
        return 0
    for line in lines_of(rows):
        console.out(line)
    return 0


def _one(operations: Operations, options: Options, name: str) -> int:
    from chunkq.cli.statustable import fields_of_view, text_of_view

    view = operations.transfer(_id_of(operations, name))
    if options.json:
        console.emit("transfer", fields_of_view(view))
        return 0
    for line in text_of_view(view):
        console.out(line)
    return 0


def _id_of(operations: Operations, name: str) -> str:
    """The transfer that is meant. Raises `UsageError` for the beginning of several."""
    from chunkq.api.views import Filter
    from chunkq.cli.selection import LEAST_CHARS
    from chunkq.errors import UsageError

    rows = rows_of(operations, Filter())
    if any(row.id == name for row in rows):
        return name
    found = [row.id for row in rows if name in row.sources]
    if found:
        return found[0]  # of one source several times: the one that needs somebody, or the newest
    if len(name) >= LEAST_CHARS:
        found = [
            row.id
            for row in rows
            if row.id.startswith(name) or row.id.partition("-")[2].startswith(name)
        ]
    if len(found) > 1:
        ids = ", ".join(sorted(found)[:3])
        raise UsageError(f"{name!a} is the beginning of {len(found)} ids: {ids}", hint="give more")
    return found[0] if found else name


def _workers(operations: Operations, options: Options) -> int:
    from dataclasses import asdict

    from chunkq.cli.statustable import workers_table

    found = operations.workers()
    if options.json:
        for each in found:
            console.emit("worker", asdict(each))
    elif found:
        console.table(*workers_table(found))
    else:
        console.note("no process of this site has reported")
    return 0
