"""A model of everything around the transfer machine, in virtual time: clock, origin, disk.

`world_driver` performs a transfer's effects in it, `world_run` puts it together. Manifests, pages
and digests are real; only the network, the disk and the clock are modelled.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from random import Random
from typing import Any

from chunkq.errors import DiskFull, SyncFailed
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.digest import digest
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.limits import DIGEST_SIZE_BYTES
from chunkq.protocol.manifest import Head, ManifestBuilder
from chunkq.protocol.messages import Refusal, RefusalReason
from chunkq.protocol.transfer_events import Phase, Resumed

CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong before `until_s`: probabilities, or mean seconds between two events."""

    until_s: float = 60.0
    lose: float = 0.0
    duplicate: float = 0.0
    delay_s: tuple[float, float] = (0.01, 0.02)
    unsent: float = 0.0
    refuse: float = 0.0
    lie: float = 0.0
    lie_always: bool = False
    sync_fails: float = 0.0
    rot: float = 0.0
    change_every_s: float = 0.0
    full_every_s: float = 0.0
    crash_every_s: float = 0.0
    power_cut: float = 0.5
    state_lost: float = 0.0
    part_lost: float = 0.0


class Clock:
    """Virtual time and what is to happen in it."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = count()
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []

    def after(self, delay_s: float, call: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._due, (self.now + delay_s, next(self._order), call, arguments))

    def run(self, until_s: float, done: Callable[[], bool]) -> None:
        """Let time pass until `done` or `until_s`."""
        while self._due and not done():
            if self._due[0][0] > until_s:
                break
            self.now, _, call, arguments = heapq.heappop(self._due)
            call(*arguments)


class Version:
    """One version of a file, with its manifest."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.geometry = Geometry(len(content), CHUNK)
        builder = ManifestBuilder(self.geometry)
        for index in range(self.geometry.chunk_count):
            builder.add(self.chunk(index))
        self.head, self.leaves = builder.finish()

    def chunk(self, index: int) -> bytes:
        offset = self.geometry.offset(index)
        return self.content[offset : offset + self.geometry.length(index)]

    def page(self, page: int) -> bytes:
        chunks = self.geometry.page_chunks(page)
        return self.leaves[chunks.start * DIGEST_SIZE_BYTES : chunks.stop * DIGEST_SIZE_BYTES]


