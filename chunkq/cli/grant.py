"""`chunkq grant`: who may see what."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options
from chunkq.settings import Grant, Registry, check_prefix

EXAMPLES: Final = """\b
Examples:
  chunkq grant beta docs                  beta may see all of docs
  chunkq grant beta docs/2024             only what is in docs/2024
  chunkq grant beta docs --revoke         taken back at once
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES)
def grant(
    ctx: typer.Context,
    peer: Annotated[str, typer.Argument(help="What the peer is called here.")],
    share: Annotated[str, typer.Argument(metavar="SHARE[/PREFIX]", help="What it may see.")],
    *,
    revoke: Annotated[bool, typer.Option("--revoke", help="Take the grant back.")] = False,
    json: JsonOption = False,
) -> None:
    """Let a peer see a share, or a part of it; or no longer."""
    options = Options.of(ctx, json=json)
    registry = Registry(options.load().settings.directories)
    name, _, prefix = share.partition("/")
    wanted = Grant(peer, check_prefix(prefix))
    registry.peer(peer)
    changed = (registry.revoke if revoke else registry.grant)(name, wanted)
    left = sorted(g.prefix for found, g in registry.granted(peer) if found == name)
    if options.json:
        fields = {"peer": peer, "share": name, "prefix": wanted.prefix, "changed": changed}
        console.emit("revoked" if revoke else "granted", {**fields, "prefixes": left})
        return
    what = f"{name}/{wanted.prefix}" if wanted.prefix else name
    if not revoke:
        console.out(f"{peer} may {'now' if changed else 'already'} see {what}")
        return
    console.out(f"{peer} {'may no longer see' if changed else 'had no grant for'} {what}")
    if left:
        still = ", ".join(f"{name}/{prefix}" if prefix else name for prefix in left)
        console.warn(f"other grants of {peer} remain: {still}")
