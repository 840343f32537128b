"""A whole world from one seed: sites, their machines and processes, a broker, and what goes wrong.

Chaos first: faults as drawn, safety checked as things happen. Then faults stop, and every transfer
has to finish within a budget of time and messages. Then, perhaps, an adversary tries what it kept.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

from chunkq.errors import ChunkqError
from chunkq.ports import Log
from chunkq.protocol import aead
from chunkq.protocol.packet import Suite
from chunkq.protocol.transfer_events import Phase
from tests.simulation.adversary import Adversary
from tests.simulation.bounds import Bounds, WatchedDisk
from tests.simulation.broker import Broker, Packet
from tests.simulation.chaos import Chaos
from tests.simulation.clock import Stuck, VirtualClock
from tests.simulation.curves import remembered_curves
from tests.simulation.faults import Faults
from tests.simulation.fetching import MAX_FLOOD, Desk, fetch, flood
from tests.simulation.hosts import Host
from tests.simulation.kernel import Kernel
from tests.simulation.loop import Running, WorldLoop
from tests.simulation.process import Killed, Process, current
from tests.simulation.promises import Broken, Promises
from tests.simulation.serving import CONCURRENCY, REQUESTS_PER_S, serve
from tests.simulation.sites_of import images
from tests.simulation.streams import Streams
from tests.simulation.trace import Trace
from tests.simulation.trust import Trust
from tests.simulation.workload import FLOODER, Job, Workload

#: After the faults have stopped, a transfer may take so long: patience, back-offs, stalls.
BUDGET_S = 600.0
#: And so many packets in all, for each chunk and beside.
BUDGET_PACKETS_PER_CHUNK = 6
BUDGET_PACKETS = 400
#: No world needs more: a storm is a bug, too.
MAX_EVENTS = 200_000
#: A process that ended is started again after so long.
RESTART_S = (0.05, 3.0)
#: Between the end of the transfers and the adversary's next attempts: hours, and a week.
LATER_S = (3600.0, 8 * 24 * 3600.0)
#: Work on a thread takes so long, without faults.
WORK_S = (0.0001, 0.004)

#: What processes do, by their kind.
KINDS = {"serve": serve, "fetch": fetch, "flood": flood}


@dataclass(frozen=True, kw_only=True)
class Options:
    """`faults`: instead of those that the seed draws. `without`: of those, not these."""

    faults: Faults | None = None
    without: tuple[str, ...] = ()
    keep_trace: bool = False


@dataclass(slots=True)
class Outcome:
    """What became of a seed."""

    seed: int
    faults: Faults
    events: int = 0
    virtual_s: float = 0.0
    packets: int = 0
    digest: str = ""
    occurred: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    #: How often each check had something to look at.
    checked: dict[str, int] = field(default_factory=dict)
    broken: Broken | None = None
    #: What went wrong that is no promise: tracebacks.
    unexpected: str = ""
    trace: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return self.broken is not None or bool(self.unexpected)

    @property
    def finding(self) -> str:
        """What is wrong; "" if nothing is."""
        told = [str(self.broken)] if self.broken is not None else []
        return "\n".join([*told, self.unexpected] if self.unexpected else told)


class WatchedKernel(Kernel):
    """Tells what became durable."""

    on_sync: Callable[[str], None] | None = None

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        process = current()
        if self.on_sync is not None and process is not None:
            self.on_sync(process.host)


class World:
    """Everything of one seed. `run` it once."""

    def __init__(self, seed: int, options: Options) -> None:
        self.streams = streams = Streams(seed)
        drawn = options.faults or Faults.draw(streams.of("faults"))
        #: As drawn, and as they are now.
        self.drawn = self.faults = drawn.without(*options.without)
        self.trace = Trace(keep_all=options.keep_trace)
        self.clock = VirtualClock()
        self.loop = WorldLoop(self.clock, streams.scheduling, work_s=self._work_s)
        self.loop.on_kill = self.kill
        self.loop.max_events = MAX_EVENTS
        self.loop.on_storm = lambda: self.watch.fail(8, f"more than {MAX_EVENTS} events")
        # Drawn from all faults, so that switching one off does not change what is moved.
        self.workload = Workload.draw(streams.workload, drawn)
        sites = (*self.workload.requesters, *self.workload.origins)
        if self.drawn.flood_every:
            sites = (*sites, FLOODER)
        self.hosts = {site: Host(site, self.clock) for site in sites}
        self.disks = {
            site: WatchedDisk(random=streams.of(f"disk {site}"), wall_ns=self.hosts[site].wall_ns)
            for site in sites
        }
        self.kernel = WatchedKernel(
            self.disks, wall_ns=lambda host: self.hosts[host].wall_ns(), entropy=streams.entropy
        )
        self.watch = Promises(self)
        self.bounds = Bounds(self, REQUESTS_PER_S, CONCURRENCY)
        if self.bounds.small:
            for site in self.workload.requesters:
                self.disks[site].bounds = self.bounds
        self.broker = Broker(self.loop, streams.network, self.faults, self.trace, self.watch)
        self.adversary = Adversary(self.broker, streams.adversary)
        self.chaos = Chaos(self)
        self.processes: list[Running] = []
        self.dead: list[Running] = []
        self.running: dict[Job, asyncio.Task[None]] = {}
        self.paused: set[Job] = set()
        self.bystanders: dict[str, bytes] = {}
        self.trust = Trust()
        #: Jobs at whose destination somebody else has put a file.
        self.intruded: set[Job] = set()
        self.is_over = False
        #: No faults any more.
        self.is_calm = False
        self._numbers = 0
        self._change = asyncio.Event()
        self._rotten: set[str] = set()
        #: The requester processes, as far as promises look into them.
        self.desks: dict[Running, Desk] = {}

    # ------------------------------------------------------------ what the parts ask

    def fault(self, name: str, what: str = "") -> None:
        self.trace.fault(self.clock.now_s, name, what)

    def entropy(self, size: int) -> bytes:
        return self.streams.entropy.randbytes(size)

    def log_of(self, process: Running) -> Log:
        def log(event: str, /, *, level: str = "info", **fields: object) -> None:
            if level != "debug":
                told = fields.get("detail") or fields.get("code") or ""
                self.trace(self.clock.now_s, f"{process.name} says {event} {told}")

        return log

    def peers_of(self, site: str) -> tuple[str, ...]:
        """Whom an origin has pinned."""
        flooder = (FLOODER,) if self.drawn.flood_every else ()
        return (*self.workload.requesters, *flooder)

    def faulty_disk(self, host: str) -> bool:
        """Whether a disk may say no, or be wrong, at all."""
        drawn = self.drawn
        return any(
            (
                *(drawn.write_error, drawn.no_space, drawn.sync_error, drawn.read_error),
                *(drawn.full_every, drawn.rot_every),
            )
        )

    def is_rotten(self, host: str) -> bool:
        return host in self._rotten

    def rots(self, host: str) -> None:
        self._rotten.add(host)

    def is_receiving(self, process: Running, job: Job, root: bytes) -> bool:
        """Whether a run of the job is after this version, and not ending."""
        desk = self.desks.get(process)
        run = desk.fetches.get(job) if desk is not None else None
        if run is None or run._closing or run._result.done() or run._transfer is None:
            return False
        head = run._transfer.head
        if run._transfer.phase is Phase.OPENING:  # it asks anew what there is
            return False
        return head is not None and head.root == root

    def held_by(self, process: Running) -> Iterator[Packet]:
        for transport in self.broker.connections:
            if transport.process is process:
                for consumer in transport._consumers:
                    yield from consumer.unacknowledged.values()

    # ------------------------------------------------------------ processes

    def start(self, host: str, kind: str) -> None:
        """A new process of that kind."""
        if self.is_over or (kind == "fetch" and not self.unfinished(host)):
            return
        if kind == "flood" and (self.is_calm or self.trace.faults["flood_every"] >= MAX_FLOOD):
            return
        self._numbers += 1
        process = Running(f"{host}-{kind}-{self._numbers}", host)
        self.processes.append(process)
        self.chaos.born(process)
        self.trace(self.clock.now_s, f"{process.name} starts")
        self.loop.start(process, self._main(process, kind))

    async def _main(self, process: Running, kind: str) -> None:
        ended = "ends"
        try:
            await KINDS[kind](self, process, process.host)
        except* ChunkqError as group:
            errors = list(_leaves(group))
            ended = f"ends with {', '.join(type(each).__name__ for each in errors)}"
            if kind == "serve" and process.alive and not self.faulty_disk(process.host):
                self.watch.fail(3, f"{process.name} {ended}: {errors[0]}")
        except* Exception as group:
            if process.alive:
                ended = f"crashes: {_told(group)}"
                self.loop.unexpected.append(f"{process.name} {ended}")
                self.halt()
        if process.alive:
            self.bury(process, ended)
            self._start_again(process, kind)

    def bury(self, process: Running, how: str) -> None:
        """A process is at its end."""
        if process not in self.processes:
            return
        self.trace(self.clock.now_s, f"{process.name} {how}")
        self.processes.remove(process)
        self.dead.append(process)
        self.loop.kill(process)
        self.kernel.kill(process)
        self.broker.disconnect(process)
        for job in [job for job in self.running if job.site == process.host]:
            del self.running[job]
            self.paused.discard(job)

    def kill(self, process: Running) -> None:
        """kill -9; somebody starts it again."""
        if process in self.processes:
            self.bury(process, "is killed")
            self._start_again(process, process.name.split("-")[1])

    def _start_again(self, process: Running, kind: str) -> None:
        delay_s = self.streams.scheduling.uniform(*RESTART_S)
        self.loop.later(delay_s, self.start, process.host, kind)

    def power_cut(self, host: str) -> None:
        """All processes of a host, and what its disk had not synced."""
        self.trace(self.clock.now_s, f"{host} loses its power")
        before = self.watch.before_crash(host)
        for process in [each for each in self.processes if each.host == host]:
            self.kill(process)
        self.kernel.power_cut(host)
        self.hosts[host].boots += 1
        self.watch.crashed(host, before)

    # ------------------------------------------------------------ jobs

    def unfinished(self, host: str | None = None) -> list[Job]:
        return [job for job in self.workload.jobs if not job.done and host in (None, job.site)]

    def ended(self, process: Running, job: Job, error: ChunkqError) -> None:
        """A run of a job ended by an error."""
        name = type(error).__name__
        job.ends.append(name)
        self.trace(self.clock.now_s, f"{process.name} {job} ends: {name} {error.message}")
        self.watch.ended(job, error)

    def job_done(self, job: Job) -> None:
        self.trace(self.clock.now_s, f"{job} is done")
        self._change.set()

    def halt(self) -> None:
        """Something is wrong: nothing more need happen."""
        self.is_over = True
        self._change.set()
        self.loop.stop()

    # ------------------------------------------------------------ the run

    def run(self) -> None:
        """Live. What is wrong afterwards is in `watch` and in `loop.unexpected`."""
        with ExitStack() as stack:
            stack.enter_context(_sealing(self.watch))
            stack.enter_context(self.bounds.installed())
            stack.enter_context(self.kernel.install())
            images(self)
            self.kernel.before_call = self._before_call
            self.kernel.on_sync = self.watch.synced
            asyncio.set_event_loop(self.loop)
            try:
                self.loop.run_until_complete(self._live())
            except Stuck as stuck:
                if not self.is_over:
                    self.watch.fail(8, f"{stuck}; unfinished: {self._left()}")
            except RuntimeError as error:
                if not self.is_over:  # stopped by `halt` before its end
                    self.loop.unexpected.append(repr(error))
            finally:
                self.is_over = True
                self._tear_down()

    async def _live(self) -> None:
        for site in self.workload.origins:
            for _ in range(self.workload.workers):
                self.start(site, "serve")
        for site in self.workload.requesters:
            self.start(site, "fetch")
        if self.drawn.flood_every:
            self.start(FLOODER, "flood")
        self.chaos.begin()
        await self._until_done(self.workload.chaos_s)
        self._calm()
        before = self.broker.published
        await self._until_done(BUDGET_S)
        if left := self.unfinished():
            self.watch.fail(8, f"not done {BUDGET_S:.0f} s after the last fault: {self._left()}")
        packets = self.broker.published - before
        most = BUDGET_PACKETS_PER_CHUNK * self.workload.chunks + BUDGET_PACKETS
        if packets > most:
            self.watch.fail(8, f"{packets} packets after the last fault, for {most} at most")
        if not left and self.drawn.replay_every:
            await self._later()
        for site in self.workload.requesters:
            self.watch.check_files(site)

    async def _until_done(self, seconds: float) -> None:
        """Until all jobs are done, or so long."""
        end_s = self.clock.now_s + seconds
        while self.unfinished() and self.clock.now_s < end_s and not self.is_over:
            self._change.clear()
            try:
                async with asyncio.timeout(end_s - self.clock.now_s):
                    await self._change.wait()
            except TimeoutError:
                return

    def _calm(self) -> None:
        """No more faults from here on."""
        self.trace(self.clock.now_s, "faults stop")
        self.is_calm = True
        self.faults = self.broker.faults = Faults()
        self.chaos.end()

    async def _later(self) -> None:
        """The adversary tries what it kept, after restarts, hours and a week later."""
        for later_s in LATER_S:
            for process in list(self.processes):
                self.kill(process)
            if self.streams.adversary.random() < 0.3:
                self.power_cut(self.workload.origins[0])
            await asyncio.sleep(later_s)
            self.adversary.replay_all()
            self.adversary.forge(self.hosts[self.workload.origins[0]])
            await asyncio.sleep(10.0)

    def _left(self) -> str:
        told = [f"{job} ({', '.join(job.ends[-3:]) or 'never ended'})" for job in self.unfinished()]
        return "; ".join(told)

    def _before_call(self, process: Process, name: str, arguments: tuple[object, ...]) -> None:
        assert isinstance(process, Running)
        process.calls += 1
        if self.chaos.ends_here(process, name):
            raise Killed

    def _work_s(self) -> float:
        low, high = WORK_S
        seconds = low + (high - low) * self.streams.scheduling.random()
        if self.faults.slow_threads and self.streams.scheduling.random() < 0.05:
            seconds += self.faults.slow_threads * self.streams.scheduling.random()
        return seconds

    def _tear_down(self) -> None:
        """Let go of everything; nothing of it has an effect, or says anything."""
        self.kernel.before_call = self.kernel.on_sync = None
        for process in list(self.processes):
            self.bury(process, "is over")
        for process in self.dead:
            self.loop.bury(process)
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        asyncio.set_event_loop(None)
        self.loop.close()


def run_seed(seed: int, options: Options | None = None) -> Outcome:
    """Live the world of a seed. Independent of those lived before it."""
    options = options or Options()
    was_enabled = gc.isenabled()
    gc.disable()  # what a collection lets go of would be let go of at another moment each time
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        with remembered_curves():
            world = World(seed, options)
            world.run()
            outcome = _outcome(world, options)
            del world
    finally:
        gc.collect()
        sys.unraisablehook = hook
        if was_enabled:
            gc.enable()
    return outcome


def _outcome(world: World, options: Options) -> Outcome:
    ends: dict[str, int] = {}
    for job in world.workload.jobs:
        for name in job.ends:
            ends[name] = ends.get(name, 0) + 1
    return Outcome(
        seed=world.streams.seed,
        faults=world.drawn,
        events=world.loop.events,
        virtual_s=world.clock.now_s,
        packets=world.broker.published,
        digest=world.trace.digest,
        occurred=dict(sorted(world.trace.faults.items())),
        ends=ends,
        checked=dict(sorted(world.watch.checked.items())),
        broken=world.watch.broken,
        unexpected="\n".join(world.loop.unexpected),
        trace=list(world.trace.last) if options.keep_trace or world.watch.broken else [],
    )


@contextmanager
def _sealing(watch: Promises) -> Iterator[None]:
    """The world sees what is sealed."""
    seal = aead.seal

    def watched(suite: Suite, key: bytes, seq: int, header: bytes, body: Any) -> bytes:
        packet = seal(suite, key, seq, header, body)
        watch.on_seal(key, seq, header, bytes(body), packet)
        return packet

    aead.seal = watched
    try:
        yield
    finally:
        aead.seal = seal


def _leaves(group: BaseExceptionGroup[Any]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _told(group: BaseExceptionGroup[Any]) -> str:
    import traceback

    return "".join(traceback.format_exception(next(_leaves(group))))
