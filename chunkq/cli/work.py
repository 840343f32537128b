"""`chunkq work`: a requester worker, which does the jobs that `get --queue` left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import typer

from chunkq.cli.options import JsonOption, MetricsOption, Options

if TYPE_CHECKING:
    from chunkq.settings import Settings
    from chunkq.telemetry.notify import Notifier

EXAMPLES: Final = """\b
Examples:
  chunkq get --queue bob:docs/report.pdf    leave a job
  chunkq work                               do the jobs, and those to come
  chunkq work --once                        do what is there, and exit
  chunkq drain INSTANCE                     let it finish what it has, and end
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES)
def work(
    ctx: typer.Context,
    *,
    once: bool = typer.Option(False, "--once", help="Exit when no job is left to do."),
    metrics: MetricsOption = None,
    json: JsonOption = False,
) -> int:
    """Do the jobs that `chunkq get --queue` left, until stopped."""
    return run(Options.of(ctx, json=json), once=once, metrics=metrics)


def run(options: Options, *, once: bool = False, metrics: str | None = None) -> int:
    """What `workers/requester.py` runs, too."""
    from chunkq.cli.logs import configure

    settings = options.load(metrics__listen=metrics).settings
    configure(settings)
    return asyncio.run(_work(settings, once=once))


async def _work(settings: Settings, *, once: bool) -> int:
    from chunkq.api.historian import keeping_history
    from chunkq.api.metrics import telling
    from chunkq.api.site import Site
    from chunkq.cli.supervised import supervised
    from chunkq.cli.worker import Worker
    from chunkq.telemetry.logs import write as write_log

    async def loop(notifier: Notifier) -> None:
        async with (
            keeping_history(settings, write_log),
            Site.open(settings, role="requester") as site,
            telling(site),
        ):
            reporter = site.reporting.reporter
            await site.hand.attend(reporter.who.instance if reporter is not None else "")
            notifier.ready()
            worker = Worker(site, settings.requester.concurrency, once=once)
            async with asyncio.TaskGroup() as group:
                for _ in range(settings.requester.concurrency):
                    group.create_task(worker.run())
            worker.conclude()

    return await supervised(loop)
