"""The model's process: performs a transfer's effects as `runtime.fetch` does, and watches it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from chunkq.errors import ChunkqError, DiskFull, SyncFailed
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.digest import digest
from chunkq.protocol.geometry import from_ranges
from chunkq.protocol.limits import DIGEST_SIZE_BYTES
from chunkq.protocol.manifest import Head
from chunkq.protocol.messages import Chunks, Pages, Refusal
from chunkq.protocol.transfer import Transfer
from chunkq.protocol.transfer_events import Phase, Waiting

from .world import Disk, Faults, Reply, Slot

if TYPE_CHECKING:
    from .world_run import World

#: Most timers a transfer may use up in a second of virtual time, and beside that in all.
TICKS_PER_S = 25
TICKS_AT_ONCE = 60


class Driver:
    """One transfer in one process; `dead` after a crash, and nothing of it happens any more."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.dead = False
        self.process = world.process
        self._incarnation = world.incarnation
        self._clock = world.clock
        self._rng: Random = world.rng
        self._disk = world.disks[name]
        self._faults: Faults = world.faults
        self._jobs: list[Job] = []
        self._working = False
        self._writing: set[int] = set()
        self._written: list[Reply] = []
        self._durable = Bitmap(0)
        self._timer = 0
        self._began_s = self._clock.now
        self._ticks = 0
        self.requests: list[str] = []
        self.chunks_asked = 0
        self.chunks_of: Counter[int] = Counter()
        self.left: dict[int, ChunkqError] = {}
        self._polling = False
        self._rots = 0
        self.transfer: Transfer

    def begin(self) -> None:
        resumed, doubt_all = self._disk.load()
        window, *mirrors = self.process.windows
        self.transfer = Transfer(
            window=window,
            mirrors=mirrors,
            resumed=resumed,
            now=self._clock.now,
            patience_s=self.world.patience_s,
            doubt_all=doubt_all,
            commit_bytes=self.world.commit_bytes,
        )
        self._adopts = resumed is not None
        if resumed is not None:
            self._durable = resumed.bitmap.copy()
        self.feed(ev.Tick())

    def describe(self) -> str:
        transfer = self.transfer
        return (
            f"{self.name}: {transfer.phase.name} {transfer.bitmap.present}/{transfer.bitmap.count}"
            f" doubtful {transfer.doubtful.present} in flight {transfer.in_flight}"
            f" waiting {transfer.waiting} wake {transfer.next_wake_s} now {self._clock.now}"
        )

    # ------------------------------------------------------------ the machine

    def feed(self, event: ev.Event) -> None:
        transfer, now = self.transfer, self._clock.now
        if self.dead or transfer.finished:
            return
        effects = transfer.handle(event, now)
        for effect in effects:
            self._perform(effect)
        self._check(event, now)
        for lane in transfer.lanes:
            if lane.hungry:
                self.process.hungry[lane.number][self] = None
        wake = transfer.next_wake_s
        if wake is not None:
            self._timer += 1
            self._clock.after(max(0.0, wake - now), self._on_timer, self._timer)

    def _on_timer(self, timer: int) -> None:
        if timer == self._timer and not self.dead:
            self._ticks += 1
            self.feed(ev.Tick())

    def _check(self, event: ev.Event, now: float) -> None:
        """What holds after every event."""
        transfer = self.transfer
        assert all(window.outstanding >= 0 for window in self.process.windows)
        if isinstance(event, ev.Tick) and not transfer.finished:
            wake = transfer.next_wake_s
            assert wake is None or wake > now, f"wakes at once, forever: {self.describe()}"
        allowed = TICKS_AT_ONCE + len(self.requests) + TICKS_PER_S * (now - self._began_s)
        assert self._ticks <= allowed, f"{self._ticks} ticks: {self.describe()}"
        if event == ev.ReadBackDone(False):
            self._durable = Bitmap(transfer.bitmap.count)

    def _perform(self, effect: ev.Effect) -> None:
        match effect:
            case ev.AskOpen() | ev.AskPages() | ev.AskChunks():
                self._ask(effect)
            case ev.Prepare(head):
                self._soon(self._prepare, head)
            case ev.Recheck() | ev.Punch():
                self._put(Job(effect, None, self.transfer.version))
            case ev.Commit(phase):
                self._soon(self._commit_begin, phase)
            case ev.ReadBack():
                self._soon(self._read_back)
            case ev.Publish():
                self._soon(self._publish)
            case ev.OriginLeft(lane, left):
                self.left[lane] = left
            case ev.Finish(error):
                self.process.room_appeared()
                for hungry in self.process.hungry:
                    hungry.pop(self, None)
                self._clock.after(0.0, self._finish, error)

    def _finish(self, error: ChunkqError | None) -> None:
        if not self.dead:
            self.dead = True
            self.world.finish(self.name, error)

    def _soon(self, call: Callable[..., None], *arguments: object) -> None:
        """A step of the driver: on a thread, a moment later."""
        self._clock.after(self._rng.uniform(0, 0.01), self._alive, call, arguments)

    def _alive(self, call: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if not self.dead:
            call(*arguments)

    def _ask(self, effect: ev.AskOpen | ev.AskPages | ev.AskChunks) -> None:
        transfer, world = self.transfer, self.world
        what: tuple[str, bytes, list[int]] = ("open", b"", [])
        if not isinstance(effect, ev.AskOpen):
            assert transfer.head is not None
            pages = isinstance(effect, ev.AskPages)
            body = (Pages if pages else Chunks)(  # their validation is the check
                instance="i",
                share="s",
                path="p",
                root=transfer.head.root,
                chunk_size=transfer.head.geometry.chunk_size_bytes,
                runs=list(effect.runs),
            )
            indices = list(from_ranges(body.runs))
            if not pages:
                again = [index for index in indices if index in self._durable]
                assert not again, f"durable chunks {again} asked for again: {self.describe()}"
            what = ("pages" if pages else "chunks", body.root, indices)
            if not pages:
                self.chunks_asked += len(indices)
                self.chunks_of.update(indices)
        self.requests.append(what[0])
        asked = Reply(
            self.name,
            self._incarnation,
            effect.token,
            transfer.version,
            b"",
            is_page=what[0] == "pages",
            lane=effect.lane,
        )
        if world.faulty(self._faults.unsent):
            failed = ev.AskFailed(effect.token, Waiting("broker_unreachable"), effect.lane)
            self._clock.after(self._rng.uniform(0, 0.1), self.feed, failed)
            if self._rng.random() < 0.5:
                return
        world.request(asked, what)

    # ------------------------------------------------------------ replies

    def on_reply(self, reply: Reply) -> None:
        body, transfer = reply.body, self.transfer
        mine = reply.incarnation == self._incarnation
        if isinstance(body, bytes) and not reply.is_page:
            self._on_chunk(reply, body, mine)
            self.process.room_appeared()
        elif not mine:
            return
        elif isinstance(body, Head):
            self.feed(ev.ManifestCame(reply.token, body, reply.lane))
        elif isinstance(body, Refusal):
            self.feed(ev.Refused(reply.token, body, reply.lane))
        elif reply.version == transfer.version:
            self.feed(ev.PageCame(reply.token, reply.index, body, reply.lane))

    def _on_chunk(self, reply: Reply, body: bytes, mine: bool) -> None:
        transfer, index = self.transfer, reply.index
        if not mine and not self._adopts:
            return
        current = not mine or reply.version == transfer.version
        if not current or not transfer.wants(index):
            return
        leaf = transfer.leaf(index)
        if index in self._writing or (leaf is None and mine):
            return
        self.world.unacknowledged[self.name].append(reply)
        self._writing.add(index)
        if mine:
            self.feed(ev.ChunkLanded(index, reply.lane))
        self._put(Job(reply, leaf, transfer.version, mine))

    # ------------------------------------------------------------ the assembler

    def _put(self, job: Job) -> None:
        self._jobs.append(job)
        self._work_soon()

    def _work_soon(self) -> None:
        if self._jobs and not self._working:
            self._working = True
            self._soon(self._work)

    def _work(self) -> None:
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.do(self._disk, self.transfer.head)
        self._soon(self._done, jobs)

    def _done(self, jobs: list[Job]) -> None:
        self._working = False
        for job in jobs:
            if isinstance(job.what, Reply):
                self._chunk_done(job.what, job)
            elif isinstance(job.what, ev.Recheck) and job.version == self.transfer.version:
                self.feed(job.event)
        self._work_soon()

    def _chunk_done(self, reply: Reply, job: Job) -> None:
        self._writing.discard(reply.index)
        if isinstance(job.event, ev.ChunkStored | ev.ChunkAdopted):
            self._written.append(reply)
        else:
            self._acknowledge([reply])
        if job.version == self.transfer.version:
            self.feed(job.event)
            if isinstance(job.event, ev.ChunkDropped):
                self._wait_for_space(step=False)

    def _acknowledge(self, replies: list[Reply]) -> None:
        waiting = self.world.unacknowledged[self.name]
        done = {id(reply) for reply in replies}
        waiting[:] = [reply for reply in waiting if id(reply) not in done]

    # ------------------------------------------------------------ steps

    def _prepare(self, head: Head) -> None:
        if self._working or self._jobs:
            self._soon(self._prepare, head)
            return
        try:
            self._disk.prepare(head)
        except DiskFull:
            self._wait_for_space(step=True)
            return
        self._durable = Bitmap(head.geometry.chunk_count)
        self.feed(ev.Prepared())

    def _commit_begin(self, phase: Phase) -> None:
        transfer = self.transfer
        assert transfer.head is not None
        written, self._written = self._written, []
        slot = Slot(phase, transfer.head.root, transfer.bitmap.copy())
        self._soon(self._commit_data, slot, written)

    def _commit_data(self, slot: Slot, written: list[Reply]) -> None:
        try:
            self._disk.sync()
        except SyncFailed:
            self._acknowledge(written)
            self.feed(ev.SyncLost(self._durable))
        else:
            self._soon(self._commit_state, slot, written)

    def _commit_state(self, slot: Slot, written: list[Reply]) -> None:
        try:
            self._disk.store(slot)
        except DiskFull:
            self._written = written + self._written
            self._wait_for_space(step=True)
            return
        self._durable = slot.bitmap.copy()
        self._acknowledge(written)
        read_back = slot.phase is Phase.PUBLISHING  # what rots after that is not ours
        if not read_back and self._rots < 2 and self._disk.rot(slot.bitmap):
            self._rots += 1
        self.feed(ev.Committed(slot.phase))

    def _read_back(self) -> None:
        assert self.transfer.head is not None
        found = digest(bytes(self._disk.part))
        self.feed(ev.ReadBackDone(found == self.transfer.head.content_digest))

    def _publish(self) -> None:
        assert self.transfer.head is not None
        self.world.published[self.name] = bytes(self._disk.part)
        version = self.world.by_root(self.name, self.transfer.head.root)
        assert version.content == self.world.published[self.name]
        self._written = []
        self.feed(ev.Published())

    def _wait_for_space(self, *, step: bool) -> None:
        self.feed(ev.SpaceGone("model disk: no room", step))
        if not self._polling:
            self._polling = True
            self._clock.after(1.0, self._poll)

    def _poll(self) -> None:
        if self._disk.full:
            self._clock.after(1.0, self._poll)
        elif not self.dead:
            self._polling = False
            self.feed(ev.SpaceBack())


class Job:
    """Work on the part file: a reply to be compared and written, or chunks to be compared."""

    def __init__(
        self,
        what: Reply | ev.Recheck | ev.Punch,
        leaf: bytes | None,
        version: int,
        mine: bool = True,
    ) -> None:
        self.what = what
        self.leaf = leaf
        self.version = version
        self._token = what.token if isinstance(what, Reply) and mine else 0
        self.event: ev.Event

    def do(self, disk: Disk, head: Head | None) -> None:
        assert head is not None
        if isinstance(self.what, Reply):
            self._store(disk, self.what, head)
        elif isinstance(self.what, ev.Punch):
            for index in from_ranges(self.what.runs):
                disk.punch(index, head.geometry.length(index))
        else:
            self._compare(disk, self.what)

    def _store(self, disk: Disk, reply: Reply, head: Head) -> None:
        body, index = reply.body, reply.index
        assert isinstance(body, bytes)
        fits = index < head.geometry.chunk_count and len(body) == head.geometry.length(index)
        if not fits or (self.leaf is not None and digest(body) != self.leaf):
            self.event = ev.ChunkBad(index, reply.lane)
            return
        try:
            disk.write(index, body)
        except DiskFull:
            self.event = ev.ChunkDropped(index, reply.lane)
        else:
            adopted = self.leaf is None
            stored = ev.ChunkStored(index, self._token, reply.lane)
            self.event = ev.ChunkAdopted(index, reply.lane) if adopted else stored

    def _compare(self, disk: Disk, recheck: ev.Recheck) -> None:
        good: list[int] = []
        bad: list[int] = []
        for index in recheck.indices:
            at = (index - recheck.first) * DIGEST_SIZE_BYTES
            leaf = recheck.leaves[at : at + DIGEST_SIZE_BYTES]
            (good if disk.matches(index, leaf) else bad).append(index)
        self.event = ev.Rechecked(tuple(good), tuple(bad))
