"""Chunks into the part file: open the seal, compare with the leaf, write in batches.

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

from chunkq.errors import BadSeal, DiskFull
from chunkq.ports import Delivery, PartFile
from chunkq.protocol.digest import digest
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.limits import DIGEST_SIZE_BYTES, MIB
from chunkq.protocol.packet import RawReply
from chunkq.protocol.transfer_events import Punch, Recheck
from chunkq.runtime.peer import Asked

#: A batch of so many bytes goes to the thread at once: long enough to hide the hop, short enough
#: that memory and the wait for the next commit stay small.
BATCH_BYTES: Final = 4 * MIB


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

    `on_broken` hears of a disk error; the jobs of that batch and those waiting are dropped.
    """

    def __init__(
        self,
        part: PartFile,
        geometry: Geometry,
        pool: Executor,
        on_done: Callable[[list[Job]], None],
        on_broken: Callable[[Exception], None],
    ) -> None:
        self._part = part
        self._geometry = geometry
        self._pool = pool
        self._on_done = on_done
        self._on_broken = on_broken
        self._jobs: list[Job] = []
        self._running = False
        self._idle = asyncio.Event()
        self._idle.set()

    def put(self, job: Job) -> None:
        self._jobs.append(job)
        self._start()

    async def drained(self) -> None:
        """Wait until every job given so far is done."""
        await self._idle.wait()

    def _start(self) -> None:
        if self._running or not self._jobs:
            return
        self._running = True
        self._idle.clear()
        batch = self._cut_batch()
        future = asyncio.get_running_loop().run_in_executor(self._pool, self._process, batch)
        future.add_done_callback(lambda done: self._finish(batch, done))

    def _cut_batch(self) -> list[Job]:
        size = self._geometry.chunk_size_bytes
        batch: list[Job] = []
        weight = 0
        for job in self._jobs:
            if batch and weight >= BATCH_BYTES:
                break
            weight += size * len(job.recheck.indices) if isinstance(job, RecheckJob) else size
            batch.append(job)
        del self._jobs[: len(batch)]
        return batch

    def _finish(self, batch: list[Job], future: asyncio.Future[None]) -> None:
        self._running = False
        error = future.exception()
        if error is None:
            self._on_done(batch)
        else:
            self._jobs.clear()
            self._on_broken(error if isinstance(error, Exception) else RuntimeError(repr(error)))
        if self._jobs:
            self._start()
        elif not self._running:
            self._idle.set()

    # ------------------------------------------------------------ on the thread

    def _process(self, batch: list[Job]) -> None:
        bodies: list[tuple[ChunkJob, bytes]] = []
        for job in batch:
            if isinstance(job, PunchJob):
                self._punch(job)
            elif isinstance(job, RecheckJob):
                self._write(bodies)
                bodies = []
                self._recheck(job)
            else:
                body = self._open(job)
                if body is not None:
                    bodies.append((job, body))
        self._write(bodies)

    def _punch(self, job: PunchJob) -> None:
        for first, count in job.punch.runs:
            end = min(self._geometry.offset(first + count), self._geometry.size_bytes)
            self._part.discard(self._geometry.offset(first), end - self._geometry.offset(first))

    def _open(self, job: ChunkJob) -> bytes | None:
        try:
            body = job.asked.open(job.raw)
        except BadSeal:
            job.outcome = Outcome.UNSEALED
            return None
        if len(body) != self._geometry.length(job.index):
            job.outcome = Outcome.BAD
        elif job.leaf is None:
            job.outcome = Outcome.ADOPTED
        elif digest(body) != job.leaf:
            job.outcome = Outcome.BAD
        return None if job.outcome is Outcome.BAD else body

    def _write(self, bodies: list[tuple[ChunkJob, bytes]]) -> None:
        """Write, neighbours in one call."""
        bodies.sort(key=lambda pair: pair[0].index)
        at = 0
        while at < len(bodies):
            end = at + 1
            while end < len(bodies) and bodies[end][0].index == bodies[end - 1][0].index + 1:
                end += 1
            run = bodies[at:end]
            try:
                self._part.write(self._geometry.offset(run[0][0].index), [body for _, body in run])
            except DiskFull:
                for job, _ in run:
                    job.outcome = Outcome.NO_ROOM
            at = end

    def _recheck(self, job: RecheckJob) -> None:
        good: list[int] = []
        bad: list[int] = []
        for index in job.recheck.indices:
            at = (index - job.recheck.first) * DIGEST_SIZE_BYTES
            data = self._part.read(self._geometry.offset(index), self._geometry.length(index))
            same = digest(data) == job.recheck.leaves[at : at + DIGEST_SIZE_BYTES]
            (good if same else bad).append(index)
        job.good, job.bad = tuple(good), tuple(bad)
