"""`chunkq work`: a requester worker, which does the jobs that `get --queue` left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from chunkq.cli.options import JsonOption, Options

if TYPE_CHECKING:
    from chunkq.api.site import Site
    from chunkq.settings import Settings
    from chunkq.storage.jobs import JobClaim, JobStore
    from chunkq.telemetry.notify import Notifier

EXAMPLES: Final = """\b
Examples:
  chunkq get --queue bob:docs/report.pdf    leave a job
  chunkq work                               do the jobs, and those to come
  chunkq work --once                        do what is there, and exit
"""

#: How often the directory of jobs is looked at.
POLL_S: Final = 1.0
#: A job that failed by something that passes is tried again after this, doubling up to the cap.
RETRY_S: Final = 5.0
RETRY_CAP_S: Final = 300.0

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES)
def work(
    ctx: typer.Context,
    *,
    once: bool = typer.Option(False, "--once", help="Exit when no job is left to do."),
    json: JsonOption = False,
) -> int:
    """Do the jobs that `chunkq get --queue` left, until stopped."""
    return run(Options.of(ctx, json=json), once=once)


def run(options: Options, *, once: bool = False) -> int:
    """What `workers/requester.py` runs, too."""
    from chunkq.cli.logs import configure

    settings = options.load().settings
    configure(settings)
    return asyncio.run(_work(settings, once=once))


async def _work(settings: Settings, *, once: bool) -> int:
    from chunkq.api.site import Site
    from chunkq.cli.supervised import supervised
    from chunkq.storage.jobs import JobStore

    store = JobStore(settings.directories.state)

    async def loop(notifier: Notifier) -> None:
        async with Site.open(settings) as site:
            notifier.ready()
            await _take_jobs(site, store, once=once)

    try:
        return await supervised(loop)
    finally:
        store.close()


async def _take_jobs(site: Site, store: JobStore, *, once: bool) -> None:
    delay = RETRY_S
    while True:
        await asyncio.to_thread(store.recover)
        claim = await asyncio.to_thread(store.claim)
        if claim is None:
            if once:
                return
            await asyncio.sleep(POLL_S)
        elif await _do(site, store, claim):
            delay = RETRY_S
        elif once:
            return
        else:
            await asyncio.sleep(delay)
            delay = min(delay * 2, RETRY_CAP_S)


async def _do(site: Site, store: JobStore, claim: JobClaim) -> bool:
    """Do one job; False if it is to be tried again later."""
    from chunkq.errors import ChunkqError
    from chunkq.telemetry.logs import write as write_log

    job = claim.job
    write_log("job_started", request=job.job_id, attempt=job.attempts + 1)
    try:
        for source in job.sources:
            result = await site.fetch(
                source,
                Path(job.destination),
                overwrite=bool(job.options.get("overwrite")),
                links=bool(job.options.get("links")),
            )
            if result.failures:
                path, error = result.failures[0]
                raise type(error)(f"{len(result.failures)} files failed, first {path}: {error}")
    except asyncio.CancelledError:
        await asyncio.to_thread(store.give_back, claim)
        raise
    except ChunkqError as error:
        code, message = type(error).__name__, error.message
        write_log("job_failed", level="warning", request=job.job_id, code=code, detail=message)
        if error.retry:
            await asyncio.to_thread(store.give_back, claim, code, message)
            return False
        await asyncio.to_thread(store.fail, claim, code, message)
        return True
    await asyncio.to_thread(store.complete, claim)
    write_log("job_done", request=job.job_id)
    return True
