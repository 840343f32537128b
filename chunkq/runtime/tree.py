"""A directory's transfer: walk the origin's listing, fetch each file, go on past what fails.

Several directories are walked at once, since each answer to a listing takes a round trip; the walk
runs ahead of the fetching by a bounded number of files. Small files come in bundles, the others one
by one. Directories get their modes and times last, deepest first, because writing into one changes
its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeVar

from chunkq.errors import (
    BrokerRefused,
    ChunkqError,
    IdentityError,
    NotFound,
    PeerRefused,
    StorageError,
    Unreachable,
    UnsafeName,
)
from chunkq.ports import NewFile, Taken
from chunkq.protocol.bundling_events import Small
from chunkq.protocol.messages import Entry, Listing
from chunkq.protocol.priority import PriorityWord
from chunkq.protocol.transfer_events import Waiting
from chunkq.runtime.bundlefetch import BundleFetch, Placer
from chunkq.runtime.listing import list_pages
from chunkq.runtime.peer import PeerLink

#: Files that the walk may be ahead of the fetching.
QUEUE_FILES: Final = 256
#: Directories walked at once: a listing is about 50 KiB, so a long round trip is filled as well.
WALKERS: Final = 8
#: Errors that concern the whole transfer, not one file of it.
FATAL: Final = (Unreachable, BrokerRefused, IdentityError)

_T = TypeVar("_T")


class TreeDestination(Protocol):
    """The tree on this side. Calls block. All raise `UnsafeName`, `StorageError`."""

    def take(
        self, parent: tuple[str, ...], entries: Sequence[Entry], *, links: bool
    ) -> list[Taken | StorageError]:
        """Place the directories and links among entries of one directory, durably.

        Tells of each entry what it means here, or why it cannot be placed.
        """
        ...

    def leave(self, parent: tuple[str, ...]) -> None:
        """All entries of that directory were taken."""
        ...

    def set_meta(self, parts: tuple[str, ...], entry: Entry) -> None: ...


@dataclass(slots=True)
class TreeReport:
    """What became of a tree. `links_left`: links not asked for. `seen`: files, so far."""

    seen: int = 0
    files: int = 0
    unchanged: int = 0
    directories: int = 0
    links: int = 0
    links_left: int = 0
    bytes_total: int = 0
    failures: list[tuple[str, ChunkqError]] = field(default_factory=list)


FetchFile = Callable[[tuple[str, ...], Entry], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeOrder:
    """What to fetch, and how. `staged`: whether a file's own transfer has begun and goes on."""

    share: str
    path: str
    links: bool
    concurrency: int
    patience_s: float
    priority: PriorityWord
    staged: Callable[[tuple[str, ...]], bool]


