"""`chunkq work`: a requester worker, which does the jobs that `get --queue` left."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from chunkq.cli.options import JsonOption, Options

if TYPE_CHECKING:
    from chunkq.api.site import Site
    from chunkq.settings import Settings
    from chunkq.storage.jobs import Job, JobClaim, JobStore
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
MAX_DOUBLINGS: Final = 6

#: Percent of the jobs under way that may be of one peer: one that is silent, or has left thousands
#: of jobs, holds up no other's.
SHARE_OF_ONE_PEER: Final = 75

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
        async with Site.open(settings, role="requester") as site:
            notifier.ready()
            worker = Worker(site, store, settings.requester.concurrency, once=once)
            async with asyncio.TaskGroup() as group:
                for _ in range(settings.requester.concurrency):
                    group.create_task(worker.run())
            worker.conclude()

    try:
        return await supervised(loop)
    finally:
        store.close()


class Worker:
    """Takes jobs, several at once: one that waits for a silent peer holds up no other."""

    def __init__(self, site: Site, store: JobStore, loops: int, *, once: bool) -> None:
        self._site = site
        #: Jobs under way by the peer that they ask first, and how many there may be of one.
        self._active: Counter[str] = Counter()
        self._most_of_one_peer = max(1, loops * SHARE_OF_ONE_PEER // 100)
        self._claiming = asyncio.Lock()
        self._store = store
        self._once = once
        #: When a job that was given back may be taken again, by the loop's clock.
        self._not_before: dict[str, float] = {}
        self._done = 0
        self._failed = 0

    async def run(self) -> None:
        """One of several loops. Ends only by cancellation, or with the last job if `once`."""
        clock = asyncio.get_running_loop()
        while True:
            if not self._once:
                now = clock.time()
                self._not_before = {id_: at for id_, at in self._not_before.items() if at > now}
            claim = await self._claim()
            if claim is not None:
                try:
                    await self._do(claim)
                finally:
                    self._active[claim.job.peer] -= 1
            elif self._once:
                return
            else:
                await asyncio.sleep(POLL_S)

    async def _claim(self) -> JobClaim | None:
        """The next job, but of no peer that has its share of the loops."""
        async with self._claiming:
            most = self._most_of_one_peer
            full = {peer for peer, count in self._active.items() if count >= most}
            claim = await asyncio.to_thread(self._store.claim, tuple(self._not_before), full)
            if claim is not None:
                self._active[claim.job.peer] += 1
            return claim

    def conclude(self) -> None:
        """Raises `PartialFailure` if not every job went well."""
        from chunkq.errors import PartialFailure

        if self._failed:
            raise PartialFailure(
                f"{self._failed} of {self._failed + self._done} jobs failed",
                hint="`chunkq status` shows why",
            )

    async def _do(self, claim: JobClaim) -> None:
        from chunkq.errors import ChunkqError
        from chunkq.telemetry.logs import write as write_log

        job = claim.job
        write_log("job_started", request=job.job_id, attempt=job.attempts + 1)
        try:
            await self._get(job)
        except asyncio.CancelledError:
            self._store.give_back(claim)
            raise
        except ChunkqError as error:
            self._failed += 1
            code, message = type(error).__name__, error.message
            fields = {"request": job.job_id, "error": code, "detail": message}
            if error.retry:
                delay = min(RETRY_S * 2 ** min(job.attempts, MAX_DOUBLINGS), RETRY_CAP_S)
                self._not_before[job.job_id] = asyncio.get_running_loop().time() + delay
                await asyncio.to_thread(self._store.give_back, claim, code, message)
                write_log("job_postponed", level="warning", delay_s=delay, **fields)
            else:
                await asyncio.to_thread(self._store.fail, claim, code, message)
                write_log("job_failed", level="warning", **fields)
            return
        self._done += 1
        await asyncio.to_thread(self._store.complete, claim)
        write_log("job_done", request=job.job_id)

    async def _get(self, job: Job) -> None:
        """Raises `PartialFailure` naming the first file of a tree that could not be had."""
        from chunkq.errors import PartialFailure
        from chunkq.protocol.priority import priority_word

        source, *mirrors = job.sources
        result = await self._site.fetch(
            source,
            Path(job.destination),
            mirrors=mirrors,
            overwrite=bool(job.options.get("overwrite")),
            links=bool(job.options.get("links")),
            priority=priority_word(job.options.get("priority")),
        )
        if result.failures:
            path, error = result.failures[0]
            raise PartialFailure(
                f"{len(result.failures)} files failed, the first {path}: {error.message}"
            )
