"""A process's figures, its health and its readiness, for who asks over HTTP."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from chunkq.api.figures import Host, figures, of_a_process, of_host
from chunkq.api.reporting import software
from chunkq.api.site import Site
from chunkq.errors import ChunkqError, StorageError
from chunkq.ports import Mailbox
from chunkq.settings import Settings
from chunkq.storage.jobs import JobStore
from chunkq.storage.places import Places
from chunkq.storage.room import Floor, Room
from chunkq.telemetry.exposition import Figure, exposed

#: So long the loop may take to answer. Prometheus gives a scrape ten seconds.
ANSWER_S: Final = 5.0
#: The depth of a queue is asked of the broker no more often than this, and not waited for longer.
DEPTH_EVERY_S: Final = 5.0
DEPTH_WAIT_S: Final = 2.0

_T = TypeVar("_T")


class HostMetrics:
    """What a process tells that moves nothing itself (`Told`): how its host is."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._places = Places(settings.directories.state)

    # ------------------------------------------------------------ on threads of the server

    def figures(self) -> Sequence[Figure]:
        """As `Told` says."""
        self.alive()
        host = Host(disks=self._disks(), jobs=self._jobs())
        return [*of_a_process(software(), "dashboard"), *of_host(host)]

    def alive(self) -> bool:
        """As `Told` says."""
        return self._on_loop(_turn())

    def unready(self) -> Sequence[str]:
        """As `Told` says."""
        return self._on_loop(self._unready())

    def _on_loop(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Raises `TimeoutError` where the loop does not turn, or has ended."""
        if self._loop.is_closed():
            work.close()
            raise TimeoutError
        asked = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return asked.result(ANSWER_S)
        except TimeoutError:
            asked.cancel()
            raise

    def _jobs(self) -> dict[str, int]:
        places = self._settings.directories
        if not places.jobs.is_dir():
            return {}
        try:
            store = JobStore(places.state)
            try:
                return dict(Counter(str(state) for state, *_ in store.scan()))
            finally:
                store.close()
        except StorageError:
            return {}

    def _disks(self) -> dict[str, tuple[int, int]]:
        """Of the state directory; and of the destinations, the one with the least room."""
        floor = Floor(self._settings.requester.disk_floor_bytes)
        found = {"state": _room(str(self._settings.directories.state), floor)}
        try:
            destinations = [_room(path, floor) for path in self._places.known()]
        except StorageError:
            destinations = []
        known = [room for room in destinations if room is not None]
        found["destinations"] = min(known, key=lambda room: room.above_bytes, default=None)
        return {
            place: (room.free_bytes, room.floor_bytes)
            for place, room in found.items()
            if room is not None
        }

    # ------------------------------------------------------------ on the loop

    async def _unready(self) -> list[str]:
        return []


class Metrics(HostMetrics):
    """What a site's process tells (`Told`)."""

    def __init__(self, site: Site) -> None:
        super().__init__(site.settings)
        self._site = site
        self._depths: dict[str, int] = {}
        self._asked_s = float("-inf")

    def figures(self) -> Sequence[Figure]:
        """As `Told` says."""
        host = Host(disks=self._disks(), jobs=self._jobs(), queues=self._on_loop(self._queues()))
        return self._on_loop(self._figures(host))

    async def _figures(self, host: Host) -> list[Figure]:
        reporter = self._site.reporting.reporter
        return [] if reporter is None else figures(reporter, self._site.peer_links, host)

    async def _unready(self) -> list[str]:
        reporter = self._site.reporting.reporter
        if reporter is None:
            return ["it has nothing to do yet"]
        reasons = [] if reporter.ready else ["it does not take requests on every link yet"]
        if reporter.draining:
            reasons.append("it is draining")
        states = ((end.link, end.transport.health) for end in self._site.reporting.links())
        troubles = (f"link {link}: {health.detail}" for link, health in states if not health.ok)
        return [*reasons, *troubles]

    async def _queues(self) -> dict[str, int]:
        """Depths of this site's request queues, on links that this process serves."""
        now_s = self._loop.time()
        if now_s >= self._asked_s + DEPTH_EVERY_S:
            self._asked_s = now_s
            mailbox = Mailbox("req", self._site.settings.site_name)
            depths: dict[str, int] = {}
            for served in self._site.reporting.served:
                if not served.transport.health.ok:
                    continue
                try:
                    async with asyncio.timeout(DEPTH_WAIT_S):
                        depths[served.link.name] = await served.transport.depth(mailbox)
                except (ChunkqError, TimeoutError):
                    continue
            self._depths = depths
        return self._depths


async def _turn() -> bool:
    return True


def _room(path: str, floor: Floor) -> Room | None:
    """None where it is not there, or nothing is known of it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        room = floor.room(fd, path)
    except StorageError:
        return None
    finally:
        os.close(fd)
    return room if room.known else None


@asynccontextmanager
async def telling(site: Site) -> AsyncIterator[int | None]:
    """Tell the metrics of an open site where its settings say; the port, or None.

    Raises `ConfigError`, `UsageError`.
    """
    async with _telling(Metrics(site), site.settings) as port:
        yield port


@asynccontextmanager
async def telling_of_host(settings: Settings) -> AsyncIterator[int | None]:
    """The same, for a process that moves nothing: the dashboard."""
    async with _telling(HostMetrics(settings), settings) as port:
        yield port


@asynccontextmanager
async def _telling(metrics: HostMetrics, settings: Settings) -> AsyncIterator[int | None]:
    address = settings.metrics.address
    if address is None:
        yield None
        return
    told = exposed(metrics, *address)
    port = told.__enter__()
    try:
        yield port
    finally:
        # A request that is being answered waits for this loop.
        await asyncio.to_thread(told.__exit__, None, None, None)