class TreeFetch:
    """One directory from one peer. `fetch_file` gets one file to its place, or raises.

    `placed` hears of files that came in bundles: on a thread, before they count, to record them;
    `counted` then, with those that are new.
    """

    def __init__(
        self,
        peer: PeerLink,
        order: TreeOrder,
        destination: TreeDestination,
        placer: Placer,
        pool: Executor,
        *,
        fetch_file: FetchFile,
        placed: Callable[[Sequence[NewFile]], None],
        counted: Callable[[NewFile, bool], None],
    ) -> None:
        self._peer = peer
        self._order = order
        self._destination = destination
        self._pool = pool
        self._fetch_file = fetch_file
        self._counted = counted
        self._files: asyncio.Queue[tuple[tuple[str, ...], Entry] | None] = asyncio.Queue(
            QUEUE_FILES
        )
        self._directories: list[tuple[tuple[str, ...], Entry]] = []
        self.record_placed = placed
        self._bundles = BundleFetch(
            peer, order.share, placer, self, patience_s=order.patience_s, priority=order.priority
        )
        self.report = TreeReport()

    @property
    def waiting(self) -> Waiting | None:
        """Why no small file comes, if none does."""
        return self._bundles.waiting

    def prioritise(self, word: PriorityWord) -> None:
        """Small files that are asked for from now on have this priority."""
        self._bundles.priority = word

    async def run(self) -> TreeReport:
        """Fetch everything that can be had. Raises only what concerns all of it."""
        workers = [asyncio.ensure_future(self._work()) for _ in range(self._order.concurrency)]
        tasks = [asyncio.ensure_future(self._feed()), *workers]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        await self._in_pool(self._finish_directories)
        return self.report

    async def _feed(self) -> None:
        """Walk and bundle; then there is nothing more for the workers."""
        bundling = asyncio.ensure_future(self._bundles.run())
        walking = asyncio.ensure_future(self._walk_all())
        try:
            await asyncio.wait((bundling, walking), return_when=asyncio.FIRST_EXCEPTION)
            if walking.done():
                walking.result()
            await bundling
        finally:
            for task in (walking, bundling):
                task.cancel()
            await asyncio.gather(walking, bundling, return_exceptions=True)
        for _ in range(self._order.concurrency):
            await self._files.put(None)

    # ------------------------------------------------------------ walking

    async def _walk_all(self) -> None:
        """Depth first, several directories at once, so that few are known and not yet walked."""
        pending: list[tuple[str, ...]] = [()]
        walks: set[asyncio.Task[list[tuple[str, ...]]]] = set()
        try:
            while pending or walks:
                while pending and len(walks) < WALKERS:
                    walks.add(asyncio.ensure_future(self._walk(pending.pop())))
                done, walks = await asyncio.wait(walks, return_when=asyncio.FIRST_COMPLETED)
                for walk in done:
                    pending += reversed(walk.result())
        finally:
            for walk in walks:
                walk.cancel()
            await asyncio.gather(*walks, return_exceptions=True)
        self._bundles.end()

    async def _walk(self, parts: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Take one directory's entries; returns its directories."""
        below: list[tuple[str, ...]] = []
        path = "/".join(filter(None, (self._order.path, *parts)))
        pages = list_pages(self._peer, self._order.share, path, patience_s=self._order.patience_s)
        try:
            async for page in pages:
                below += await self._take(parts, path, page)
        except (NotFound, PeerRefused, StorageError) as error:  # it is not to be had, here or there
            if not parts:
                raise
            self._fail(parts, error)
        self._destination.leave(parts)
        return below

    async def _take(
        self, parts: tuple[str, ...], path: str, page: Listing
    ) -> list[tuple[str, ...]]:
        """Place what is no file; hand the files on. Returns the directories."""
        if page.omitted:
            self._omit(parts, page.omitted)
        taken = await self._in_pool(
            lambda: self._destination.take(parts, page.entries, links=self._order.links)
        )
        below: list[tuple[str, ...]] = []
        wanted: list[Entry] = []
        report = self.report
        for entry, found in zip(page.entries, taken, strict=True):
            # An earlier run that was killed at its last step has published it, and not tidied up.
            unfinished = found is Taken.UNCHANGED and self._order.staged((*parts, entry.name))
            what = Taken.WANTED if unfinished else found
            report.seen += what in {Taken.WANTED, Taken.UNCHANGED}
            match what:
                case Taken.WANTED:
                    wanted.append(entry)
                case Taken.UNCHANGED:
                    report.unchanged += 1
                case Taken.DIRECTORY:
                    report.directories += 1
                    child = (*parts, entry.name)
                    below.append(child)
                    self._directories.append((child, entry))
                case Taken.LINK:
                    report.links += 1
                case Taken.LINK_LEFT:
                    report.links_left += 1
                case _:
                    self._fail((*parts, entry.name), what)
        await self._hand_on(parts, path, wanted)
        return below

    async def _hand_on(self, parts: tuple[str, ...], path: str, wanted: list[Entry]) -> None:
        """Small files to the bundles, the others to the workers."""
        small: list[Small] = []
        large: list[tuple[tuple[str, ...], Entry]] = []
        for entry in wanted:
            self.report.bytes_total += entry.size
            place = (*parts, entry.name)
            if self._bundles.takes(entry.size) and not self._order.staged(place):
                small.append(Small(path, place, entry.size))
            else:
                large.append((place, entry))
        await self._bundles.offer(small)
        for item in large:
            await self._files.put(item)

    # ------------------------------------------------------------ what comes of it

    async def _work(self) -> None:
        while (item := await self._files.get()) is not None:
            parts, entry = item
            try:
                await self._fetch_file(parts, entry)
                self.report.files += 1
            except FATAL:
                raise
            except ChunkqError as error:
                self._fail(parts, error)

    def count_placed(self, files: Sequence[NewFile], new: Sequence[bool]) -> None:
        """As `bundlefetch.Owner` says."""
        self.report.files += len(files)
        for file, is_new in zip(files, new, strict=True):
            self._counted(file, is_new)

    def fail(self, file: Small, error: ChunkqError) -> None:
        """As `bundlefetch.Owner` says."""
        self._fail(file.parts, error)

    async def go_alone(self, files: Iterable[Small]) -> None:
        """As `bundlefetch.Owner` says."""
        for file in files:
            entry = Entry(name=file.name, type="file", size=file.size_bytes)
            await self._files.put((file.parts, entry))

    def _finish_directories(self) -> None:
        for parts, entry in sorted(self._directories, key=lambda pair: -len(pair[0])):
            try:
                self._destination.set_meta(parts, entry)
            except StorageError as error:
                self._fail(parts, error)

    def _omit(self, parts: tuple[str, ...], count: int) -> None:
        self._fail(
            parts,
            UnsafeName(
                f"{count} names in {'/'.join(parts) or 'it'} cannot be offered",
                hint="they are FIFOs, sockets or devices, or their names are no UTF-8",
            ),
        )

    def _fail(self, parts: tuple[str, ...], error: ChunkqError) -> None:
        self.report.failures.append(("/".join(parts), error))
        self._peer.requester.log(
            "file_failed", level="warning", path="/".join(parts), detail=error.message
        )

    async def _in_pool(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)
