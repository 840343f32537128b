"""The driver of a tree's small files: feeds the machine, performs its effects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from chunkq.errors import (
    ChunkqError,
    DiskFull,
    PacketError,
    PeerDistrusted,
    StorageError,
    SyncFailed,
    TransportError,
)
from chunkq.ports import Delivery, NewFile
from chunkq.protocol import bundling_events as ev
from chunkq.protocol import cbor
from chunkq.protocol.bundle import (
    FileRecord,
    asked_digest,
    check_content,
    open_bundle,
)
from chunkq.protocol.bundling import Bundling, is_small
from chunkq.protocol.bundling_events import Small
from chunkq.protocol.limits import (
    KEY_SIZE_BYTES,
    MAX_BUNDLE_SIZE_BYTES,
    MAX_REPLY_BODY_SIZE_BYTES,
    MAX_WINDOW_BYTES,
    MIB,
)
from chunkq.protocol.messages import Files, Refusal, RefusalReason
from chunkq.protocol.packet import (
    REPLY_HEADER_SIZE_BYTES,
    SEAL_SIZE_BYTES,
    RawReply,
    ReplyKind,
    RequestKind,
)
from chunkq.protocol.priority import PriorityWord
from chunkq.protocol.transfer_events import Waiting
from chunkq.protocol.window import Window
from chunkq.runtime.asking import waiting_for
from chunkq.runtime.inbox import without_body
from chunkq.runtime.peer import Asked, PeerLink
from chunkq.runtime.tasks import Tasks, to_the_end
from chunkq.runtime.telling import hear

#: Bundles opened, written and synced at once: one is written while the others wait for the disk.
PLACING_THREADS: Final = 3
#: Files that the walk may be ahead of the asking: some requests' worth.
LOOKAHEAD_FILES: Final = 2048
#: How often a full disk is looked at again, later ever less often, and how much room ends the wait.
SPACE_POLL_S: Final = 1.0
MAX_SPACE_POLL_S: Final = 15.0
SPACE_ENOUGH_BYTES: Final = 1 * MIB

_T = TypeVar("_T")


class Placer(Protocol):
    """Where files are placed. Both calls block."""

    def place(self, files: Sequence[NewFile]) -> list[StorageError | bool]:
        """What became of each: an error, or whether it is new there. Durable where no error."""
        ...

    def free_bytes(self) -> int:
        """Room on the file system for this user."""
        ...


class Owner(Protocol):
    """Who hears what becomes of the files."""

    def record_placed(self, files: Sequence[NewFile]) -> None:
        """They are durable; before they count. Blocks. Raises `StorageError`."""
        ...

    def count_placed(self, files: Sequence[NewFile], new: Sequence[bool]) -> None:
        """They count; `new`: which of them were not there before."""
        ...

    def fail(self, file: Small, error: ChunkqError) -> None: ...

    async def go_alone(self, files: Sequence[Small]) -> None:
        """Get them as any other file; returns when there is room for them in the queue."""
        ...


class BundleFetch:
    """The small files of one tree. `offer` them, say `end`; `run` ends when all are settled."""

    def __init__(
        self,
        peer: PeerLink,
        share: str,
        placer: Placer,
        owner: Owner,
        *,
        patience_s: float,
        priority: PriorityWord,
    ) -> None:
        requester = peer.requester
        self._peer = peer
        self._share = share
        self._placer = placer
        self._owner = owner
        #: May be changed at any time: what is asked for later has it.
        self.priority = priority
        self._log = requester.log
        self._clock = requester.clock
        self._loop = asyncio.get_running_loop()
        link_bytes = requester.transport.limits.max_message_bytes - REPLY_HEADER_SIZE_BYTES
        largest = min(link_bytes, MAX_REPLY_BODY_SIZE_BYTES) - SEAL_SIZE_BYTES
        self._largest_bytes = min(largest, MAX_BUNDLE_SIZE_BYTES)
        self._machine = Bundling(
            window=Window(MAX_WINDOW_BYTES // self._largest_bytes),
            largest_bytes=self._largest_bytes,
            patience_s=patience_s,
            now=self._clock.monotonic_s(),
        )
        self._pool = ThreadPoolExecutor(PLACING_THREADS, thread_name_prefix="placing")
        self._places = asyncio.Semaphore(PLACING_THREADS)
        self._opening = asyncio.Lock()
        self._room = asyncio.Event()
        self._room.set()
        self._result: asyncio.Future[ChunkqError | None] = self._loop.create_future()
        self._steps = Tasks(self._on_crash)
        self._handing = Tasks(self._on_crash)
        self._timer: asyncio.TimerHandle | None = None
        self._space_poll: asyncio.Task[None] | None = None
        self._space_poll_s = SPACE_POLL_S
        self._closing = False

    # ------------------------------------------------------------ the outside

    def takes(self, size_bytes: int) -> bool:
        """Whether a file of that size is for a bundle."""
        return is_small(size_bytes, self._largest_bytes)

    @property
    def waiting(self) -> Waiting | None:
        """Why nothing moves, if nothing does."""
        return self._machine.waiting

    async def offer(self, files: Sequence[Small]) -> None:
        """Have these got, too; waits while many are still to be asked for."""
        if files:
            await self._room.wait()
            self._feed(ev.Offered(tuple(files)))

    def end(self) -> None:
        """There will be no more."""
        self._feed(ev.WalkEnded())

    async def run(self) -> None:
        """Returns when every file is settled. Raises only what concerns all of them.

        Cancelled, it waits for what is being placed.
        """
        failed = self._peer.requester.failed
        try:
            await asyncio.wait((self._result, failed), return_when=asyncio.FIRST_COMPLETED)
            if not self._result.done():
                failed.result()
            if (error := self._result.result()) is not None:
                raise error
            await self._handing.drain()
        finally:
            await to_the_end(asyncio.ensure_future(self._wind_down()))

    async def _wind_down(self) -> None:
        self._closing = True
        self._peer.requester.forget(self._on_reply)
        if self._timer is not None:
            self._timer.cancel()
        if self._space_poll is not None:
            self._space_poll.cancel()
        await self._handing.cancel()
        await self._steps.drain()
        self._pool.shutdown(wait=True)

    # ------------------------------------------------------------ events and effects

    def _feed(self, event: ev.Event) -> tuple[int, ...]:
        """Performs what comes of it, but for placing: returns what is to be placed."""
        if self._closing or self._result.done():
            return ()
        place: tuple[int, ...] = ()
        for effect in self._machine.handle(event, self._clock.monotonic_s()):
            match effect:
                case ev.Ask():
                    self._ask(effect)
                case ev.Place(_, indices):
                    place = indices
                case ev.GoAlone(files):
                    self._handing.spawn(self._owner.go_alone(files))
                case ev.Fail(file, error):
                    self._owner.fail(file, error)
                case ev.Finish(error):
                    self._result.set_result(error)
        # Hostile answers could send every file alone: the walk waits for those, too.
        ahead = self._machine.queued >= LOOKAHEAD_FILES or bool(len(self._handing))
        (self._room.clear if ahead else self._room.set)()
        self._set_timer()
        return place

    def _tick(self) -> None:
        self._feed(ev.Tick())

    def _set_timer(self) -> None:
        wake = self._machine.next_wake_s
        if wake is None or self._result.done():
            return
        at = self._loop.time() + max(0.0, wake - self._clock.monotonic_s())
        if self._timer is not None:
            if not self._timer.cancelled() and self._loop.time() < self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._tick)

    def _ask(self, effect: ev.Ask) -> None:
        requester = self._peer.requester
        body = Files(
            instance=requester.instance,
            priority=self.priority,
            share=self._share,
            groups=groups_of(effect.files),
            largest=self._largest_bytes,
        )
        self._peer.ask(
            RequestKind.FILES,
            body,
            ephemeral=requester.entropy(KEY_SIZE_BYTES),
            handler=self._on_reply,
            failed=self._on_ask_failed,
            token=effect.token,
        )

    def _on_ask_failed(self, asked: Asked, error: TransportError) -> None:
        health = self._peer.requester.transport.health
        self._feed(ev.AskFailed(asked.token, waiting_for(error, health)))

    def _on_crash(self, error: Exception) -> None:
        if self._result.done():
            return
        if isinstance(error, ChunkqError):
            self._result.set_result(error)
        else:
            self._result.set_exception(error)

    # ------------------------------------------------------------ replies

    def _on_reply(self, asked: Asked, raw: RawReply, delivery: Delivery) -> None:
        requester = self._peer.requester
        files = self._machine.files_of(asked.token)
        kind = raw.header.kind
        if kind is ReplyKind.BUNDLE and files and not (self._closing or self._result.done()):
            requester.landed(len(delivery.body))
            self._feed(ev.Landed(asked.token))
            self._steps.spawn(self._take(asked, raw, files, without_body(delivery)))
            return
        requester.done(delivery)
        try:
            if kind is ReplyKind.REFUSAL:
                refusal = cbor.decode(Refusal, asked.open(raw))
                self._peer.heed(asked, refusal)
                self._feed(ev.Refused(asked.token, refusal))
            elif kind is ReplyKind.STANDING:
                hear(self._peer, asked.open(raw))
        except PacketError as error:
            requester.drop(error.code)
        except PeerDistrusted as error:
            self._on_crash(error)

    async def _take(
        self, asked: Asked, raw: RawReply, files: tuple[Small, ...], delivery: Delivery
    ) -> None:
        """One bundle, from the seal to the acknowledgement."""
        size = len(raw.header_bytes) + len(raw.sealed_body)
        try:
            async with self._places:
                await self._open_and_place(asked, raw, files)
        finally:
            self._peer.requester.written(size)
            self._peer.requester.done(delivery)

    async def _open_and_place(self, asked: Asked, raw: RawReply, files: tuple[Small, ...]) -> None:
        token = asked.token
        try:
            async with self._opening:
                opened = await self._in_pool(lambda: self._open(asked, raw, files))
        except PacketError as error:
            self._log("bundle_refused", level="warning", code=error.code, detail=error.message)
            self._feed(ev.Spoiled(token))
            return
        for index in opened.bad:
            self._log("file_bad", level="warning", path="/".join(files[index].parts))
        good = {record.index: (record, content) for record, content in opened.good}
        indices = self._feed(ev.Opened(token, tuple(good), opened.bad, opened.refused))
        if indices:
            smalls = [files[index] for index in indices]
            new = [_new_file(small, *good[i]) for small, i in zip(smalls, indices, strict=True)]
            del good, opened
            await self._place(token, smalls, new)

    def _open(self, asked: Asked, raw: RawReply, files: tuple[Small, ...]) -> _Opened:
        """Raises `PacketError` if nothing of it is to be used."""
        digest = asked_digest(self._share, groups_of(files))
        bundle = open_bundle(asked.recipient, digest, len(files), asked.open(raw))
        good, bad = [], []
        for record, content in bundle.files:
            try:
                check_content(record, content)
            except PacketError:
                bad.append(record.index)
            else:
                good.append((record, content))
        return _Opened(good, tuple(bad), bundle.refused)

    # ------------------------------------------------------------ placing

    async def _place(self, token: int, smalls: list[Small], files: list[NewFile]) -> None:
        outcomes = await self._in_pool(lambda: self._place_blocking(files))
        settled: list[Small] = []
        full: list[Small] = []
        unsynced: dict[Small, SyncFailed] = {}
        no_room = ""
        for small, outcome in zip(smalls, outcomes, strict=True):
            if isinstance(outcome, DiskFull):
                full.append(small)
                no_room = outcome.message
            elif isinstance(outcome, SyncFailed):
                self._log("sync_failed", level="error", detail=outcome.message)
                unsynced[small] = outcome
            else:
                settled.append(small)
                if isinstance(outcome, StorageError):
                    self._owner.fail(small, outcome)
        pairs = [(f, o) for f, o in zip(files, outcomes, strict=True) if isinstance(o, bool)]
        self._owner.count_placed([file for file, _ in pairs], [new for _, new in pairs])
        if full:
            self._feed(ev.SpaceGone(no_room))
            self._feed(ev.Returned(token, tuple(full)))
            self._wait_for_space(no_room, sum(small.size_bytes for small in full))
        elif settled:
            self._space_poll_s = SPACE_POLL_S
        for small, error in unsynced.items():
            self._feed(ev.Returned(token, (small,), error))
        if settled:
            self._feed(ev.Settled(token, tuple(settled)))

    def _place_blocking(self, files: list[NewFile]) -> list[StorageError | bool]:
        outcomes = self._placer.place(files)
        durable = [f for f, o in zip(files, outcomes, strict=True) if isinstance(o, bool)]
        if durable:
            try:
                self._owner.record_placed(durable)
            except StorageError as error:
                return [error if isinstance(o, bool) else o for o in outcomes]
        return outcomes

    def _wait_for_space(self, detail: str, needed_bytes: int) -> None:
        if self._space_poll is None or self._space_poll.done():
            self._log("disk_full", level="warning", detail=detail)
            needed = min(needed_bytes, SPACE_ENOUGH_BYTES)
            self._space_poll = self._steps.spawn(self._poll_space(needed))

    async def _poll_space(self, needed_bytes: int) -> None:
        """Look for room, ever later where there seems to be some and no write succeeds (quota)."""
        while not self._closing:
            await asyncio.sleep(self._space_poll_s)
            self._space_poll_s = min(2 * self._space_poll_s, MAX_SPACE_POLL_S)
            if await self._in_pool(self._placer.free_bytes) >= needed_bytes:
                self._space_poll = None
                self._feed(ev.SpaceBack())
                return

    async def _in_pool(self, work: Callable[[], _T]) -> _T:
        return await self._loop.run_in_executor(self._pool, work)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A bundle with its contents compared; indices into the request."""

    good: list[tuple[FileRecord, memoryview]]
    bad: tuple[int, ...]
    refused: tuple[tuple[int, RefusalReason], ...]


def groups_of(files: Sequence[Small]) -> list[tuple[str, list[str]]]:
    """As the request says them: neighbours in one directory together."""
    groups: list[tuple[str, list[str]]] = []
    for file in files:
        if not groups or groups[-1][0] != file.directory:
            groups.append((file.directory, []))
        groups[-1][1].append(file.name)
    return groups


def _new_file(small: Small, record: FileRecord, content: memoryview) -> NewFile:
    return NewFile(small.parts, record.mode, record.mtime_ns, content, record.content_digest)
