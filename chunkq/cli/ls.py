"""`chunkq ls`: what a peer offers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options

if TYPE_CHECKING:
    from chunkq.protocol.messages import Entry
    from chunkq.settings import Settings

EXAMPLES: Final = """\b
Examples:
  chunkq ls bob:docs            the top of a share
  chunkq ls bob:docs/2026       a directory in it
  chunkq ls --json bob:docs     one object a line
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES, no_args_is_help=True)
def ls(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SITE:SHARE[/PATH]", help="A directory.")],
    *,
    patience: Annotated[
        str | None, typer.Option(help="Give up after so long without an answer, e.g. 30s.")
    ] = None,
    json: JsonOption = False,
) -> int:
    """List a directory that a peer offers: mode, size, time and name."""
    from chunkq.cli.logs import configure

    options = Options.of(ctx, json=json)
    loaded = options.load(
        requester__patience=patience, log__level=None if options.verbose else "error"
    )
    configure(loaded.settings)
    return asyncio.run(_list(loaded.settings, source, as_json=options.json))


async def _list(settings: Settings, source: str, *, as_json: bool) -> int:
    from chunkq.api.site import Site

    async with Site.open(settings) as site:
        async for entry in site.list(source):
            if as_json:
                console.emit("entry", _fields(entry))
            else:
                console.out(_line(entry))
    return 0


def _fields(entry: Entry) -> dict[str, object]:
    return {
        "name": entry.name,
        "kind": entry.type,
        "size_bytes": entry.size,
        "mode": f"{entry.mode:04o}",
        "mtime_ns": entry.mtime_ns,
        **({"target": entry.target} if entry.target is not None else {}),
    }


def _line(entry: Entry) -> str:
    from datetime import UTC, datetime

    letter = {"dir": "d", "link": "l"}.get(entry.type, "-")
    rights = "".join(
        letter_ if entry.mode >> (8 - at) & 1 else "-" for at, letter_ in enumerate("rwxrwxrwx")
    )
    try:
        when = datetime.fromtimestamp(entry.mtime_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError):
        when = "?"
    name = entry.name + ("/" if entry.type == "dir" else "")
    target = f" -> {entry.target}" if entry.target is not None else ""
    return console.clean(f"{letter}{rights} {entry.size:>14} {when:>16} {name}{target}")
