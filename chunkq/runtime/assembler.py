"""Chunks into the part file: open the seal, compare with the leaf, write neighbours in one call.

All of it is work that releases the interpreter, done on one thread at a time per part file;
jobs are done in the order given, so that a recheck sees what was written before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from chunkq.errors import BadFrame, BadSeal, DiskFull
from chunkq.ports import Delivery, PartFile
from chunkq.protocol.digest import digest
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.limits import DIGEST_SIZE_BYTES
from chunkq.protocol.packet import RawReply
from chunkq.protocol.transfer_events import Punch, Recheck
from chunkq.runtime.pages import BUFFER_BYTES, Pages
from chunkq.runtime.peer import Asked

#: A batch of so many bytes goes to the thread at once: long enough to hide the hop, short enough
#: that memory and the wait for the next commit stay small. It fits into one buffer: chunk sizes are
#: powers of two, none larger than this.
BATCH_BYTES: Final = BUFFER_BYTES
#: With less than this it waits a moment for more: to wake a thread costs as much as to open and
#: write half a chunk, on a virtual machine with an idle core as much as two.
WORTH_A_HOP_BYTES: Final = BATCH_BYTES // 2
#: How long: at a rate where that much comes in less, the core is not idle; nor does a window close.
GATHER_S: Final = 0.005


class Outcome(Enum):
    STORED = auto()
    ADOPTED = auto()
    BAD = auto()
    UNSEALED = auto()
    NO_ROOM = auto()


@dataclass(slots=True)
class ChunkJob:
    """A landed reply. `leaf` None: of an earlier process, to be written and compared later."""

    asked: Asked
    raw: RawReply
    delivery: Delivery
    index: int
    leaf: bytes | None
    version: int
    outcome: Outcome = Outcome.STORED


@dataclass(slots=True)
class RecheckJob:
    recheck: Recheck
    version: int
    good: tuple[int, ...] = ()
    bad: tuple[int, ...] = ()


@dataclass(slots=True)
class PunchJob:
    punch: Punch


Job = ChunkJob | RecheckJob | PunchJob


class Assembler:
    """The jobs of one part file. `on_done` gets each batch back, on the loop.

    `on_broken` hears of a disk error; before, `on_dropped` gets the jobs of that batch and those
    waiting back, of which nothing comes.
    """

    def __init__(
        self,
        part: PartFile,
        geometry: Geometry,
        pool: Executor,
        pages: Pages,
        *,
        on_done: Callable[[list[Job]], None],
        on_broken: Callable[[Exception], None],
        on_dropped: Callable[[list[Job]], None] | None = None,
    ) -> None:
        self._part = part
        self._geometry = geometry
        self._pool = pool
        self._pages = pages
        self._on_done = on_done
        self._on_broken = on_broken
        self._on_dropped = on_dropped
        self._jobs: list[Job] = []
        self._weight = 0
        self._gathering: asyncio.TimerHandle | None = None
        self._running = False
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, job: Job) -> None:
        """It is done soon; at once after `flush`."""
        self._idle.clear()
        self._jobs.append(job)
        self._weight += self._weight_of(job)
        self._start_if_worth_it()

    def flush(self) -> None:
        """Nothing more will come for now."""
        if self._jobs and not self._running:
            self._start()

    async def drained(self) -> None:
        """Wait until every job given so far is done."""
        self.flush()
        await self._idle.wait()

    def _start_if_worth_it(self) -> None:
        if self._running:
            return
        if self._weight >= WORTH_A_HOP_BYTES:
            self._start()
        elif self._gathering is None:
            loop = asyncio.get_running_loop()
            self._gathering = loop.call_later(GATHER_S, self.flush)

    def _start(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        self._running = True
        batch = self._cut_batch()
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._process, batch)
        future.add_done_callback(lambda done: self._finish(batch, done))

    def _cut_batch(self) -> list[Job]:
        batch: list[Job] = []
        weight = 0
        for job in self._jobs:
            if batch and weight >= BATCH_BYTES:
                break
            weight += self._weight_of(job)
            batch.append(job)
        del self._jobs[: len(batch)]
        self._weight -= weight
        return batch

    def _weight_of(self, job: Job) -> int:
        size = self._geometry.chunk_size_bytes
        match job:
            case ChunkJob():
                return size
            case RecheckJob():
                return size * len(job.recheck.indices)
            case PunchJob():
                return 0

    def _finish(self, batch: list[Job], future: asyncio.Future[None]) -> None:
        self._running = False
        error = future.exception()
        if error is None:
            self._on_done(batch)
        else:
            dropped, self._jobs, self._weight = [*batch, *self._jobs], [], 0
            if self._on_dropped is not None:
                self._on_dropped(dropped)
            self._on_broken(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        if self._jobs:
            self._start_if_worth_it()
        elif not self._running:
            self._idle.set()

    # ------------------------------------------------------------ on the thread

    def _process(self, batch: list[Job]) -> None:
        chunks: list[ChunkJob] = []
        with self._pages.borrowed() as buffer:
            for job in batch:
                if isinstance(job, ChunkJob):
                    chunks.append(job)
                elif isinstance(job, PunchJob):
                    self._punch(job)
                else:
                    self._store(chunks, buffer)
                    chunks = []
                    self._recheck(job, buffer)
            self._store(chunks, buffer)

    def _punch(self, job: PunchJob) -> None:
        for first, count in job.punch.runs:
            end = min(self._geometry.offset(first + count), self._geometry.size_bytes)
            self._part.discard(self._geometry.offset(first), end - self._geometry.offset(first))

    def _store(self, jobs: list[ChunkJob], buffer: memoryview) -> None:
        """Open them side by side in the buffer, and write neighbours in one call."""
        run: list[ChunkJob] = []
        start = end = 0
        for job in sorted(jobs, key=_index):
            length = self._geometry.length(job.index)
            if not self._open(job, buffer[end : end + length]):
                continue
            if run and job.index != run[-1].index + 1:
                self._write(run, buffer[start:end])
                run, start = [], end
            run.append(job)
            end += length
        self._write(run, buffer[start:end])

    def _open(self, job: ChunkJob, room: memoryview) -> bool:
        """Whether the chunk is in `room` and may be written; else its outcome says why not."""
        try:
            if job.raw.header.packed:
                room[:] = job.asked.open(job.raw, room.nbytes)
            elif job.raw.body_size == room.nbytes:
                job.asked.open_into(job.raw, room)
            else:
                job.asked.open(job.raw)
                job.outcome = Outcome.BAD
        except BadSeal:
            job.outcome = Outcome.UNSEALED
        except BadFrame:
            job.outcome = Outcome.BAD
        if job.outcome is not Outcome.STORED:
            return False
        if job.leaf is None:
            job.outcome = Outcome.ADOPTED
        elif digest(room) != job.leaf:
            job.outcome = Outcome.BAD
        return job.outcome is not Outcome.BAD

    def _write(self, run: list[ChunkJob], data: memoryview) -> None:
        if not run:
            return
        try:
            self._part.write(self._geometry.offset(run[0].index), [data])
        except DiskFull:
            for job in run:
                job.outcome = Outcome.NO_ROOM

    def _recheck(self, job: RecheckJob, buffer: memoryview) -> None:
        good: list[int] = []
        bad: list[int] = []
        for index in job.recheck.indices:
            at = (index - job.recheck.first) * DIGEST_SIZE_BYTES
            room = buffer[: self._geometry.length(index)]
            data = room[: self._part.read_into(self._geometry.offset(index), room)]
            same = digest(data) == job.recheck.leaves[at : at + DIGEST_SIZE_BYTES]
            (good if same else bad).append(index)
        job.good, job.bad = tuple(good), tuple(bad)


def _index(job: ChunkJob) -> int:
    return job.index
