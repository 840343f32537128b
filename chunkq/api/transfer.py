"""A transfer under way: one file, or a tree of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from chunkq.api.origins import Origins
from chunkq.api.source import Source
from chunkq.api.steered import Steered
from chunkq.compose import Fetcher, ref_of
from chunkq.errors import BrokerUnreachable, PeerSilent, Stopped
from chunkq.ports import NewFile
from chunkq.protocol.checking import Received
from chunkq.protocol.limits import MIB
from chunkq.protocol.messages import Entry
from chunkq.protocol.priority import Priority, PriorityWord
from chunkq.protocol.transfer_events import Waiting
from chunkq.runtime.asking import Order, Place
from chunkq.runtime.fetch import FileFetch
from chunkq.runtime.peer import PeerLink
from chunkq.runtime.progress import (
    FetchProgress,
    FetchResult,
    LaneProgress,
    Observation,
    Progress,
    Result,
)
from chunkq.runtime.tree import TreeFetch, TreeOrder
from chunkq.storage.destination import Destination
from chunkq.storage.mending import Mend
from chunkq.storage.placing import BatchPlacer
from chunkq.storage.receipts import time_of
from chunkq.storage.staging import begun
from chunkq.storage.transferid import transfer_id
from chunkq.storage.treeplace import TreePlace

#: What to do after the broker took nothing for too long.
AGAIN: Final = "once the broker is well, run the same command again to go on"
#: How often progress is told, in seconds.
PROGRESS_S: Final = 0.2
#: Smaller files of a tree come from the first origin alone: to ask the others takes as long.
WORTH_MIRRORS_BYTES: Final = 4 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be fetched, where to, and how.

    `content_digest`: only this version. `mend`: what to begin with, of a file that is damaged.
    `below`: the directory above the destination below which no link is followed.
    """

    source: Source
    destination: Path
    overwrite: bool
    links: bool
    patience_s: float
    priority: PriorityWord = "normal"
    content_digest: bytes | None = None
    mend: Mend | None = None
    below: Path | None = None


