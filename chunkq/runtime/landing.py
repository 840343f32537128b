"""Chunks as they arrive: which are of use, into the assembler, and what came of each."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import Executor

from chunkq.ports import Delivery, Log, PartFile
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.packet import RawReply
from chunkq.protocol.transfer import Transfer
from chunkq.runtime.assembler import Assembler, ChunkJob, Job, Outcome, PunchJob, RecheckJob
from chunkq.runtime.committing import Committer
from chunkq.runtime.pages import Pages
from chunkq.runtime.peer import Asked, PeerLink, Requester
from chunkq.runtime.tally import Tally

#: A reply that was not needed when it came.
_Copy = tuple[Asked, RawReply, Delivery]


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
        feed: Callable[..., None],
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
        #: Chunks on the thread, and other copies of them that came meanwhile: whole, as the one on
        #: the thread may not be what was asked for.
        self._writing: dict[int, list[_Copy]] = {}
        #: Written and not yet compared: of these another copy may come, and is nothing new.
        self._adopted = Bitmap(geometry.chunk_count)
        #: Holes that are not yet made, though their bits are set.
        self._punching = 0
        self._punched = asyncio.Event()
        #: What has landed in this turn of the loop: told, and given to the thread, at its end.
        self._landed: list[ev.Event] = []
        self._assembler = Assembler(
            part,
            geometry,
            pool,
            pages,
            on_done=self._on_jobs,
            on_broken=broken,
            on_dropped=self._on_dropped,
        )

    def take(self, asked: Asked, raw: RawReply, delivery: Delivery) -> None:
        """One reply with a chunk; what nobody wants is let go of."""
        transfer, index = self._transfer, raw.header.index
        adopted = asked.token == 0
        leaf = transfer.leaf(index) if transfer.wants(index) else None
        stale = not adopted and (asked.version != transfer.version or leaf is None)
        if stale or not transfer.wants(index) or index in self._writing:
            self._tally.duplicate_chunks += 1
            if index in self._writing:
                self._writing[index].append((asked, raw, delivery))
                self._hold(asked, delivery)
                return
            self._let_go(asked, index, delivery)
            return
        self._writing[index] = []
        self._hold(asked, delivery)
        if not adopted:
            if not self._landed:
                asyncio.get_running_loop().call_soon(self._tell_landed)
            self._landed.append(ev.ChunkLanded(index, self._lanes[asked.peer]))
        self._assembler.put(ChunkJob(asked, raw, delivery, index, leaf, transfer.version))

    def _let_go(self, asked: Asked, index: int, delivery: Delivery) -> None:
        """One more copy: not before the first is durable, which may be of a lost connection."""
        if index in self._transfer.bitmap and index not in self._committer.durable:
            self._committer.keep(delivery, asked.peer.requester.done)
        else:
            asked.peer.requester.done(delivery)

    def _hold(self, asked: Asked, delivery: Delivery) -> None:
        """It is in memory until `_free`: with too much of that, its link hears no more."""
        self._landed_bytes[asked.peer.requester] += len(delivery.body)
        asked.peer.requester.landed(len(delivery.body))

    def _free(self, asked: Asked, delivery: Delivery) -> None:
        self._landed_bytes[asked.peer.requester] -= len(delivery.body)
        asked.peer.requester.written(len(delivery.body))

    def _tell_landed(self) -> None:
        landed, self._landed = self._landed, []
        if landed:
            self._feed(*landed)
        if self._transfer.in_flight <= len(self._writing):
            self._assembler.flush()

    def recheck(self, effect: ev.Recheck) -> None:
        self._assembler.put(RecheckJob(effect, self._transfer.version))
        self._assembler.flush()

    def punch(self, effect: ev.Punch) -> None:
        self._punching += 1
        self._assembler.put(PunchJob(effect))

    async def punched(self) -> None:
        """Wait until the holes whose bits are set are there, or dropped because the disk failed."""
        while self._punching:
            self._punched.clear()
            self._assembler.flush()
            await self._punched.wait()

    async def drained(self) -> None:
        """Wait until what has arrived is written, or dropped because the disk failed."""
        await self._assembler.drained()
        for requester, size_bytes in self._landed_bytes.items():
            requester.written(size_bytes)
        self._landed_bytes.clear()

    def _on_jobs(self, jobs: list[Job]) -> None:
        events, self._landed = self._landed, []
        untried: list[_Copy] = []
        self._count_punched(jobs)
        for job in jobs:
            if isinstance(job, ChunkJob):
                untried += self._settle(job)
                if job.version == self._transfer.version:
                    events += self._events(job)
            elif isinstance(job, RecheckJob) and job.version == self._transfer.version:
                events.append(ev.Rechecked(job.good, job.bad))
        if events:
            self._feed(*events)
        for copy in untried:
            self.take(*copy)

    def _on_dropped(self, jobs: list[Job]) -> None:
        """The disk failed. Their deliveries go, or no later one could: a link has so many."""
        self._count_punched(jobs)
        for job in jobs:
            if isinstance(job, ChunkJob):
                job.outcome = Outcome.NO_ROOM
                self._settle(job)

    def _count_punched(self, jobs: list[Job]) -> None:
        self._punching -= sum(isinstance(job, PunchJob) for job in jobs)
        self._punched.set()

    def _settle(self, job: ChunkJob) -> list[_Copy]:
        """Count it, and keep its delivery for the commit or let go of it.

        Returns copies that may be better: of one that did not open (the broker's owner altered it)
        all, of a bad one those of other requests, since whoever answered this one has sealed it so.
        """
        requester, lane = job.asked.peer.requester, self._lanes[job.asked.peer]
        copies = self._writing.pop(job.index, [])
        for asked, _, delivery in ((job.asked, job.raw, job.delivery), *copies):
            self._free(asked, delivery)
        if job.outcome in (Outcome.STORED, Outcome.ADOPTED):
            self._committer.keep(job.delivery, requester.done)
            for asked, _, delivery in copies:
                self._committer.keep(delivery, asked.peer.requester.done)
            if self._is_new(job):
                self._tally.came(lane, self._geometry.length(job.index))
            return []
        requester.done(job.delivery)
        if job.outcome is Outcome.UNSEALED:
            return copies
        untried: list[_Copy] = []
        for asked, raw, delivery in copies:
            if job.outcome is Outcome.BAD and asked is not job.asked:
                untried.append((asked, raw, delivery))
            else:
                asked.peer.requester.done(delivery)
        return untried

    def _is_new(self, job: ChunkJob) -> bool:
        """Whether its bytes were not told of yet; good or not, a chunk not compared yet was."""
        if job.outcome is Outcome.ADOPTED:
            return self._adopted.add(job.index)
        return not self._adopted.clear(job.index)

    def _events(self, job: ChunkJob) -> list[ev.Event]:
        lane = self._lanes[job.asked.peer]
        match job.outcome:
            case Outcome.STORED:
                return [ev.ChunkStored(job.index, job.asked.token, lane)]
            case Outcome.ADOPTED:
                return [ev.ChunkAdopted(job.index, lane)]
            case Outcome.BAD:
                self._log("chunk_bad", level="warning", chunk=job.index)
                return [ev.ChunkBad(job.index, lane)]
            case Outcome.UNSEALED:
                return [ev.ChunkDropped(job.index, lane)]
            case Outcome.NO_ROOM:
                gone = ev.SpaceGone("no room for the next chunk")
                return [ev.ChunkDropped(job.index, lane), gone]
