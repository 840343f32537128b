"""The eight promises of the design, as checks that run while a world does.

Each is written against what is seen from outside: packets, disks, and what was asked of whom. The
first that does not hold is kept; the world ends with it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chunkq.errors import ChunkqError, DestinationExists
from chunkq.ports import Mailbox, PeerRef
from chunkq.protocol import cbor
from chunkq.protocol.digest import digest
from chunkq.protocol.geometry import from_ranges
from chunkq.protocol.limits import MAX_CLOCK_SKEW_MS
from chunkq.protocol.messages import Chunks, Open, Request
from chunkq.protocol.packet import ReplyKind, RequestId, RequestKind
from chunkq.runtime.progress import FetchResult
from chunkq.storage.transferid import transfer_id
from tests.simulation.asked_for import path_asked_for
from tests.simulation.broker import Packet
from tests.simulation.excuses import disk_refused, is_excused
from tests.simulation.inodes import Directory, File, Inode
from tests.simulation.inspect_disk import Slot, find, newest_slot, read, read_at, walk
from tests.simulation.intruders import INTRUDER
from tests.simulation.loop import Running
from tests.simulation.process import current
from tests.simulation.staged_checks import StagedChecks
from tests.simulation.trees import TREE, leads_out
from tests.simulation.versions import chunk_of, version_with
from tests.simulation.workload import SECRET_SHARE, SHARE, Job, keys_of, ref_of

if TYPE_CHECKING:
    from tests.simulation.world import World

#: What directories there are on a requester's host, and where more may be made.
_PLACES = ("/inbox", "/elsewhere")
_DIRECTORIES = ("/etc/", "/inbox/.chunkq/", f"/inbox/{TREE}/", "/state/")
#: Of a plaintext, so much must not be seen in a packet: no accident in a world.
_PROBE_BYTES = 16
#: What a promise is called in one line.
PROMISES = {
    1: "one signed version, or nothing",
    2: "a crash costs at most one commit group",
    3: "every end has a name, and goes on",
    4: "the broker learns no names, no content",
    5: "no unsigned, misaddressed, expired or replayed request has an effect",
    6: "nothing outside the destination",
    7: "a peer is bounded",
    8: "it completes once faults stop",
}


class Broken(Exception):
    """A promise that does not hold."""

    def __init__(self, promise: int, what: str) -> None:
        super().__init__(f"promise {promise} ({PROMISES[promise]}): {what}")
        self.promise = promise
        self.what = what

    def __reduce__(self) -> tuple[type[Broken], tuple[int, str]]:
        return Broken, (self.promise, self.what)


@dataclass(slots=True, eq=False)
class Asked:
    """A request that an honest process has sealed."""

    by: Running
    kind: int
    recipient: bytes
    issued_ms: int
    expires_ms: int
    body: bytes
    number: int
    run: Begun | None = None


@dataclass(slots=True, eq=False)
class Sealed:
    """A reply: of which kind, to the request with which number, and what it says."""

    kind: int
    index: int
    number: bytes
    body: bytes


@dataclass(slots=True, eq=False)
class Begun:
    """What a run of a job found."""

    process: Running
    slot: Slot | None
    #: How often its host's disk had refused something by then.
    refusals: int


class Promises:
    """All checks of one world. `broken` is the first that failed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.broken: Broken | None = None
        self.asked: dict[tuple[bytes, bytes], Asked] = {}
        #: Manifests and chunks that workers have sealed, and what is in them.
        self.sealed: dict[bytes, Sealed] = {}
        #: Who has used a request id.
        self._askers: dict[bytes, set[str]] = {}
        self._nonces: set[tuple[bytes, int]] = set()
        self._staged = StagedChecks(world)
        self._acted: dict[tuple[str, bytes, bytes], float] = {}
        self._came_s: dict[tuple[str, bytes, bytes], float] = {}
        self._fresh: set[tuple[str, bytes, bytes]] = set()
        self._begun: dict[Job, Begun] = {}
        #: The last request of a job for its manifest, by its number among all.
        self._opened: dict[Job, int] = {}
        self._acts: dict[tuple[Running, str], list[float]] = {}
        self._lies = 0
        #: What is sealed next is a lie; and the requests that were answered by one.
        self._is_lying = False
        self._lied: set[bytes] = set()
        #: A file that has not the digest it was signed with is doubted as a whole.
        self._digest_lied = False
        #: How often each check had something to look at.
        self.checked: Counter[str] = Counter()
        self._names = [job.source.path.encode() for job in world.workload.jobs]
        self._names += [SHARE.encode(), SECRET_SHARE.encode()]

    def fail(self, promise: int, what: str) -> None:
        if self.broken is None:
            self.broken = Broken(promise, what)
            self.world.trace(self.world.clock.now_s, f"BROKEN {self.broken}")
            self.world.halt()

    # ------------------------------------------------------------ sealing and sending

    def on_seal(self, key: bytes, seq: int, header: bytes, body: bytes, packet: bytes) -> None:
        """A process has sealed something."""
        process = current()
        if not isinstance(process, Running):
            return
        if (key, seq) in self._nonces:
            self.fail(4, f"{process.name} used a key and nonce twice")
        self._nonces.add((key, seq))
        if len(body) >= _PROBE_BYTES and body[:_PROBE_BYTES] in packet[len(header) :]:
            self.fail(4, f"{process.name} sealed nothing: the plaintext is in the packet")
        if header[:4] == b"CKQ1":
            self._askers.setdefault(header[72:88], set()).add(process.host)
            self.asked[header[8:40], header[72:88]] = asked = Asked(
                process,
                header[4],
                header[40:72],
                int.from_bytes(header[88:96], "big"),
                int.from_bytes(header[96:104], "big"),
                body,
                len(self.asked),
            )
            if header[4] == RequestKind.OPEN:
                job = self._job_of(process, cbor.decode(Open, body).path)
                if job is not None:
                    self._opened[job] = asked.number
            if header[4] == RequestKind.CHUNKS:
                self._check_request(process, asked)
        elif header[4] in (ReplyKind.CHUNK, ReplyKind.MANIFEST):
            index = int.from_bytes(header[64:72], "big")
            self.sealed[packet] = Sealed(header[4], index, header[8:24], body)
            if header[4] == ReplyKind.MANIFEST:
                self._check_grant(process, header[8:24])
            if self._is_lying:
                self._lied.add(header[8:24])
                self._digest_lied |= header[4] == ReplyKind.MANIFEST
        self._is_lying = False

    def published(self, by: Running, to: Mailbox, body: bytes) -> None:
        for name in self._names:
            if name in body:
                self.fail(4, f"{by.name} told the broker {name!r}")
        is_reply = to.kind == "rep" and body[:4] == b"CKQR"
        if is_reply and to.site not in self._askers.get(body[8:24], ()):
            self.fail(5, f"{by.name} answers {to}, which asked nothing")

    def lied(self, site: str) -> None:
        self._lies += 1
        self._is_lying = True

    def delivered(self, to: Running, mailbox: Mailbox, packet: Packet) -> None:
        """Note whether a request came in time, by the clock of who gets it."""
        body = packet.body
        if mailbox.kind != "req" or len(body) < 140:
            return
        wall_ms = self.world.hosts[to.host].wall_ms()
        self._came_s[to.host, body[8:40], body[72:88]] = self.world.clock.now_s
        if _is_timely(body[88:96], body[96:104], wall_ms):
            self._fresh.add((to.host, body[8:40], body[72:88]))

    # ------------------------------------------------------------ acting

    def acting(
        self, process: Running, site: str, peer: PeerRef, body: Request, request_id: RequestId
    ) -> None:
        """An origin is about to do what a request asks: promises 5 and 7."""
        number, sender = request_id.to_bytes(), peer.card.site_id
        what = f"{process.name} acts on {number.hex()} of {peer.alias}"
        asked = self.asked.get((sender, number))
        if asked is None:
            self.fail(5, f"{what}, which was never asked")
            return
        if asked.recipient != keys_of(site).site_id:
            self.fail(5, f"{what}, which is for another site")
        if cbor.encode(body) != asked.body:
            self.fail(5, f"{what}, which asked for something else")
        if peer.alias not in self.world.peers_of(site):
            self.fail(5, f"{what}, who is not pinned")
        place = (process.host, sender, number)
        if place in self._acted:
            self.fail(5, f"{what} again, {self.world.clock.now_s - self._acted[place]:.1f} s later")
        self._acted[place] = self.world.clock.now_s
        issued, expires = asked.issued_ms.to_bytes(8, "big"), asked.expires_ms.to_bytes(8, "big")
        wall_ms = self.world.hosts[process.host].wall_ms()
        if place not in self._fresh and not _is_timely(issued, expires, wall_ms):
            self.fail(5, f"{what}, which has expired, or is of the future")
        lost_s = self.world.trust.lost_at_s(site, peer.alias)
        if lost_s is not None and self._came_s.get(place, 0.0) > lost_s:
            self.fail(5, f"{what}, who is not trusted since {lost_s:.1f} s")
        self._check_quota(process, peer.alias)

    def remembering(self, process: Running, site: str, sender: bytes, request: RequestId) -> None:
        """An origin is about to take a request down: that is an effect, too (promise 5)."""
        what = f"{process.name} takes down {request.to_bytes().hex()}"
        asked = self.asked.get((sender, request.to_bytes()))
        if asked is None:
            self.fail(5, f"{what}, which was never asked")
        elif asked.recipient != keys_of(site).site_id:
            self.fail(5, f"{what}, which is for another site")

    def _check_grant(self, by: Running, number: bytes) -> None:
        """What an origin sends of a file is for who may see it (promise 5)."""
        for sender, asked_number in [each for each in self.asked if each[1] == number]:
            asked = self.asked[sender, asked_number]
            alias = asked.by.host
            path = path_asked_for(asked.kind, asked.body)
            if path is not None and not self.world.trust.may_see(alias, path):
                self.fail(5, f"{by.name} gives {path} to {alias}, who may not see it")

    def _check_quota(self, process: Running, alias: str) -> None:
        """Promise 7: so many requests a second, and a burst."""
        from tests.simulation.serving import REQUESTS_PER_S

        times = self._acts.setdefault((process, alias), [])
        times.append(self.world.clock.now_s)
        burst = 2 * REQUESTS_PER_S
        allowed = burst + REQUESTS_PER_S * (times[-1] - times[0]) + 1
        if len(times) > allowed:
            self.fail(7, f"{process.name} acted on {len(times)} requests of {alias} in a burst")

    # ------------------------------------------------------------ commits

    def run_begins(self, process: Running, job: Job) -> None:
        self._begun[job] = Begun(process, self.slot_of(job), self._refusals(job))

    def _check_request(self, process: Running, asked: Asked) -> None:
        """Promise 2: what was committed before a start is not asked for again."""
        body = cbor.decode(Chunks, asked.body)
        job = self._job_of(process, body.path)
        if job is None or (begun := self._begun.get(job)) is None:
            return
        asked.run, slot = begun, begun.slot
        if slot is None or slot.root != body.root or self._is_disk_blamed(job):
            return
        self.checked["asked again"] += 1
        again = slot.bits.intersection(from_ranges(body.runs))
        if again:
            self.fail(2, f"{job}: committed and asked for again: {sorted(again)}")

    def acknowledged(self, by: Running, mailbox: Mailbox, packets: list[Packet]) -> None:
        """Promise 2: who acknowledges a chunk has it durably, or holds another copy of it."""
        self.world.bounds.check_asking(by)
        if mailbox.kind != "rep":
            return
        if (what := self._staged.miscounted_window(by)) is not None:
            self.fail(7, what)
        for packet in packets:
            sealed = self.sealed.get(packet.body)
            if sealed is None or sealed.kind != ReplyKind.CHUNK or sealed.number in self._lied:
                continue
            asked = self.asked.get((keys_of(mailbox.site).site_id, sealed.number))
            if asked is None or asked.by is not by or asked.kind != RequestKind.CHUNKS:
                continue
            self._check_acknowledged(by, asked, sealed, packets)

    def _check_acknowledged(
        self, by: Running, asked: Asked, sealed: Sealed, going: list[Packet]
    ) -> None:
        body, index = cbor.decode(Chunks, asked.body), sealed.index
        job = self._job_of(by, body.path)
        if job is None or job.done or self._digest_lied or self._is_disk_blamed(job):
            return
        if asked.run is None or asked.run is not self._begun.get(job):  # of an earlier run
            return
        version = version_with(job.source, body.root)
        if version is not None and chunk_of(version, index) != sealed.body:
            return  # a mistake of the origin's: not the chunk that was asked for
        if not self.world.is_receiving(by, job, body.root) or asked.number < self._opened.get(
            job, 0
        ):
            return  # told of another version, it takes nothing until it knows more
        self.checked["acknowledged"] += 1
        slot = self.slot_of(job, durable=True)
        if slot is not None and slot.root == body.root and index in slot.bits:
            self._check_data(job, slot, {index}, durable=True)
            return
        gone = {packet.number for packet in going}
        for packet in self.world.held_by(by):
            held = self.sealed.get(packet.body)
            if held is not None and held.index == index and packet.number not in gone:
                other = self.asked.get((keys_of(job.site).site_id, held.number))
                if other is not None and self._path_of(other) == body.path:
                    return
        if read(find(self.world.disks[job.site], job.destination)) is None:
            self.fail(2, f"{job}: chunk {index} is acknowledged and not durable")

    # ------------------------------------------------------------ disks

    def slot_of(self, job: Job, *, durable: bool = False) -> Slot | None:
        name = job_transfer_id(job)
        path = f"/sim/{job.site}/inbox/.chunkq/{name}.state"
        return newest_slot(
            find(self.world.disks[job.site], path, durable=durable), name, durable=durable
        )

    def part_of(self, job: Job, *, durable: bool = False) -> File | None:
        path = f"/sim/{job.site}/inbox/.chunkq/{job_transfer_id(job)}.part"
        found = find(self.world.disks[job.site], path, durable=durable)
        return found if isinstance(found, File) else None

    def synced(self, host: str) -> None:
        """Something became durable: no bit may be ahead of its data, whatever happens next."""
        if self.world.is_rotten(host):
            return
        for job in self._jobs_at(host):
            slot = self.slot_of(job, durable=True)
            if slot is not None:
                self._check_data(job, slot, slot.bits, durable=True)
            name = f"{job_transfer_id(job)}.manifest"
            if (what := self._staged.unsigned_manifest(job, name)) is not None:
                self.fail(1, what)

    def before_crash(self, host: str) -> dict[Job, Slot | None]:
        return {job: self.slot_of(job, durable=True) for job in self._jobs_at(host)}

    def crashed(self, host: str, before: dict[Job, Slot | None]) -> None:
        """A host has lost its power: what is left of it must be true."""
        for job, slot in before.items():
            left = self.slot_of(job)
            is_less = slot and (left is None or left.generation < slot.generation)
            if slot and is_less and find(self.world.disks[host], job.destination) is None:
                self.fail(2, f"{job}: generation {slot.generation} was durable and is gone")
            if left is not None and not self.world.is_rotten(host):
                self._check_data(job, left, left.bits)
        self.check_files(host)

    def _check_data(
        self, job: Job, slot: Slot, bits: frozenset[int] | set[int], *, durable: bool = False
    ) -> None:
        """Promise 2: each bit's chunk is in the part file, or published."""
        version = version_with(job.source, slot.root)
        if version is None or not bits:
            return
        part = self.part_of(job, durable=durable)
        if part is None:
            final = find(self.world.disks[job.site], job.destination, durable=durable)
            if isinstance(final, File):
                part = final
        self.checked["bits"] += 1
        size = slot.chunk_size_bytes
        for index in sorted(bits):
            wanted = version[index * size : (index + 1) * size]
            if part is None or read_at(part, index * size, size, durable=durable) != wanted:
                self.fail(2, f"{job}: bit {index} is set, and the chunk is not there")
                return

    def check_files(self, host: str) -> None:
        """Promises 1 and 6: what is at final paths is one version, and nothing else was touched."""
        world = self.world
        if host not in world.workload.requesters:
            return
        finals = {job.destination[len(f"/sim/{host}") :]: job for job in self._jobs_at(host)}
        for path, inode in walk(world.disks[host]):
            job = finals.get(path)
            if isinstance(inode, Directory):
                if not f"{path}/".startswith(_DIRECTORIES) and path not in _PLACES:
                    self.fail(6, f"{host}{path} was made")
            elif job is not None:
                self._check_final(job, inode)
            else:
                self._check_other(host, path, inode)
        for job in finals.values():
            if job.done and find(world.disks[host], job.destination) is None:
                self.fail(1, f"{job}: done, and it is gone")

    def _check_other(self, host: str, path: str, inode: Inode) -> None:
        """Promise 6: nothing is written but files that were asked for."""
        bystanders = self.world.bystanders
        if path in bystanders:
            if read(inode) != bystanders[path] and not self.world.is_rotten(host):
                self.fail(6, f"{host}{path} was changed")
        elif path.startswith(f"/inbox/{TREE}/"):
            if leads_out(path, inode):
                self.fail(6, f"{host}{path} is a link that leads out")
        elif not path.startswith(("/inbox/.chunkq/", "/state/")):
            self.fail(6, f"{host}{path} was made")

    def _check_final(self, job: Job, inode: object) -> None:
        if not isinstance(inode, File):
            return self.fail(6, f"{job}: no file any more")
        final = read(inode)
        if self.world.is_rotten(job.site):
            return None
        if job in self.world.intruded:
            return None if final == INTRUDER else self.fail(1, f"{job}: replaced, unasked")
        if final not in job.source.versions:
            self.fail(1, f"{job}: {len(final or b'')} bytes that are no version of the source")
        elif job.done and final != job.final:
            self.fail(1, f"{job}: done, and it changed")
        return None

    # ------------------------------------------------------------ ends

    def run_ended(self, process: Running, job: Job, result: FetchResult) -> None:
        """A run says that the file is there: it must be, durably, and nothing else."""
        disk, name = self.world.disks[job.site], job_transfer_id(job)
        final = read(find(disk, job.destination))
        lasting = read(find(disk, job.destination, durable=True), durable=True)
        if final is None:
            return self.fail(3, f"{job}: done, and there is no file")
        job.done, job.final = True, final
        self.world.job_done(job)
        if job in self.world.intruded:
            self.fail(1, f"{job}: done, in the place of somebody else's file")
        if self.world.is_rotten(job.site):
            return None
        if final not in job.source.versions:
            self.fail(1, f"{job}: done with {len(final)} bytes that are no version of the source")
        self.checked["published durably"] += 1
        if lasting != final:
            self.fail(1, f"{job}: done, and a power cut would undo it")
        for suffix in (".part", ".state", ".manifest", ".new"):
            if find(disk, f"/sim/{job.site}/inbox/.chunkq/{name}{suffix}") is not None:
                self.fail(3, f"{job}: done, and {suffix} is left behind")
        if result.content_digest != digest(final):
            self.fail(1, f"{job}: done, and told with another digest than it has")
        if result.size_bytes != len(final):
            self.fail(3, f"{job}: {result.size_bytes} bytes are told, {len(final)} are there")
        alone = len(job.source.versions) == 1 and not self._is_disk_blamed(job)
        if alone and not self._lies and result.new_bytes > len(final):
            self.fail(3, f"{job}: {result.new_bytes} new bytes of {len(final)}")
        return None

    def ended(self, job: Job, error: ChunkqError) -> None:
        """Promise 3: an end has a name that fits what went wrong."""
        name = type(error).__name__
        rotten = self.world.is_rotten(job.site)
        other = self.world.drawn.change_every or self._digest_lied or rotten
        if isinstance(error, DestinationExists) and other:
            # Published, then killed before it could say so; now it is not what the origin has.
            final = read(find(self.world.disks[job.site], job.destination))
            ours = final in job.source.versions or (final is not None and rotten)
            if ours and job not in self.world.intruded:
                job.done, job.final = True, final or b""
                return self.world.job_done(job)
        if not error.message:
            self.fail(3, f"{job}: {name} says nothing")
        self.checked["ends"] += 1
        since = self._begun[job].refusals if job in self._begun else 0
        if not is_excused(self.world, job, error, since=since, lies=self._lies):
            self.fail(3, f"{job}: {name} for no reason: {error.message}")
        return None

    # ------------------------------------------------------------ small pieces

    def _jobs_at(self, host: str) -> list[Job]:
        return [job for job in self.world.workload.jobs if job.site == host]

    def _refusals(self, job: Job) -> int:
        return self.world.disks[job.site].refusals

    def _is_disk_blamed(self, job: Job) -> bool:
        """Whether the disk has refused this run something, or lost what it had."""
        if self.world.is_rotten(job.site) or (begun := self._begun.get(job)) is None:
            return True
        return disk_refused(self.world, job.site, begun.refusals)

    @staticmethod
    def _path_of(asked: Asked) -> str:
        is_chunks = asked.kind == RequestKind.CHUNKS
        return cbor.decode(Chunks, asked.body).path if is_chunks else ""

    def _job_of(self, process: Running, path: str) -> Job | None:
        jobs = self._jobs_at(process.host)
        return next((job for job in jobs if job.source.path == path), None)


def job_transfer_id(job: Job) -> str:
    origin = ref_of(job.origins[0]).first_id
    return transfer_id(origin, SHARE, job.source.path, (job.source.path,))


def _is_timely(issued: bytes, expires: bytes, wall_ms: int) -> bool:
    issued_ms, expires_ms = int.from_bytes(issued, "big"), int.from_bytes(expires, "big")
    return issued_ms - MAX_CLOCK_SKEW_MS <= wall_ms <= expires_ms + MAX_CLOCK_SKEW_MS