class Transfer:
    """A transfer under way. Iterate it for progress, await it for the `Result`, `cancel` it.

    What was fetched before a cancellation or an error stays; the same call goes on from there.
    """

    def __init__(
        self,
        fetcher: Fetcher,
        origins: Origins,
        wanted: Wanted,
        steered: Steered | None = None,
    ) -> None:
        """`steered`: its job; without it nobody sees it but who began it."""
        self.source = wanted.source
        self.destination = wanted.destination
        self._fetcher = fetcher
        self._wanted = wanted
        self._active: dict[int, FileFetch] = {}
        self._origins = origins
        self._tree: TreeFetch | None = None
        self._phase = "opening"
        #: It waits, as many transfers as may be are under way from that peer.
        self._queued = False
        self._done_bytes = 0
        self._new_bytes = 0
        self._duplicates = 0
        self._resumed_chunks = 0
        #: How the only file stood when it was left, for the last words about it.
        self._ended: FetchProgress | None = None
        #: The class of the error that it ended with.
        self._error = ""
        #: Files that came before it was stopped and begun again; they are there already by now.
        self._came_before = 0
        self._steered = steered
        if steered is not None:
            steered.blocked, steered.asks_barred = origins.blocked, origins.asks_barred
            steered.prioritise = self._prioritise
        self._task = asyncio.ensure_future(self._run())

    @property
    def id(self) -> str:
        """What it is called: the id of its job, or that of its staging while it has none."""
        if self._steered is not None and self._steered.job_id:
            return self._steered.job_id
        parts = () if self.source.tree else (self.destination.name,)
        first_id = ref_of(self._origins.first).first_id
        return transfer_id(first_id, self.source.share, self.source.path, parts)

    def cancel(self) -> None:
        """Stop: commit what there is, and end as cancelled."""
        self._task.cancel()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call it when it is over, however it ends."""
        self._task.add_done_callback(lambda _: callback())

    async def ended(self) -> None:
        """Wait until it is over, however it ends. Raises nothing."""
        await asyncio.wait((self._task,))

    def __await__(self) -> Generator[Any, None, Result]:
        return self._task.__await__()

    async def __aiter__(self) -> AsyncIterator[Progress]:
        """Progress now and then, and once more at the end. Raises nothing: await it for that."""
        while not self._task.done():
            yield self.progress()
            await asyncio.wait((self._task,), timeout=PROGRESS_S)
        yield self.progress()

    def progress(self) -> Progress:
        """Where it stands at this moment."""
        files = active = self._active_now()
        if not files and self._ended is not None:
            files = [self._ended]
        phase = self._phase
        if files and phase == "running":
            phase = files[0].phase.name.lower()
        present = sum(file.bytes_present for file in files)
        total = sum(file.bytes_total for file in files)
        chunks_total = sum(file.chunks_total for file in files)
        now = Progress(
            source=str(self.source),
            peer=self.source.peer,
            phase=phase,
            path=files[0].path if files else self.source.path,
            bytes_present=present,
            bytes_total=total,
            new_bytes=self._new_bytes + sum(file.new_bytes for file in files),
            chunks_present=sum(file.chunks_present for file in files),
            chunks_total=chunks_total,
            resumed_chunks=self._resumed_chunks,
            files_done=int(phase == "done"),
            waiting=self._waiting(files),
            origins=self._origins.came(active),
            left=self._origins.left(active),
        )
        if phase == "done" and self._tree is None:
            return replace(now, bytes_present=total, chunks_present=chunks_total)
        if self._tree is None:
            return now
        report = self._tree.report
        return replace(
            now,
            bytes_present=present + self._done_bytes,
            bytes_total=max(report.bytes_total, total + self._done_bytes),
            files_done=report.files + report.unchanged,
            files_total=report.seen,
        )

    @property
    def waits(self) -> bool:
        """As many transfers as may be are under way from that peer; it waits for its turn."""
        return self._queued and not self._task.done()

    def observe(self) -> Observation:
        """As `progress`, and what is under way."""
        details = [found for fetch in self._active.values() if (found := fetch.detail())]
        only = details if len(details) == 1 and self._tree is None else []
        lanes: dict[str, LaneProgress] = {}
        for lane in (lane for detail in details for lane in detail.lanes):
            known = lanes.get(lane.peer)
            lanes[lane.peer] = lane if known is None else known + lane
        return Observation(
            id=self.id,
            progress=self.progress(),
            lanes=tuple(lanes.values()),
            runs=only[0].runs if only else (),
            bad=only[0].bad if only else (),
            queued=self.waits,
            starved=any(detail.starved for detail in details),
            error=self._error,
            read_back_bytes=sum(file.read_back_bytes for file in self._active_now()),
        )

    def _active_now(self) -> list[FetchProgress]:
        return [found for fetch in self._active.values() if (found := fetch.progress())]

    def _waiting(self, files: list[FetchProgress]) -> Waiting | None:
        """Why nothing moves; the carrier's trouble comes before the peer's."""
        if self._steered is not None and self._steered.waiting and not self._task.done():
            return self._steered.waiting
        if self.waits:
            most = self._fetcher.turns(self._origins.first).count
            return Waiting("queued", f"{most} transfers from {self.source.peer} are under way")
        if (health := self._origins.health) is not None:
            return Waiting(health.reason, health.detail)
        found = next((file.waiting for file in files if file.waiting), None)
        return found or (self._tree.waiting if self._tree is not None else None)

    def _prioritise(self, word: PriorityWord) -> None:
        """Let what is asked for from now on have this priority."""
        self._wanted = replace(self._wanted, priority=word)
        for fetch in self._active.values():
            fetch.priority = Priority.of(word)
        if self._tree is not None:
            self._tree.prioritise(word)
        if self.waits and self._steered is not None:
            self._steered.stop()  # it waits again, among those of its new class

    async def _run(self) -> Result:
        if self._steered is None:
            return await self._attempt()
        try:
            return await self._steered.run(self._attempt)
        except (Stopped, asyncio.CancelledError):  # the latter also before it was attempted
            self._phase = "stopped"
            raise

    async def _attempt(self) -> Result:
        turns = self._fetcher.turns(self._origins.first)
        self._phase = "opening"
        try:
            self._queued = True
            async with turns.taken(Priority.of(self._wanted.priority)):
                self._queued = False
                if self._steered is not None:
                    await self._steered.begin()
                peer = await self._origins.reach()
                self._phase = "running"
                result = await (self._run_tree(peer) if self.source.tree else self._run_file())
        except asyncio.CancelledError:
            self._phase = "stopped"
            raise
        except PeerSilent as error:
            self._phase, self._error = "failed", type(error).__name__
            # Where the broker takes nothing, it is not the peer who is silent.
            if (health := self._origins.health) is None:
                raise
            self._error = BrokerUnreachable.__name__
            raise BrokerUnreachable(f"{error.message}: {health.detail}", hint=AGAIN) from error
        except Exception as error:
            self._phase, self._error = "failed", type(error).__name__
            raise
        self._phase = "done"
        return result

    async def _run_file(self) -> Result:
        destination, parts = self._place()
        with destination:
            found = await self._fetch_one(
                self._origins.places(), destination, parts, self.source.path
            )
        return Result(
            source=str(self.source),
            destination=str(self.destination),
            size_bytes=found.size_bytes,
            new_bytes=found.new_bytes,
            content_digest=found.content_digest.hex(),
            resumed_chunks=found.resumed_chunks,
            duplicate_chunks=found.duplicate_chunks,
            unchanged=int(found.unchanged),
            origins=self._origins.came(),
            left=self._origins.left(),
        )

    def _place(self) -> tuple[Destination, tuple[str, ...]]:
        """Where the only file goes."""
        below, floor = self._wanted.below, self._fetcher.floor
        if below is None or below == self.destination.parent:
            found = Destination.for_file(self.destination, floor=floor)
            return found, (self.destination.name,)
        destination = Destination.for_tree(below, floor=floor)
        try:
            parts = self.destination.relative_to(below).parts
            destination.make_dirs(parts[:-1])
        except BaseException:
            destination.close()
            raise
        return destination, parts

    async def _run_tree(self, peer: PeerLink) -> Result:
        with (
            Destination.for_tree(self.destination, floor=self._fetcher.floor) as destination,
            BatchPlacer(destination, overwrite=self._wanted.overwrite) as placer,
        ):
            staged = await asyncio.to_thread(self._staged, peer, destination)
            await asyncio.to_thread(self._fetcher.places.remember, destination.path)

            async def fetch_file(parts: tuple[str, ...], entry: Entry) -> None:
                path = "/".join(filter(None, (self.source.path, *parts)))
                places = self._origins.places(parts)
                if entry.size < WORTH_MIRRORS_BYTES:
                    del places[1:]
                await self._fetch_one(places, destination, parts, path)

            order = TreeOrder(
                share=self.source.share,
                path=self.source.path,
                links=self._wanted.links,
                concurrency=self._fetcher.settings.requester.concurrency,
                patience_s=self._wanted.patience_s,
                priority=self._wanted.priority,
                staged=staged,
            )
            if self._tree is not None:
                self._came_before += self._tree.report.files
            self._tree = TreeFetch(
                peer,
                order,
                TreePlace(destination, overwrite=self._wanted.overwrite),
                placer,
                self._fetcher.pool,
                fetch_file=fetch_file,
                placed=lambda files: self._record(destination, files),
                counted=self._count,
            )
            report = await self._tree.run()
        return Result(
            source=str(self.source),
            destination=str(self.destination),
            size_bytes=self._done_bytes,
            new_bytes=self._new_bytes,
            resumed_chunks=self._resumed_chunks,
            duplicate_chunks=self._duplicates,
            files=report.files + self._came_before,
            unchanged=max(0, report.unchanged - self._came_before),
            links_left=report.links_left,
            failures=tuple(report.failures),
            origins=self._origins.came(),
            left=self._origins.left(),
        )

    def _staged(
        self, peer: PeerLink, destination: Destination
    ) -> Callable[[tuple[str, ...]], bool]:
        """Tells of a file of the tree whether an earlier run has begun it on its own."""
        found = begun(destination)
        origin, source = peer.ref.first_id, self.source

        def staged(parts: tuple[str, ...]) -> bool:
            path = "/".join(filter(None, (source.path, *parts)))
            return bool(found) and transfer_id(origin, source.share, path, parts) in found

        return staged

    def _record(self, destination: Destination, files: Sequence[NewFile]) -> None:
        """Note down files that came in a bundle. Blocks."""
        at_ms = self._fetcher.clock.wall_ms()
        whence = f"{self.source.peer}:{self.source.share}/"
        path = (self.source.path,) if self.source.path else ()
        self._fetcher.received.add(
            *(
                Received(
                    path=destination.path_of(file.parts),
                    source=whence + "/".join((*path, *file.parts)),
                    size_bytes=len(file.content),
                    blake3=file.content_digest.hex(),
                    at_ms=at_ms,
                    mtime_ns=time_of(destination.path_of(file.parts)),
                )
                for file in files
            )
        )

    def _count(self, file: NewFile, is_new: bool) -> None:
        size = len(file.content)
        self._done_bytes += size
        if is_new:
            self._new_bytes += size
            self._origins.brought(self.source.peer, size)

    async def _fetch_one(
        self, places: list[Place], destination: Destination, parts: tuple[str, ...], path: str
    ) -> FetchResult:
        """`path`: what the file is called at the first named origin."""
        order = Order(
            share=self.source.share,
            path=path,
            overwrite=self._wanted.overwrite,
            patience_s=self._wanted.patience_s,
            commit_bytes=self._fetcher.settings.requester.commit_size_bytes,
            commit_interval_s=self._fetcher.settings.requester.commit_interval_s,
            priority=self._wanted.priority,
            content_digest=self._wanted.content_digest,
        )
        await asyncio.to_thread(self._fetcher.places.remember, destination.path)
        fetch = self._fetcher.file(
            places,
            order,
            destination,
            parts,
            named=self._origins.first,
            on_resume=self._on_resume,
            mend=self._wanted.mend,
        )
        self._active[id(fetch)] = fetch
        try:
            result = await fetch.run()
        finally:
            del self._active[id(fetch)]
            last = fetch.progress()
            self._origins.ended(last)
            if self._tree is None:
                self._ended = last
            else:
                self._new_bytes += last.new_bytes if last else 0
        self._done_bytes += result.size_bytes
        self._duplicates += result.duplicate_chunks
        return result

    def _on_resume(self, present: int, _total: int) -> None:
        self._resumed_chunks += present
