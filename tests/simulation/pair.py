"""A requester and an origin of the product on simulated disks: one transfer from start to end.

Nothing goes wrong here by itself, and nothing takes time. Failing calls and crashes are brought in
by who uses it: through the kernel's hook, through the disks, and through the carrier.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, NamedTuple

from chunkq.ports import Heard, PeerRef, Share, Transport
from chunkq.protocol.identity import SiteKeys, card_of
from chunkq.protocol.limits import KEY_SIZE_BYTES, KIB
from chunkq.protocol.succession import Said
from chunkq.runtime.answers import Answers
from chunkq.runtime.asking import Order
from chunkq.runtime.fetch import FileFetch
from chunkq.runtime.manifests import Manifests
from chunkq.runtime.origin import OriginWorker
from chunkq.runtime.peer import PeerLink, Requester
from chunkq.runtime.progress import FetchResult
from chunkq.storage.destination import Destination
from chunkq.storage.hashing import build_manifest
from chunkq.storage.manifests import ManifestStore
from chunkq.storage.replays import ReplayStore
from chunkq.storage.source import DirectoryShare
from chunkq.storage.staged import StagedFile, open_staged
from chunkq.storage.statefile import StateHeader
from chunkq.storage.transferid import transfer_id
from chunkq.transport.memory import MemoryCarrier, MemoryTransport
from tests.simulation.clock import VirtualClock, run
from tests.simulation.disk import Disk
from tests.simulation.kernel import Kernel
from tests.simulation.process import Process, running
from tests.support.virtual import InlineExecutor

SHARE, PATH, NAME = "docs", "image", "image"
INSTANCE = "aaaaaaaaaaaa"
ALICE, BOB = (SiteKeys(bytes([number]) * 32, bytes([number + 1]) * 32) for number in (1, 3))
ALICE_REF, BOB_REF = (
    PeerRef("alice", card_of(ALICE, "alice"), "alice"),
    PeerRef("bob", card_of(BOB, "bob"), "bob"),
)
INBOX, FILES = "/sim/alice/inbox", "/sim/bob/files"
TARGET = f"{INBOX}/{NAME}"
TRANSFER_ID = transfer_id(BOB_REF.card.site_id, SHARE, PATH, (NAME,))
#: The time of both hosts when everything begins, and where the source was changed last.
START_NS = 1_767_225_600_000_000_000
SOURCE_NS = START_NS - 86_400_000_000_000
SOURCE_MODE = 0o640

#: What winding down may take, and closing.
GRACE_S = 60.0

Wrap = Callable[[Transport], Transport]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A file, how it is cut, and after how many bytes a commit comes."""

    chunk_count: int = 16
    chunk_size_bytes: int = 4 * KIB
    commit_chunks: int = 4
    overwrite: bool = False

    @property
    def content(self) -> bytes:
        size = self.chunk_count * self.chunk_size_bytes - 100
        return Random(self.chunk_count).randbytes(size)

    @property
    def order(self) -> Order:
        return Order(
            share=SHARE,
            path=PATH,
            overwrite=self.overwrite,
            commit_bytes=self.commit_chunks * self.chunk_size_bytes,
            patience_s=60.0,
        )


@dataclass(frozen=True)
class Pinned:
    """`ports.Directory`: alice alone, who sees one share."""

    chunk_size_bytes: int

    def refresh(self) -> None:
        """It never changes."""

    def peer(self, site_id: bytes) -> PeerRef | None:
        return ALICE_REF if site_id == ALICE_REF.card.site_id else None

    def share(self, peer: PeerRef, share: str, path: str) -> Share | None:
        return DirectoryShare(FILES) if share == SHARE else None

    def chunk_size(self, share: str) -> int:
        return self.chunk_size_bytes

    async def heed(self, statement: Said) -> Heard:
        raise AssertionError("nobody changes keys here")


@dataclass
class Hosts:
    """Both machines: disks that may crash, a kernel, and what the processes log."""

    shape: Shape
    alice: Disk = field(default_factory=lambda: Disk(random=Random(1)))
    bob: Disk = field(default_factory=lambda: Disk(random=Random(2), device=0x802))
    events: list[str] = field(default_factory=list)
    #: What the loop was told of because nobody waited for it.
    unheard: list[str] = field(default_factory=list)
    now_s: float = 0.0
    started: int = 0

    def __post_init__(self) -> None:
        self.kernel = Kernel(
            {"alice": self.alice, "bob": self.bob}, wall_ns=self.wall_ns, entropy=Random(3)
        )

    def wall_ns(self, host: str) -> int:
        """Of both hosts: it goes on from run to run."""
        return START_NS + int(self.now_s * 1e9)

    def log(self, event: str, /, *, level: str = "info", **fields: object) -> None:
        self.events.append(event)

    def run(self, host: str, work: Callable[[], Any]) -> Any:
        """Do something as a process of a host."""
        with self.kernel.install(), running(Process(f"once@{host}", host)):
            return work()


class Processes(NamedTuple):
    """The requester's and the origin's."""

    alice: Process
    bob: Process


def new_processes() -> Processes:
    return Processes(Process("alice", "alice"), Process("bob", "bob"))


@dataclass
class HostClock:
    """`ports.Clock` of a host: virtual time since this run began, on the hosts' wall."""

    clock: VirtualClock
    hosts: Hosts

    def monotonic_s(self) -> float:
        return self.clock.monotonic_s()

    def wall_ms(self) -> int:
        return self.hosts.wall_ns("") // 1_000_000