def make_content(rng: Random, size: int, *, holes: float = 0.0) -> bytes:
    """Random bytes of which a part of the chunks, in runs, are zeros."""
    content = bytearray(rng.randbytes(size))
    while holes and rng.random() < holes:
        first = rng.randrange(size // CHUNK + 1) * CHUNK
        length = rng.choice((1, 3, 40, 600, 1200)) * CHUNK
        end = min(size, first + length)
        content[first:end] = bytes(end - first)
    return bytes(content)


class Source:
    """A file at the origin, with all the versions it has had."""

    def __init__(self, content: bytes) -> None:
        self.versions = [Version(content)]

    @property
    def current(self) -> Version:
        return self.versions[-1]

    def change(self, rng: Random) -> None:
        """A few chunks become other ones; sometimes the file grows or shrinks."""
        content = bytearray(self.current.content)
        for _ in range(rng.randrange(1, 6)):
            if content:
                at = rng.randrange(len(content))
                content[at : at + 3] = rng.randbytes(len(content[at : at + 3]))
        kind = rng.random()
        if kind < 0.2:
            content += rng.randbytes(rng.randrange(3 * CHUNK))
        elif kind < 0.4:
            del content[rng.randrange(len(content) + 1) :]
        self.replace(bytes(content))

    def replace(self, content: bytes) -> None:
        self.versions.append(Version(content))


@dataclass(frozen=True)
class Reply:
    """A reply on its way. `incarnation`: which start of the requester asked."""

    name: str
    incarnation: int
    token: int
    version: int
    body: Head | Refusal | bytes
    index: int = -1
    is_page: bool = False
    lane: int = 0


class Origin:
    """Answers requests like `runtime.answers`, at `rate` bytes a second; sometimes it lies."""

    def __init__(self, clock: Clock, rng: Random, faults: Faults, rate: float) -> None:
        self.faults = faults
        #: Its own files; whatever it has not here is the first one's.
        self.sources: dict[str, Source] = {}
        #: Chunks that it has sent.
        self.sent = 0
        self._clock = clock
        self._rng = rng
        self._faults = faults
        self._rate = rate
        self._free_at = 0.0
        self.silent = False
        #: What it answers to everything, if it does not answer what is asked.
        self.refuses: RefusalReason | None = None

    def faulty(self, probability: float) -> bool:
        in_time = self._clock.now < self._faults.until_s
        return in_time and self._rng.random() < probability

    def answer(
        self,
        source: Source,
        asked: Reply,
        what: tuple[str, bytes, list[int]],
        send: Callable[[Reply], None],
    ) -> None:
        """`asked` is the reply's address; `what` is kind, root and indices."""
        if self.silent:
            return None
        kind, root, indices = what
        version = source.current
        if self.refuses is not None:
            return self._send(send, asked, Refusal(reason=self.refuses))
        if self.faulty(self._faults.refuse):
            return self._send(send, asked, self._any_refusal())
        if kind == "open":
            return self._send(send, asked, version.head)
        if root != version.head.root:
            return self._send(send, asked, Refusal(reason=RefusalReason.STALE))
        for index in indices:
            if kind == "pages":
                self._send(send, asked, version.page(index), index)
                continue
            body = version.chunk(index)
            if self._faults.lie_always or self.faulty(self._faults.lie):
                body = bytes((body[0] ^ 1,)) + body[1:]
            self.sent += 1
            self._send(send, asked, body, index)
        return None

    def _any_refusal(self) -> Refusal:
        reason = self._rng.choice(
            (
                RefusalReason.BUSY,
                RefusalReason.BUSY,
                RefusalReason.PREPARING,
                RefusalReason.EXPIRED,
                RefusalReason.CLOCK_SKEW,
                RefusalReason.STALE,
            )
        )
        return Refusal(reason=reason, retry_after_ms=self._rng.choice((0, 1, 50, 2000)))

    def _send(
        self,
        send: Callable[[Reply], None],
        to: Reply,
        body: Head | Refusal | bytes,
        index: int = -1,
    ) -> None:
        size = len(body) if isinstance(body, bytes) else 200
        self._free_at = max(self._free_at, self._clock.now) + size / self._rate
        reply = replace(to, body=body, index=index)
        self._clock.after(self._free_at - self._clock.now, send, reply)


@dataclass
class Slot:
    """What the state file says."""

    phase: Phase
    root: bytes
    bitmap: Bitmap


class Disk:
    """One staging place: the part file as the processes see it and as a power cut leaves it."""

    def __init__(self, clock: Clock, rng: Random, faults: Faults) -> None:
        self._clock = clock
        self._rng = rng
        self._faults = faults
        self.part = bytearray()
        self._safe = bytearray()
        self._dirty: set[int] = set()
        self.manifest: Head | None = None
        self.slot: Slot | None = None
        self._slot_torn = False
        self.full = False

    def _faulty(self, probability: float) -> bool:
        return self._clock.now < self._faults.until_s and self._rng.random() < probability

    def prepare(self, head: Head) -> None:
        self.manifest = head
        if self.full:
            raise DiskFull("model disk: no room")
        size = head.geometry.size_bytes
        for content in (self.part, self._safe):
            del content[size:]
            content.extend(bytes(size - len(content)))

    def write(self, index: int, body: bytes) -> None:
        if self.full:
            raise DiskFull("model disk: no room")
        self.part[index * CHUNK : index * CHUNK + len(body)] = body
        self._dirty.add(index)

    def punch(self, index: int, length: int) -> None:
        self.part[index * CHUNK : index * CHUNK + length] = bytes(length)
        self._dirty.add(index)

    def matches(self, index: int, leaf: bytes) -> bool:
        return digest(bytes(self.part[index * CHUNK : (index + 1) * CHUNK])) == leaf

    def sync(self) -> None:
        """Everything written is safe; or it fails, and some of it is gone."""
        fails = self._faulty(self._faults.sync_fails)
        self._settle(0.5 if fails else 1.0)
        if fails:
            raise SyncFailed("model disk: EIO")

    def store(self, slot: Slot) -> None:
        if self.full:
            raise DiskFull("model disk: no room")
        self.slot, self._slot_torn = slot, False

    def rot(self, bitmap: Bitmap) -> bool:
        """One bit of one durable chunk turns; True if it did."""
        if not self._faulty(self._faults.rot):
            return False
        present = [i for i in range(bitmap.count) if i in bitmap and i not in self._dirty]
        if not present:
            return False
        at = self._rng.choice(present) * CHUNK
        self.part[at] ^= 1
        self._safe[at] ^= 1
        return True

    def crash(self) -> None:
        """The process dies; sometimes with the machine, sometimes with damage to a file."""
        if self._faulty(self._faults.power_cut):
            self._settle(0.5)
        if self.slot is not None and self._faulty(self._faults.state_lost):
            self._slot_torn = True
        if self._faulty(self._faults.part_lost):
            self.part[:] = self._safe[:] = bytes(len(self.part))
            if self.slot is not None:
                self.slot = Slot(Phase.RECOVERING, self.slot.root, Bitmap(self.slot.bitmap.count))

    def load(self) -> tuple[Resumed | None, bool]:
        """As `FileFetch._load`."""
        if self._slot_torn:
            return None, True
        if self.slot is None:
            return None, self.manifest is not None
        if self.manifest is None or self.manifest.root != self.slot.root:
            return None, True
        return Resumed(self.manifest, self.slot.phase, self.slot.bitmap.copy()), False

    def _settle(self, probability: float) -> None:
        """Each unsynced chunk becomes safe, or what was there before is there again."""
        for index in self._dirty:
            where = slice(index * CHUNK, (index + 1) * CHUNK)
            if self._rng.random() < probability:
                self._safe[where] = self.part[where]
            else:
                self.part[where] = self._safe[where]
        self._dirty.clear()
