"""Chunks as they arrive: which are of use, into the assembler, and what came of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Executor

from chunkq.ports import Delivery, Log, PartFile
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.packet import RawReply
from chunkq.protocol.transfer import Transfer
from chunkq.runtime.assembler import Assembler, ChunkJob, Job, Outcome, PunchJob, RecheckJob
from chunkq.runtime.committing import Committer
from chunkq.runtime.pages import Pages
from chunkq.runtime.peer import Asked, PeerLink, Requester
from chunkq.runtime.tally import Tally


class Landing:
    """One version's chunks on their way into one part file."""

    def __init__(
        self,
        transfer: Transfer,
        part: PartFile,
        geometry: Geometry,
        pool: Executor,
        *,
        committer: Committer,
        tally: Tally,
        feed: Callable[[ev.Event], None],
        lanes: Mapping[PeerLink, int],
        pages: Pages,
        broken: Callable[[Exception], None],
        log: Log,
    ) -> None:
        self._tally = tally
        self._landed_bytes: Counter[Requester] = Counter()
        self._transfer = transfer
        self._geometry = geometry
        self._committer = committer
        self._feed = feed
        self._lanes = lanes
        self._log = log
        self._writing: set[int] = set()
        self._assembler = Assembler(
            part, geometry, pool, pages, on_done=self._on_jobs, on_broken=broken
        )

    def take(self, asked: Asked, raw: RawReply, delivery: Delivery) -> None:
        """One reply with a chunk; what nobody wants is let go of."""
        transfer, index = self._transfer, raw.header.index
        adopted = asked.token == 0
        leaf = transfer.leaf(index) if transfer.wants(index) else None
        stale = not adopted and (asked.version != transfer.version or leaf is None)
        if stale or not transfer.wants(index) or index in self._writing:
            self._tally.duplicate_chunks += 1
            asked.peer.requester.done(delivery)
            return
        self._writing.add(index)
        self._landed_bytes[asked.peer.requester] += len(delivery.body)
        asked.peer.requester.landed(len(delivery.body))
        if not adopted:
            self._feed(ev.ChunkLanded(index, self._lanes[asked.peer]))
        self._assembler.put(ChunkJob(asked, raw, delivery, index, leaf, transfer.version))

    def recheck(self, effect: ev.Recheck) -> None:
        self._assembler.put(RecheckJob(effect, self._transfer.version))

    def punch(self, effect: ev.Punch) -> None:
        self._assembler.put(PunchJob(effect))

    async def drained(self) -> None:
        """Wait until what has arrived is written, or dropped because the disk failed."""
        await self._assembler.drained()
        for requester, size_bytes in self._landed_bytes.items():
            requester.written(size_bytes)
        self._landed_bytes.clear()

    def _on_jobs(self, jobs: list[Job]) -> None:
        for job in jobs:
            if isinstance(job, ChunkJob):
                self._on_chunk(job)
            elif isinstance(job, RecheckJob) and job.version == self._transfer.version:
                self._feed(ev.Rechecked(job.good, job.bad))

    def _on_chunk(self, job: ChunkJob) -> None:
        requester, lane = job.asked.peer.requester, self._lanes[job.asked.peer]
        self._writing.discard(job.index)
        self._landed_bytes[requester] -= len(job.delivery.body)
        requester.written(len(job.delivery.body))
        if job.outcome in (Outcome.STORED, Outcome.ADOPTED):
            self._committer.keep(job.delivery, requester.done)
            self._tally.came(lane, self._geometry.length(job.index))
        else:
            requester.done(job.delivery)
        if job.version != self._transfer.version:
            return
        match job.outcome:
            case Outcome.STORED:
                self._feed(ev.ChunkStored(job.index, job.asked.token, lane))
            case Outcome.ADOPTED:
                self._feed(ev.ChunkAdopted(job.index, lane))
            case Outcome.BAD:
                self._log("chunk_bad", level="warning", chunk=job.index)
                self._feed(ev.ChunkBad(job.index, lane))
            case Outcome.UNSEALED:
                self._feed(ev.ChunkDropped(job.index, lane))
            case Outcome.NO_ROOM:
                self._feed(ev.ChunkDropped(job.index, lane))
                self._feed(ev.SpaceGone("no room for the next chunk"))
