"""A directory's transfer: walk the origin's listing, fetch each file, go on past what fails.

The walk runs ahead of the fetching by a bounded number of files. Directories get their modes and
times last, deepest first, because writing into one changes its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from chunkq.errors import (
    BrokerRefused,
    ChunkqError,
    IdentityError,
    NotFound,
    StorageError,
    Unreachable,
    UnsafeName,
)
from chunkq.protocol.limits import MAX_PATH_DEPTH
from chunkq.protocol.messages import Entry
from chunkq.protocol.names import check_name
from chunkq.runtime.listing import list_directory
from chunkq.runtime.peer import PeerLink

#: Files that the walk may be ahead of the fetching.
QUEUE_FILES: Final = 256
#: Errors that concern the whole transfer, not one file of it.
FATAL: Final = (Unreachable, BrokerRefused, IdentityError)


class TreeDestination(Protocol):
    """The tree on this side. Calls block. All raise `UnsafeName`, `StorageError`."""

    def make_dir(self, parts: tuple[str, ...]) -> None: ...

    def claim(self, parts: tuple[str, ...]) -> None:
        """Refuse a name that differs from a neighbour's only in case or Unicode form."""
        ...

    def has(self, parts: tuple[str, ...], entry: Entry) -> bool:
        """Whether a file of that size and time is there already."""
        ...

    def make_link(self, parts: tuple[str, ...], target: str) -> None: ...

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


class TreeFetch:
    """One directory from one peer. `fetch_file` gets one file to its place, or raises."""

    def __init__(
        self,
        peer: PeerLink,
        share: str,
        path: str,
        destination: TreeDestination,
        fetch_file: FetchFile,
        *,
        links: bool,
        concurrency: int,
        patience_s: float,
    ) -> None:
        self._peer = peer
        self._share = share
        self._path = path
        self._destination = destination
        self._fetch_file = fetch_file
        self._links = links
        self._concurrency = concurrency
        self._patience_s = patience_s
        self._files: asyncio.Queue[tuple[tuple[str, ...], Entry] | None] = asyncio.Queue(
            QUEUE_FILES
        )
        self._directories: list[tuple[tuple[str, ...], Entry]] = []
        self.report = TreeReport()

    async def run(self) -> TreeReport:
        """Fetch everything that can be had. Raises only what concerns all of it."""
        workers = [asyncio.ensure_future(self._work()) for _ in range(self._concurrency)]
        walk = asyncio.ensure_future(self._walk_all())
        tasks = [walk, *workers]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        for parts, entry in sorted(self._directories, key=lambda pair: -len(pair[0])):
            await self._attempt(parts, self._destination.set_meta, parts, entry)
        return self.report

    async def _walk_all(self) -> None:
        pending: list[tuple[str, ...]] = [()]
        while pending:
            parts = pending.pop()
            try:
                pending += reversed(await self._walk(parts))
            except NotFound as error:
                if not parts:
                    raise
                self._fail(parts, error)
        for _ in range(self._concurrency):
            await self._files.put(None)

    async def _walk(self, parts: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Take one directory's entries; returns its directories."""
        path = "/".join(filter(None, (self._path, *parts)))
        below: list[tuple[str, ...]] = []
        entries = list_directory(
            self._peer,
            self._share,
            path,
            patience_s=self._patience_s,
            on_omitted=lambda count: self._omit(parts, count),
        )
        async for entry in entries:
            child = (*parts, entry.name)
            try:
                check_name(entry.name)
                if len(child) > MAX_PATH_DEPTH:
                    raise UnsafeName(f"deeper than {MAX_PATH_DEPTH} directories")
                if await self._take(child, entry):
                    below.append(child)
            except StorageError as error:
                self._fail(child, error)
        return below

    async def _take(self, parts: tuple[str, ...], entry: Entry) -> bool:
        """Place one entry; True if it is a directory to walk."""
        if entry.type == "link" and not self._links:
            self.report.links_left += 1
            return False
        await asyncio.to_thread(self._destination.claim, parts)
        if entry.type == "dir":
            await asyncio.to_thread(self._destination.make_dir, parts)
            self._directories.append((parts, entry))
            self.report.directories += 1
            return True
        if entry.type == "link":
            await asyncio.to_thread(self._destination.make_link, parts, entry.target or "")
            self.report.links += 1
            return False
        self.report.seen += 1
        if await asyncio.to_thread(self._destination.has, parts, entry):
            self.report.unchanged += 1
        else:
            self.report.bytes_total += entry.size
            await self._files.put((parts, entry))
        return False

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

    async def _attempt(
        self, parts: tuple[str, ...], work: Callable[..., None], *arguments: object
    ) -> None:
        try:
            await asyncio.to_thread(work, *arguments)
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
