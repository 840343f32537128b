"""`chunkq drain`: let a process finish what it has, and end."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options
from chunkq.errors import NotFound, UsageError

EXAMPLES: Final = """\b
Examples:
  chunkq drain k3v9x0a2b1c4      that worker, by its name in `chunkq status`
  chunkq drain --all             all workers of this host, before an upgrade
"""
#: Roles of processes that run until somebody ends them; what a person started ends by itself.
_ROLES: Final = frozenset({"origin", "requester", "embedded"})

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES, no_args_is_help=True)
def drain(
    ctx: typer.Context,
    instances: Annotated[
        list[str] | None, typer.Argument(metavar="[INSTANCE...]", help="Names of processes.")
    ] = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All workers of this host.")] = False,
    json: JsonOption = False,
) -> int:
    """Let workers take nothing new, finish what they have, and end with exit code 0."""
    from chunkq.settings.actor import actor
    from chunkq.storage.control import Control
    from chunkq.storage.reports import Reports

    if bool(instances) == everything:
        raise UsageError("which workers?", hint="give their names, or --all")
    options = Options.of(ctx, json=json)
    state = options.load().settings.directories.state
    running = {report.instance for report in Reports(state).read_all() if report.role in _ROLES}
    chosen = sorted(running) if everything else list(dict.fromkeys(instances or ()))
    for name in chosen:
        if name not in running:
            known = ", ".join(sorted(running)) or "none runs"
            raise NotFound(f"no worker of this host is called {name!a}", hint=f"known: {known}")
    if not chosen:
        raise NotFound("no worker of this site runs on this host", hint="chunkq status")
    control, by = Control(state), actor()
    try:
        for name in chosen:
            control.drain(name, by)
            if options.json:
                console.emit("draining", {"instance": name})
            else:
                console.out(f"draining: {name}")
    finally:
        control.close()
    return 0
