"""A site with transfers in every state: jobs, staging, reports and history on a real disk.

Made by the product's own storage; the requester and the origin that it tells of are this process,
which says so once a second as they would.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chunkq.api.source import Source
from chunkq.compose import ref_of
from chunkq.ports import TransferState
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.condition import Reason, State
from chunkq.protocol.report import OriginShare, Report, TransferReport
from chunkq.settings import Registry, load
from chunkq.storage.destination import Destination
from chunkq.storage.job import Job, JobClaim
from chunkq.storage.jobs import JobStore
from chunkq.storage.places import Places
from chunkq.storage.reports import Reports
from chunkq.storage.staging import Staging
from chunkq.storage.transferid import transfer_id
from tests.storage.samples import a_header
from tests.support.pair import Actor

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
CHUNK: Final = 256 * KIB
PEERS: Final = ("beta", "delta", "gamma", "hub")
#: A name that is markup, and text that runs from right to left.
HOSTILE: Final = "<img src=x onerror=alert(1)>"
BIDI: Final = "invoice-\u202efdp.exe"


@dataclass(slots=True)
class Moving:
    """A transfer that the requester of the scene has in hand."""

    job: Job
    claim: JobClaim
    state: State
    reason: Reason | None
    detail: str
    size: int
    done: int
    rate: int
    origins: tuple[str, ...]
    since_ms: int
    #: A run of chunks that have not come yet.
    gap: tuple[int, int] | None = None


@dataclass(slots=True)
class Scene:
    """The site `alice` and four peers."""

    root: Path
    actor: Actor = field(init=False)
    moving: list[Moving] = field(default_factory=list)
    opened: list[Any] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None
    random: random.Random = field(default_factory=lambda: random.Random(7))
    store: Any = None
    settings: Any = None

    def __post_init__(self) -> None:
        self.actor = Actor("alice", self.root)
        self.actor.quick("init", "--name", "alice")
        for name in PEERS:
            peer = Actor(name, self.root)
            peer.quick("init", "--name", name)
            self.actor.quick("peer", "add", peer.quick("id"))
        state = self.actor.state
        self.settings = load(config_dir=self.actor.config, state_dir=state, environ={}).settings
        self.store = JobStore(state)
        self.reports = Reports(state)
        self.inbox = self.root / "inbox"
        self.inbox.mkdir()

    reports: Any = None
    inbox: Any = None

    @property
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    # ------------------------------------------------------------ transfers

    def queued(self, source: str, *, age_s: int = 60, priority: str = "normal") -> Job:
        """A job that waits for its turn."""
        job: Job = self.store.add(
            (source,), self._destination(source), **self._given(source, age_s, priority)
        )
        return job

    def _destination(self, source: str) -> str:
        return str(self.inbox / source.rstrip("/").rpartition("/")[2])

    def _given(self, source: str, age_s: int, priority: str) -> dict[str, Any]:
        return {
            "created_ms": self.now_ms - age_s * 1000,
            "options": {"priority": priority},
            "by": "erin@ops",
            "origin": self._first_id(source).hex(),
        }

    def claimed(self, source: str, *, age_s: int = 60, priority: str = "normal") -> JobClaim:
        """A job that is this process's, as of somebody who waits for it."""
        found: JobClaim = self.store.begin(
            (source,), self._destination(source), **self._given(source, age_s, priority)
        )
        return found

    def done(self, source: str, size: int, **given: Any) -> Job:
        claim = self.claimed(source, **given)
        job: Job = self.store.complete(
            claim, size_bytes=size, new_bytes=size, content_digest="5e" * 32
        )
        return job

    def failed(self, source: str, code: str, message: str, **given: Any) -> Job:
        claim = self.claimed(source, **given)
        job: Job = self.store.fail(claim, code, message)
        return job

    def paused(self, source: str, size: int = 0, done: int = 0, **given: Any) -> Job:
        job = self.queued(source, **given)
        if size:
            self.stage(job, size, done)
        paused: Job = self.store.pause(job.job_id, "erin@ops")
        return paused

    def cancelled(self, source: str, **given: Any) -> Job:
        job = self.queued(source, **given)
        cancelled: Job = self.store.cancel(job.job_id, "erin@ops")
        return cancelled

    def running(
        self,
        source: str,
        size: int,
        done: int,
        *,
        state: State = State.RUNNING,
        reason: Reason | None = None,
        detail: str = "",
        rate: int = 0,
        origins: tuple[str, ...] = (),
        **given: Any,
    ) -> Job:
        """One that the requester has in hand."""
        claim = self.claimed(source, **given)
        job = claim.job
        staged = size and state is not State.OPENING
        gap = self.stage(job, size, done) if staged else None
        peer = job.peer
        since = self.now_ms - (1_500 if rate else 400_000)
        self.moving.append(
            Moving(
                job, claim, state, reason, detail, size, done, rate, origins or (peer,), since, gap
            )
        )
        return job

    def stage(self, job: Job, size: int, done: int) -> tuple[int, int] | None:
        """What has come of it, in staging: from the beginning on, then with gaps; a gap."""
        named = Source.parse(job.sources[0])
        origin = self._first_id(job.sources[0])
        place = Destination.for_file(job.destination)
        Places(self.actor.state).remember(place.path)
        parts = (Path(job.destination).name,)
        staging = Staging(place, transfer_id(origin, named.share, named.path, parts))
        staging.begin(a_header(site=named.peer, share=named.share, path=named.path))
        count, have = -(-size // CHUNK), done // CHUNK
        bitmap = Bitmap(count)
        straight = have * 7 // 10
        for index in range(straight):
            bitmap.add(index)
        left, index = have - straight, straight
        while left and index < count:
            run = min(left, self.random.randint(1, 24), count - index)
            index += self.random.randint(1, 6)
            for each in range(index, min(index + run, count)):
                bitmap.add(each)
                left -= 1
            index += run
        staging.state.store(
            TransferState(
                generation=1,
                phase=2,
                root=bytes(32),
                size_bytes=size,
                chunk_size_bytes=CHUNK,
                bitmap=bitmap,
            )
        )
        self.opened += [staging, place]
        return next(((each, 1) for each in range(count) if each not in bitmap), None)

    def _first_id(self, source: str) -> bytes:
        peer = source.partition(":")[0]
        return ref_of(Registry(self.settings.directories).peer(peer)).first_id

    # ------------------------------------------------------------ processes

    def say(self) -> None:
        """The requester and the origin of the scene say how it goes."""
        now = self.now_ms
        transfers = [self._transfer(each, now) for each in self.moving]
        self.reports.write(self._report("requester", transfers=transfers))
        self.reports.write(
            self._report(
                "origin",
                peers=[
                    {"peer": "hub", "requests": 48_210, "sent_bytes": 91 * GIB, "heard_ms": now},
                    {
                        "peer": "gamma",
                        "requests": 611,
                        "sent_bytes": 2 * GIB,
                        "refusals": {"busy": 12, "not_permitted": 3},
                        "heard_ms": now - 41_000,
                    },
                ],
                counters={"dropped_bad_signature": 2, "refused_busy": 12},
            )
        )

    def _transfer(self, each: Moving, now: int) -> TransferReport:
        rate = int(each.rate * self.random.uniform(0.85, 1.1))
        # the bitmap on disk stands, so the count only just moves
        each.done = min(each.size, each.done + rate // 64)
        share = each.done // len(each.origins)
        first = each.done // CHUNK
        total = -(-each.size // CHUNK)
        return TransferReport(
            transfer=each.job.job_id,
            state=each.state,
            reason=each.reason,
            detail=each.detail,
            source=each.job.sources[0],
            size_bytes=each.size,
            done_bytes=each.done,
            new_bytes=each.done,
            chunks_total=total,
            chunks_present=min(first, total),
            files_total=1,
            rate_bytes_per_s=rate,
            progress_ms=now if rate else each.since_ms,
            origins=[
                OriginShare(
                    peer=peer,
                    new_bytes=share + index * share // 3,
                    window_chunks=48 - 9 * index,
                    in_flight=31 - 7 * index if rate else 0,
                    rtt_ms=84 + 130 * index,
                )
                for index, peer in enumerate(each.origins)
            ],
            in_flight=[each.gap] if rate and each.gap else [],
        )

    def _report(self, role: str, **given: Any) -> Report:
        told: dict[str, Any] = {
            "site": "alice",
            "host": "ops-1",
            "pid": 4711 if role == "requester" else 4712,
            "role": role,
            "instance": f"{role}-k3x9",
            "incarnation": ("ab" if role == "requester" else "cd") * 16,
            "software": "0.1.0",
            "started_ms": self.now_ms - 93_600_000,
            "at_ms": self.now_ms,
            "resident_bytes": 61 * MIB,
            "descriptors": 48,
            "transfers_total": len(given.get("transfers", ())),
            "links": [{"link": "default", "transport": "spool", "received_bytes": 70 * GIB}],
        }
        return Report(**{**told, **given})

    def keep_saying(self) -> None:
        """From a thread, until `close`."""

        def say_on() -> None:
            while not self.ended.wait(1.0):
                self.say()

        self.say()
        self.thread = threading.Thread(target=say_on)
        self.thread.start()

    def close(self) -> None:
        self.ended.set()
        self.actor.end()
        if self.thread is not None:
            self.thread.join()
        for each in self.moving:
            self.store.give_back(each.claim)
        for each in reversed(self.opened):
            each.close()
        self.store.close()


def forty(scene: Scene) -> None:
    """A working day: sizes from kilobytes to terabytes, all states, four causes of trouble."""
    day = 86_400
    for number in range(6):
        scene.done(f"hub:backups/db-2026-11-{10 + number}.zst", (18 + number) * GIB, age_s=day)
    scene.done("gamma:papers/minutes.pdf", 384 * KIB, age_s=7_000)
    scene.done("beta:media/opening.mov", 3 * GIB, age_s=9_000)
    scene.cancelled("beta:media/outtakes.mov", age_s=15_000)
    scene.failed(
        "gamma:papers/salaries.ods", "NotPermitted", "gamma refuses this site", age_s=5_000
    )
    scene.failed("gamma:papers/contracts/", "NotPermitted", "gamma refuses this site", age_s=4_900)
    scene.failed(
        "hub:images/vm-root.qcow2",
        "IntegrityError",
        "chunk 8192 from hub did not match three times",
        age_s=52_000,
    )
    scene.paused("hub:images/vm-data.qcow2", 800 * GIB // 100, 3 * GIB, age_s=30_000)
    scene.paused("beta:media/interview-raw.mov", 2 * GIB, 700 * MIB, age_s=26_000)
    silent = {"state": State.STALLED, "reason": Reason.PEER_SILENT}
    for number, name in enumerate(("reel-01.mov", "reel-02.mov", "reel-03.mov", "stills.tar")):
        scene.running(
            f"beta:media/{name}",
            (3 + number) * GIB,
            (1 + number) * 310 * MIB,
            detail="asked 14 times, last heard 6 min ago",
            age_s=4_000 + number,
            **silent,
        )
    scene.running(
        "delta:survey/orthophoto.tif",
        12 * GIB,
        9 * GIB + 411 * MIB,
        state=State.STALLED,
        reason=Reason.DISK_FULL,
        detail="2.1 GiB are missing on /srv/survey",
        age_s=8_000,
    )
    scene.running(
        "hub:backups/db-2026-11-20.zst",
        22 * GIB,
        14 * GIB,
        rate=64 * MIB,
        origins=("hub", "delta"),
        age_s=260,
        priority="urgent",
    )
    scene.running(
        "hub:backups/files-2026-11-20.tar.zst", 6 * GIB, 5 * GIB, rate=38 * MIB, age_s=300
    )
    scene.running("delta:survey/lidar.laz", 940 * MIB, 120 * MIB, rate=9 * MIB, age_s=44)
    scene.running(f"gamma:papers/{HOSTILE}", 40 * MIB, 12 * MIB, rate=880 * KIB, age_s=40)
    scene.running(
        "hub:images/base.qcow2",
        0,
        0,
        state=State.OPENING,
        reason=Reason.PREPARING,
        detail="412 of 790 MiB read",
        age_s=12,
    )
    scene.running("gamma:papers/atlas.pdf", 260 * MIB, 260 * MIB, state=State.VERIFYING, age_s=90)
    for number in range(12):
        scene.queued(f"delta:survey/tile-{number:02d}.tif", age_s=600 - number, priority="bulk")
    scene.queued(f"gamma:papers/{BIDI}", age_s=20)
