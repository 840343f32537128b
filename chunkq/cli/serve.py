"""`chunkq serve`: an origin worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, MetricsOption, Options

if TYPE_CHECKING:
    from chunkq.settings import Settings
    from chunkq.telemetry.notify import Notifier

EXAMPLES: Final = """\b
Examples:
  chunkq serve             answer peers until Ctrl-C or SIGTERM
  chunkq -v serve          and log every request
\b
Start as many as you like, on any number of hosts with the same keys and
files. SIGTERM lets a worker finish what it has, and exits 0.
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES)
def serve(ctx: typer.Context, *, metrics: MetricsOption = None, json: JsonOption = False) -> int:
    """Answer the requests of peers, as shares and grants allow, until stopped."""
    options = Options.of(ctx, json=json)
    return run(options, metrics=metrics)


def run(options: Options, *, metrics: str | None = None) -> int:
    """What `workers/origin.py` runs, too."""
    from chunkq.cli.logs import configure

    settings = options.load(metrics__listen=metrics).settings
    configure(settings)
    if not options.quiet and not options.json:
        _introduce(settings)
    return asyncio.run(_serve(settings))


def _introduce(settings: Settings) -> None:
    from chunkq.settings import Registry

    registry = Registry(settings.directories)
    for problem in registry.problems:
        console.warn(problem.message)
    console.note(
        f"{settings.site_name} serves; shares: {len(registry.shares)}, peers:"
        f" {len(registry.peers)}; Ctrl-C stops"
    )
    if not registry.peers:
        console.hint("pin a peer first: chunkq peer add CARD")
    elif not registry.shares:
        console.hint("offer something: chunkq share add NAME PATH --to PEER")


async def _serve(settings: Settings) -> int:
    from chunkq.api.metrics import telling
    from chunkq.api.site import Site
    from chunkq.cli.supervised import supervised

    async def work(notifier: Notifier) -> None:
        async with Site.open(settings, role="origin") as site, telling(site):
            await site.serve(on_ready=notifier.ready)

    return await supervised(work)
