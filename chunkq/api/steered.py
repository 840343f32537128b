"""A transfer as people steer it: its job, and what they want of it while it is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from chunkq.api.hand import Hand
from chunkq.errors import Cancelled, ChunkqError, Paused, PeerFrozen, Stopped, StorageError
from chunkq.ports import Log
from chunkq.protocol.condition import Reason
from chunkq.protocol.priority import PriorityWord, priority_word
from chunkq.protocol.transfer_events import Waiting
from chunkq.runtime.progress import Result
from chunkq.runtime.tasks import to_the_end
from chunkq.storage.control import Wish
from chunkq.storage.job import JobClaim
from chunkq.storage.jobs import JobStore

#: Who wanted it, where nobody said.
SOMEBODY: Final = "somebody"


class Steered:
    """One transfer of a process.

    `begin(store)` makes its job, `claim` is one that a worker has taken from the queue. Such a one
    goes back there where it cannot go on; `postponed` hears of it just before, with the error.
    `blocked()` says why it may ask nobody, `asks_barred()` whether it asks one whom it may not;
    `prioritise(word)` has its priority changed. Whoever has the transfer sets these three.
    """

    def __init__(
        self,
        hand: Hand,
        *,
        begin: Callable[[JobStore], JobClaim] | None = None,
        claim: JobClaim | None = None,
        postponed: Callable[[ChunkqError], None] | None = None,
        log: Log,
    ) -> None:
        self.blocked: Callable[[], Waiting | None] = lambda: None
        self.asks_barred: Callable[[], bool] = lambda: False
        self.prioritise: Callable[[PriorityWord], None] = lambda _: None
        #: Why nothing is asked, if somebody wants it so.
        self.waiting: Waiting | None = None
        self._hand = hand
        self._begin = begin
        self._claim = claim
        self._queued = claim is not None
        self._postponed = postponed
        self._log = log
        self._wish: Wish | None = None
        self._heeded: set[tuple[str, str, int]] = set()
        self._changed = asyncio.Event()
        self._work: asyncio.Future[Result] | None = None
        #: The work was stopped to begin again, or to end, as somebody wanted.
        self._stopped = False
        #: One change of the job at a time.
        self._changing = asyncio.Lock()

    @property
    def job_id(self) -> str:
        """Empty before it has a job."""
        return self._claim.job.job_id if self._claim is not None else ""

    async def run(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Do `attempt`, again where it was stopped and may go on; and say in the job how it ended.

        Raises `Paused`, `Cancelled`, `PeerFrozen`, and what the attempt raises.
        """
        try:
            await self._hand.attend()
            self._hand.watch(self)
            if self._queued or self._hand.has_room:
                await self.begin()
            result = await self._attempts(attempt)
        except BaseException as error:
            await self._end(error)
            raise
        await self._end(result)
        return result

    async def begin(self) -> None:
        """It has a job from now on; a second time nothing happens. Raises `StorageError`."""
        if self._claim is None and self._begin is not None:
            self._hand.expect(self)
            async with self._hand.beginning:
                await self._make(self._begin)
        if self._claim is not None:
            self._hand.hold(self._claim.job.job_id, self)

    async def _make(self, begin: Callable[[JobStore], JobClaim]) -> None:
        making = asyncio.ensure_future(asyncio.to_thread(begin, self._hand.store))
        try:
            await to_the_end(making)
        finally:
            if making.done() and not making.cancelled() and making.exception() is None:
                self._claim = making.result()

    # ------------------------------------------------------------ what people want

    def heed(self, wish: Wish) -> None:
        """Somebody wants something of it; told again until it has happened."""
        mark = (wish.want, wish.priority, wish.at_ms)
        if mark in self._heeded:
            return
        self._heeded.add(mark)
        if wish.want == "priority":
            word = priority_word(wish.priority)
            self.prioritise(word)
            changing = asyncio.ensure_future(self._reprioritise(word, wish.by))
            changing.add_done_callback(lambda done: done.exception())
            return
        if self._wish is None or wish.want == "cancel":
            self._wish = wish
        self.stop()

    def look_at_frozen(self) -> None:
        """Others are frozen than before."""
        if self.waiting is not None or self.asks_barred():
            self.stop()

    def stop(self) -> None:
        """Stop resumably what is under way, and look whether and how to go on."""
        self._changed.set()
        if self._work is not None and not self._work.done():
            self._stopped = True
            self._work.cancel()

    async def _reprioritise(self, word: PriorityWord, by: str) -> None:
        async with self._changing:
            if self._claim is None:
                return
            try:
                await asyncio.to_thread(self._hand.store.reprioritise, self._claim, word, by)
            except StorageError as error:
                self._log("job_not_recorded", level="warning", detail=error.message)

    # ------------------------------------------------------------ its course

    async def _attempts(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        this = asyncio.current_task()
        assert this is not None
        while True:
            if self._wish is not None:
                raise self._wanted(self._wish)
            self._changed.clear()
            self.waiting = self.blocked()
            if self.waiting is not None:
                if self._queued:
                    raise PeerFrozen(self.waiting.detail, reason=Reason(self.waiting.reason))
                await self._changed.wait()
                continue
            self._stopped = False
            self._work = asyncio.ensure_future(attempt())
            try:
                return await self._work
            except asyncio.CancelledError:
                if this.cancelling() or not self._stopped:
                    raise
            except ChunkqError:
                if self._wish is None:
                    raise

    def _wanted(self, wish: Wish) -> Stopped:
        """How a transfer ends that somebody stopped."""
        by, job_id = wish.by or SOMEBODY, self.job_id
        if wish.want == "pause":
            hint = f"`chunkq resume {job_id}` or the same command goes on"
            return Paused(f"paused by {by}", hint=hint)
        kept = "what had come was removed" if wish.drop else "the same command goes on"
        return Cancelled(f"cancelled by {by}", hint=f"`chunkq retry {job_id}`; {kept}")

    # ------------------------------------------------------------ its end

    async def _end(self, outcome: Result | BaseException) -> None:
        """Say in the job how it ended; never left half done, whoever is impatient."""
        if self._claim is None:
            self._hand.let_go("", self)
            return
        await to_the_end(asyncio.ensure_future(self._leave(self._claim, outcome)))

    async def _leave(self, claim: JobClaim, outcome: Result | BaseException) -> None:
        async with self._changing:
            try:
                await asyncio.to_thread(self._record, self._hand.store, claim, outcome)
            except StorageError as error:
                # The transfer is as it is; the job counts as one whose process has died.
                self._log("job_not_recorded", level="error", detail=error.message)
            finally:
                self._hand.let_go(claim.job.job_id, self)

    def _record(self, store: JobStore, claim: JobClaim, outcome: Result | BaseException) -> None:
        if isinstance(outcome, Result):
            self._record_result(store, claim, outcome)
        elif isinstance(outcome, Paused):
            store.leave_paused(claim, Reason.BY_OPERATOR, self._wish.by if self._wish else "")
        elif isinstance(outcome, Cancelled):
            by, drop = (self._wish.by, self._wish.drop) if self._wish else ("", False)
            store.leave_cancelled(claim, by, drop=drop)
        elif isinstance(outcome, PeerFrozen):
            store.give_back(claim, reason=outcome.reason)
        elif self._queued:
            self._record_queued(store, claim, outcome)
        elif isinstance(outcome, ChunkqError):
            store.fail(claim, type(outcome).__name__, outcome.message)
        elif isinstance(outcome, Exception):
            store.fail(claim, type(outcome).__name__, "an internal error")
        else:
            store.leave_paused(claim, Reason.INTERRUPTED)

    def _record_result(self, store: JobStore, claim: JobClaim, result: Result) -> None:
        if result.failures:
            path, error = result.failures[0]
            count = len(result.failures)
            message = f"{count} files failed, the first {path}: {error.message}"
            store.fail(claim, "PartialFailure", message)
            return
        store.complete(
            claim,
            size_bytes=result.size_bytes,
            new_bytes=result.new_bytes,
            content_digest=result.content_digest,
        )

    def _record_queued(self, store: JobStore, claim: JobClaim, outcome: BaseException) -> None:
        """Of a job from the queue, for any worker. One that crashed is not let go of here."""
        if isinstance(outcome, asyncio.CancelledError):
            store.give_back(claim)
        elif isinstance(outcome, ChunkqError) and outcome.retry:
            if self._postponed is not None:
                self._postponed(outcome)
            store.give_back(claim, type(outcome).__name__, outcome.message)
        elif isinstance(outcome, ChunkqError):
            store.fail(claim, type(outcome).__name__, outcome.message)