def fetch(
    hosts: Hosts,
    processes: Processes | None = None,
    *,
    wrap_alice: Wrap | None = None,
    wrap_bob: Wrap | None = None,
    at_most_s: float = 3600.0,
) -> FetchResult:
    """One run of both processes until the file is there. Raises what the requester meets.

    Each side's transport may be wrapped. Raises `TimeoutError` after `at_most_s` of virtual time.
    """
    alice, bob = processes or new_processes()

    async def main(clock: VirtualClock) -> FetchResult:
        made = MemoryCarrier(clock)
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: hosts.unheard.append(repr(context)))
        began_s = hosts.now_s
        ends_s = at_most_s + 2 * GRACE_S
        tick = asyncio.ensure_future(_keep_time(hosts, began_s, ends_s))
        hosts.started += 1
        try:
            async with (
                _serving(hosts, clock, made, bob, wrap_bob),
                _requesting(hosts, clock, made, alice, wrap_alice) as peer,
            ):
                with running(alice):
                    fetching = asyncio.ensure_future(_fetch(hosts, peer))
                await asyncio.wait({fetching}, timeout=at_most_s)
                if fetching.done():
                    return fetching.result()
                fetching.cancel()
                await asyncio.wait({fetching}, timeout=GRACE_S)
                raise TimeoutError
        finally:
            tick.cancel()
            hosts.now_s = began_s + clock.now_s + 1.0

    with hosts.kernel.install():
        return run(main)


async def _keep_time(hosts: Hosts, began_s: float, ends_s: float) -> None:
    """The wall clock follows the loop's, in steps that are coarse enough to cost nothing.

    It ends, so that what the code of a dead process waits for in vain is `clock.Stuck`.
    """
    loop = asyncio.get_running_loop()
    while loop.time() < ends_s:
        hosts.now_s = began_s + loop.time()
        await asyncio.sleep(1.0)


async def _fetch(hosts: Hosts, peer: PeerLink) -> FetchResult:
    with Destination.for_file(TARGET) as destination:
        return await FileFetch(
            peer,
            hosts.shape.order,
            open_staging=lambda: open_transfer(hosts, destination),
            pool=InlineExecutor(),
        ).run()


def open_transfer(hosts: Hosts, destination: Destination) -> StagedFile:
    """The transfer's staging, as a requester opens it."""
    header = StateHeader(
        ephemeral=Random(hosts.started).randbytes(KEY_SIZE_BYTES),
        instance=INSTANCE,
        site="bob",
        share=SHARE,
        path=PATH,
        created_ms=hosts.wall_ns("alice") // 1_000_000,
    )
    return open_staged(destination, (NAME,), TRANSFER_ID, header)


@asynccontextmanager
async def _requesting(
    hosts: Hosts,
    clock: VirtualClock,
    carrier: MemoryCarrier,
    process: Process,
    wrap: Wrap | None,
) -> AsyncIterator[PeerLink]:
    transport: Transport = MemoryTransport(carrier, "alice")
    with running(process):
        requester = Requester(
            keys=ALICE,
            site="alice",
            instance=INSTANCE,
            transport=wrap(transport) if wrap else transport,
            clock=HostClock(clock, hosts),
            entropy=Random(hosts.started).randbytes,
            log=hosts.log,
        )
        await requester.start(1000)
        try:
            yield PeerLink(
                requester,
                BOB_REF,
                lifetime_s=600,
                largest_chunk_bytes=hosts.shape.chunk_size_bytes,
            )
        finally:
            await requester.close()


@asynccontextmanager
async def _serving(
    hosts: Hosts,
    clock: VirtualClock,
    carrier: MemoryCarrier,
    process: Process,
    wrap: Wrap | None,
) -> AsyncIterator[None]:
    transport: Transport = MemoryTransport(carrier, "bob")
    with running(process):
        worker = _worker(hosts, clock, wrap(transport) if wrap else transport)
        serving = asyncio.ensure_future(worker.run())
        try:
            yield
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving


def _worker(hosts: Hosts, clock: VirtualClock, transport: Transport) -> OriginWorker:
    directory = Pinned(hosts.shape.chunk_size_bytes)
    replays = ReplayStore("/sim/bob/replays", boot_id=hosts.bob.boot_id)
    replays.create(ALICE_REF.card.site_id)
    return OriginWorker(
        keys=BOB,
        address="bob",
        transport=transport,
        directory=directory,
        replays=replays,
        answers=Answers(
            keys=BOB,
            directory=directory,
            manifests=Manifests(
                keys=BOB,
                store=ManifestStore("/sim/bob/manifests"),
                build=partial(build_manifest, sleep=lambda _: None),
                pool=InlineExecutor(),
            ),
            pool=InlineExecutor(),
            max_message_bytes=transport.limits.max_message_bytes,
            largest_chunk_bytes=hosts.shape.chunk_size_bytes,
            log=hosts.log,
        ),
        clock=HostClock(clock, hosts),
        entropy=Random(100 + hosts.started).randbytes,
        log=hosts.log,
        requests_per_s=1000,
        concurrency=8,
    )


def make_source(hosts: Hosts) -> None:
    """The file that there is to be had, and an empty inbox; all of it durable."""
    import os

    def write(path: str, content: bytes, mode: int) -> None:
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)
        os.utime(path, ns=(SOURCE_NS, SOURCE_NS))

    def bob() -> None:
        os.makedirs(FILES)
        write(f"{FILES}/{PATH}", hosts.shape.content, SOURCE_MODE)

    hosts.run("bob", bob)
    hosts.run("alice", lambda: os.makedirs(INBOX))
    for disk in (hosts.alice, hosts.bob):
        disk.sync_all()
