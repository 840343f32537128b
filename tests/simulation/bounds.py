"""What a peer may cost (promise 7): some worlds have small bounds, and all are held to theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chunkq.ports import PeerRef
from chunkq.protocol.limits import COMMIT_BYTES
from chunkq.protocol.messages import Request
from chunkq.protocol.priority import Priority
from chunkq.protocol.quota import Quota, asked_bytes
from chunkq.runtime import fetch as fetching
from chunkq.runtime import peer as asking
from chunkq.storage.room import NO_FLOOR, Floor
from tests.simulation.disk import Disk
from tests.simulation.inodes import PAGE_BYTES, File
from tests.simulation.loop import Running
from tests.simulation.process import current
from tests.simulation.workload import CHUNK_BYTES

if TYPE_CHECKING:
    from tests.simulation.world import World

#: How many worlds have small bounds: files of up to 60 chunks must meet them.
SMALL = 0.3
SMALL_WINDOW_BYTES = 12 * CHUNK_BYTES
SMALL_BACKLOG_BYTES = 6 * CHUNK_BYTES
SMALL_IN_FLIGHT_BYTES = 4 * CHUNK_BYTES
SMALL_PENDING = 16
FLOOR_PAGES = 16
#: How many worlds have commit groups of a few chunks: else most files are one group.
SMALL_COMMITS = 0.35


class Bounds:
    """The bounds of one world, and whether they hold."""

    def __init__(self, world: World, requests_per_s: float, concurrency: int) -> None:
        self._world = world
        self.small = world.streams.of("bounds").random() < SMALL
        commits = world.streams.of("commits")
        is_small = commits.random() < SMALL_COMMITS
        #: The most of a commit group.
        self.commit_bytes = commits.choice((1, 2, 6)) * CHUNK_BYTES if is_small else COMMIT_BYTES
        self.floor = Floor(FLOOR_PAGES * PAGE_BYTES) if self.small else NO_FLOOR
        self.quota = Quota(requests_per_s=requests_per_s)
        if self.small:
            self.quota = Quota(
                requests_per_s=requests_per_s,
                bytes_in_flight=SMALL_IN_FLIGHT_BYTES,
                pending_requests=SMALL_PENDING,
            )
        #: One of each class and account gets in where all is taken.
        self._most_acting = concurrency + 4 * len(Priority)
        self._acting: Counter[Running] = Counter()
        self._answering: Counter[tuple[Running, str]] = Counter()

    @property
    def floor_pages(self) -> int:
        return FLOOR_PAGES if self.small else 0

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The product's constants are as small as this world's files."""
        before = fetching.MAX_WINDOW_BYTES, asking.MAX_WINDOW_BYTES, asking.MAX_BACKLOG_BYTES
        if self.small:
            _set_bounds(SMALL_WINDOW_BYTES, SMALL_WINDOW_BYTES, SMALL_BACKLOG_BYTES)
        try:
            yield
        finally:
            _set_bounds(*before)

    # ------------------------------------------------------------ a requester

    def check_asking(self, process: Running) -> None:
        """What one process has under way and in memory."""
        desk = self._world.desks.get(process)
        if desk is None or not process.alive:
            return
        self._world.watch.checked["bounds"] += 1
        for peer in desk.peers.values():
            window = peer.window
            if not 0 <= window.outstanding <= window.max_chunks:
                self._fail(f"{process.name} has {window.outstanding} chunks under way")
        backlog = desk.requester._backlog_bytes
        most = asking.MAX_BACKLOG_BYTES + self._world.workload.prefetch * 2 * CHUNK_BYTES
        if not 0 <= backlog <= most or (backlog and not desk.fetches):
            self._fail(f"{process.name} counts {backlog} bytes in memory")

    def check_reserved(self, host: str, file: File) -> None:
        """A part file was made larger: so much must stay free."""
        world = self._world
        jobs = [job for job in world.workload.jobs if job.site == host]
        if not any(world.watch.part_of(job) is file for job in jobs):
            return
        world.watch.checked["floor"] += 1
        free = world.disks[host].free_pages
        if free < FLOOR_PAGES:
            self._fail(f"{host} has {free} pages left, after a part file took its own")

    # ------------------------------------------------------------ an origin

    @contextmanager
    def answering(self, process: Running, peer: PeerRef, body: Request) -> Iterator[None]:
        """A request is acted upon."""
        size, key = asked_bytes(body), (process, peer.alias)
        before = self._answering[key]
        if size and before and before + size > self.quota.bytes_in_flight:
            self._fail(f"{process.name} makes {before + size} bytes for {peer.alias} at once")
        if self._acting[process] >= self._most_acting:
            self._fail(f"{process.name} acts on {self._acting[process] + 1} requests at once")
        self._acting[process] += 1
        self._answering[key] += size
        try:
            yield
        finally:
            self._acting[process] -= 1
            self._answering[key] -= size

    def _fail(self, what: str) -> None:
        self._world.watch.fail(7, what)


class WatchedDisk(Disk):
    """Tells of room that is taken."""

    bounds: Bounds | None = None

    def reserve(self, file: File, offset: int, length: int) -> None:
        before = self.used_pages
        super().reserve(file, offset, length)
        process = current()
        if self.bounds is not None and process is not None and self.used_pages > before:
            self.bounds.check_reserved(process.host, file)


def _set_bounds(window_bytes: int, links_window_bytes: int, backlog_bytes: int) -> None:
    for module, name, value in (
        (fetching, "MAX_WINDOW_BYTES", window_bytes),
        (asking, "MAX_WINDOW_BYTES", links_window_bytes),
        (asking, "MAX_BACKLOG_BYTES", backlog_bytes),
    ):
        setattr(module, name, value)
