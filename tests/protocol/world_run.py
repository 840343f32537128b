"""The model world put together: files at their origins, one process that fetches them, faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from chunkq.errors import ChunkqError
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.window import Window

from .world import Clock, Disk, Faults, Origin, Reply, Source, Version, make_content
from .world_driver import Driver

PATIENCE_S = 120.0


class World:
    """Files at one origin or several, one process that fetches them, and everything between.

    `others`: further origins, each with its own faults of network and honesty and its own rate.
    """

    def __init__(
        self,
        seed: int,
        faults: Faults,
        sizes: list[int],
        *,
        holes: float = 0.0,
        rate: float = 20e6,
        max_chunks: int = 256,
        commit_bytes: int = 1 << 20,
        patience_s: float = PATIENCE_S,
        others: Sequence[tuple[Faults, float]] = (),
    ) -> None:
        self.rng = Random(seed)
        self.clock = Clock()
        self.faults = faults
        self.max_chunks = max_chunks
        self.commit_bytes = commit_bytes
        self.patience_s = patience_s
        self.origins = [
            Origin(self.clock, self.rng, its, its_rate)
            for its, its_rate in ((faults, rate), *others)
        ]
        self.origin = self.origins[0]
        names = [str(number) for number in range(len(sizes))]
        self.sources = {
            name: Source(make_content(self.rng, size, holes=holes))
            for name, size in zip(names, sizes, strict=True)
        }
        self.disks = {name: Disk(self.clock, self.rng, faults) for name in names}
        self.unacknowledged: dict[str, list[Reply]] = {name: [] for name in names}
        self.results: dict[str, ChunkqError | None] = {}
        self.published: dict[str, bytes] = {}
        #: Take the first end of each transfer as its last, and never run it again.
        self.keep_errors = False
        self.incarnation = 0
        self.runs = 0
        self.drivers: dict[str, Driver] = {}
        self.process: Process
        self._every(faults.change_every_s, self._change)
        self._every(faults.full_every_s, self._fill)
        self._every(faults.crash_every_s, self._crash)

    def run(self, budget_s: float = 900.0) -> None:
        """Until every file has an end; `budget_s` after the faults have stopped at the latest."""
        self.start()
        limit = self.faults.until_s + budget_s
        self.clock.run(limit, lambda: len(self.results) == len(self.sources))
        assert set(self.sources) == set(self.results), f"unfinished at {limit:.0f} s: " + ", ".join(
            driver.describe() for driver in self.drivers.values()
        )
        assert not any(window.outstanding for window in self.process.windows)

    def start(self) -> None:
        """Start the process anew, with what the disks know."""
        self.incarnation += 1
        self.process = Process(self)
        for name in self.sources:
            if name not in self.results:
                self._start_driver(name)

    def _start_driver(self, name: str) -> None:
        self.runs += 1
        driver = self.drivers[name] = Driver(self, name)
        driver.begin()
        again, self.unacknowledged[name] = self.unacknowledged[name], []
        for reply in again:
            self.clock.after(0.001, self.deliver, reply)

    def finish(self, name: str, error: ChunkqError | None) -> None:
        """An end: for good, or for a new run where that helps."""
        if self.keep_errors:
            self.results[name] = error
        elif error is not None and (
            error.retry or (self.faults.lie and not self.faults.lie_always)
        ):
            assert self.clock.now < self.faults.until_s + PATIENCE_S, f"ended by {error!r}"
            self.incarnation += 1
            self._start_driver(name)
        else:
            self.results[name] = error

    # ------------------------------------------------------------ network

    def faulty(self, probability: float) -> bool:
        return self.origin.faulty(probability)

    def delay_s(self, lane: int) -> float:
        return self.rng.uniform(*self.origins[lane].faults.delay_s)

    def source(self, name: str, lane: int) -> Source:
        return self.origins[lane].sources.get(name) or self.sources[name]

    def by_root(self, name: str, root: bytes) -> Version:
        """The version with this root, whoever has it."""
        sources = [self.source(name, lane) for lane in range(len(self.origins))]
        versions = [version for source in sources for version in source.versions]
        return next(version for version in versions if version.head.root == root)

    def request(self, asked: Reply, what: tuple[str, bytes, list[int]]) -> None:
        origin = self.origins[asked.lane]
        if not origin.faulty(origin.faults.lose):
            source = self.source(asked.name, asked.lane)
            self.clock.after(
                self.delay_s(asked.lane), origin.answer, source, asked, what, self.send_reply
            )

    def send_reply(self, reply: Reply) -> None:
        origin = self.origins[reply.lane]
        times = 0 if origin.faulty(origin.faults.lose) else 1
        times += origin.faulty(origin.faults.duplicate)
        for _ in range(times):
            self.clock.after(self.delay_s(reply.lane), self.deliver, reply)

    def deliver(self, reply: Reply) -> None:
        if reply.name not in self.results:
            self.drivers[reply.name].on_reply(reply)

    # ------------------------------------------------------------ faults

    def _every(self, mean_s: float, call: Callable[[], None]) -> None:
        if mean_s:
            self.clock.after(self.rng.expovariate(1 / mean_s), self._again, mean_s, call)

    def _again(self, mean_s: float, call: Callable[[], None]) -> None:
        if self.clock.now < self.faults.until_s:
            call()
            self._every(mean_s, call)

    def _change(self) -> None:
        self.rng.choice(list(self.sources.values())).change(self.rng)

    def _fill(self) -> None:
        disk = self.rng.choice(list(self.disks.values()))
        disk.full = True
        self.clock.after(self.rng.expovariate(1 / 3.0), lambda: setattr(disk, "full", False))

    def _crash(self) -> None:
        for name, driver in self.drivers.items():
            if name not in self.results:
                driver.dead = True
                self.disks[name].crash()
        self.start()


class Process:
    """What the transfers of one process share, as `runtime.peer.PeerLink`."""

    def __init__(self, world: World) -> None:
        self.windows = [Window(world.max_chunks) for _ in world.origins]
        #: For each origin, who found its window full.
        self.hungry: list[dict[Driver, None]] = [{} for _ in world.origins]
        self._clock = world.clock
        self._feeding = False

    @property
    def window(self) -> Window:
        return self.windows[0]

    def room_appeared(self) -> None:
        fed = any(
            hungry and window.room for hungry, window in zip(self.hungry, self.windows, strict=True)
        )
        if fed and not self._feeding:
            self._feeding = True
            self._clock.after(0.0, self._feed)

    def _feed(self) -> None:
        self._feeding = False
        for hungry, window in zip(self.hungry, self.windows, strict=True):
            for driver in list(hungry):
                if not window.room:
                    break
                del hungry[driver]
                driver.feed(ev.Tick())
