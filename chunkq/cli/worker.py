"""What `chunkq work` runs: several loops that take jobs and do them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from chunkq.api.site import Site
from chunkq.errors import ChunkqError, PartialFailure, Stopped
from chunkq.runtime.progress import Result
from chunkq.runtime.tasks import to_the_end
from chunkq.storage.job import JobClaim
from chunkq.telemetry.logs import write as write_log

#: How often the directory of jobs is looked at.
POLL_S: Final = 1.0
#: A job that failed by something that passes is tried again after this, doubling up to the cap.
RETRY_S: Final = 5.0
RETRY_CAP_S: Final = 300.0
MAX_DOUBLINGS: Final = 6

#: Percent of the jobs under way that may be of one peer: one that is silent, or has left thousands
#: of jobs, holds up no other's.
SHARE_OF_ONE_PEER: Final = 75


class _Skipped:
    """Peers of which no job is to be claimed now."""

    def __init__(self, site: Site, full: set[str]) -> None:
        self._site = site
        self._full = full

    def __contains__(self, alias: object) -> bool:
        return alias in self._full or self._site.freezes(str(alias))


class Worker:
    """Takes jobs, several at once: one that waits for a silent peer holds up no other."""

    def __init__(self, site: Site, loops: int, *, once: bool) -> None:
        self._site = site
        #: Jobs under way by the peer that they ask first, and how many there may be of one.
        self._active: Counter[str] = Counter()
        self._most_of_one_peer = max(1, loops * SHARE_OF_ONE_PEER // 100)
        self._claiming = asyncio.Lock()
        self._store = site.hand.store
        self._once = once
        #: When a job that was given back may be taken again, by the loop's clock.
        self._not_before: dict[str, float] = {}
        self._done = 0
        self._failed = 0

    async def run(self) -> None:
        """One of several loops. Ends by cancellation, when drained, or with the last job if `once`.

        Raises what is a defect of chunkq.
        """
        clock = asyncio.get_running_loop()
        draining = self._site.hand.draining
        while not draining.is_set():
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
                with suppress(TimeoutError):
                    await asyncio.wait_for(draining.wait(), POLL_S)

    async def _claim(self) -> JobClaim | None:
        """The next job, but of no peer that has its share of the loops, or that is frozen."""
        async with self._claiming:
            most = self._most_of_one_peer
            skipped = _Skipped(
                self._site, {peer for peer, count in self._active.items() if count >= most}
            )
            taking = asyncio.ensure_future(
                asyncio.to_thread(self._store.claim, tuple(self._not_before), skipped)
            )
            try:
                claim = await to_the_end(taking)
            except asyncio.CancelledError:
                if not taking.cancelled() and (left := taking.result()) is not None:
                    await asyncio.to_thread(self._store.give_back, left)
                raise
            if claim is not None:
                self._active[claim.job.peer] += 1
            return claim

    def conclude(self) -> None:
        """Raises `PartialFailure` if not every job went well, of a run that has an end."""
        if self._failed and self._once:
            raise PartialFailure(
                f"{self._failed} of {self._failed + self._done} jobs failed",
                hint="`chunkq status` shows why",
            )

    async def _do(self, claim: JobClaim) -> None:
        job = claim.job
        write_log("job_started", request=job.job_id, attempt=job.attempts + 1)
        delays: list[float] = []

        def postponed(_: ChunkqError) -> None:
            delay = min(RETRY_S * 2 ** min(job.attempts, MAX_DOUBLINGS), RETRY_CAP_S)
            self._not_before[job.job_id] = loop.time() + delay
            delays.append(delay)

        loop = asyncio.get_running_loop()
        try:
            result = await self._begin(claim, postponed)
        except Stopped as error:  # somebody wanted it so
            write_log("job_stopped", request=job.job_id, detail=error.message)
            return
        except ChunkqError as error:
            self._failed += 1
            fields = {"request": job.job_id, "error": type(error).__name__, "detail": error.message}
            if delays:
                write_log("job_postponed", level="warning", delay_s=delays[0], **fields)
            else:
                write_log("job_failed", level="warning", **fields)
            return
        if result.failures:
            self._failed += 1
            path, first = result.failures[0]
            detail = f"{len(result.failures)} files failed, the first {path}: {first.message}"
            fields = {"request": job.job_id, "error": "PartialFailure"}
            write_log("job_failed", level="warning", detail=detail, **fields)
            return
        self._done += 1
        write_log("job_done", request=job.job_id)

    async def _begin(self, claim: JobClaim, postponed: Callable[[ChunkqError], None]) -> Result:
        """Do it to its end. A job that cannot be begun fails, or waits for its time."""
        try:
            transfer = self._site.do(claim, postponed=postponed)
        except ChunkqError as error:
            code, message = type(error).__name__, error.message
            if error.retry:
                postponed(error)
                await asyncio.to_thread(self._store.give_back, claim, code, message)
            else:
                await asyncio.to_thread(self._store.fail, claim, code, message)
            raise
        try:
            return await transfer
        except asyncio.CancelledError:
            transfer.cancel()
            await transfer.ended()
            raise
