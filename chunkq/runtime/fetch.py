"""The driver of one file's transfer: feeds the machine, performs its effects.

Commit order: chunks verified and written -> fdatasync of the part file -> the slot of the state
file -> fdatasync of that -> the deliveries acknowledged. A bit is set only after its write has
returned, and a commit takes the bitmap as it is before the sync begins.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from chunkq.errors import (
    ChunkqError,
    DestinationExists,
    DiskFull,
    Nacked,
    PacketError,
    PeerRefused,
    StateInvalid,
    SyncFailed,
    TransportError,
    Unroutable,
)
from chunkq.ports import Delivery, Staging, TransferState
from chunkq.protocol import cbor
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.limits import COMMIT_BYTES, COMMIT_INTERVAL_MS, MAX_WINDOW_BYTES, MIB
from chunkq.protocol.manifest import Head, verify_head
from chunkq.protocol.messages import Chunks, ManifestReply, Open, Pages, Refusal
from chunkq.protocol.packet import SEAL_SIZE_BYTES, RawReply, ReplyKind, RequestKind
from chunkq.protocol.transfer import Transfer
from chunkq.protocol.transfer_events import Phase, Waiting
from chunkq.runtime.assembler import Assembler, ChunkJob, Job, Outcome, RecheckJob
from chunkq.runtime.peer import Asked, PeerLink
from chunkq.runtime.readback import content_digest
from chunkq.runtime.tasks import Tasks

#: How often a full disk is looked at again, and how much room ends the wait (or all that lacks).
SPACE_POLL_S: Final = 1.0
SPACE_ENOUGH_BYTES: Final = 16 * MIB

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to fetch from a peer, and how."""

    share: str
    path: str
    overwrite: bool = False
    patience_s: float = 120.0
    commit_bytes: int = COMMIT_BYTES
    commit_interval_s: float = COMMIT_INTERVAL_MS / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchProgress:
    """Where a transfer stands. Bytes and chunks that are present; `new_bytes` came this time."""

    path: str
    peer: str
    phase: Phase
    chunks_present: int
    chunks_total: int
    bytes_total: int
    bytes_present: int
    new_bytes: int
    in_flight: int
    waiting: Waiting | None
    read_back_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    """A published file. `resumed_chunks` were there before; `unchanged`: it was all there."""

    path: str
    size_bytes: int
    new_bytes: int
    content_digest: bytes
    resumed_chunks: int
    chunks_total: int
    duplicate_chunks: int
    unchanged: bool = False


class FileFetch:
    """One file from one peer into one staging place. Cancelling `run` stops it resumably."""

    def __init__(
        self,
        peer: PeerLink,
        order: Order,
        *,
        open_staging: Callable[[], Staging],
        pool: Executor,
        on_resume: Callable[[int, int], None] | None = None,
    ) -> None:
        self._peer = peer
        self._order = order
        self._open_staging = open_staging
        self._pool = pool
        self._on_resume = on_resume
        self._log = peer.requester.log
        self._clock = peer.requester.clock
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[ChunkqError | None] = self._loop.create_future()
        self._steps = Tasks(self._on_crash)
        self._timer: asyncio.TimerHandle | None = None
        self._transfer: Transfer | None = None
        self._assembler: Assembler | None = None
        self._manifest: ManifestReply | None = None
        self._written: list[Delivery] = []
        self._writing: set[int] = set()
        self._durable = Bitmap(0)
        self._generation = 0
        self._new_bytes = 0
        self._resumed_chunks = 0
        self._duplicates = 0
        self._read_back_bytes = 0
        self._space_poll: asyncio.Task[None] | None = None
        self._stopping = False
        self._unchanged = False

    # ------------------------------------------------------------ the outside

    async def run(self) -> FetchResult:
        """Fetch and publish. Raises a `ChunkqError`; what is in staging stays for the next run."""
        self._staging = await self._in_thread(self._open_staging)
        try:
            if await self._in_thread(self._staging.published):
                return await self._finish_published()
            await self._begin()
            failed = self._peer.requester.failed
            await asyncio.wait((self._result, failed), return_when=asyncio.FIRST_COMPLETED)
            if not self._result.done():
                failed.result()
            if (error := self._result.result()) is not None:
                raise error
            return self._make_result()
        finally:
            await asyncio.shield(asyncio.ensure_future(self._wind_down()))

    def progress(self) -> FetchProgress | None:
        """None until there is something to say."""
        transfer = self._transfer
        if transfer is None:
            return None
        head = transfer.head
        total = head.geometry.size_bytes if head else 0
        present = transfer.bitmap.present
        size = head.geometry.chunk_size_bytes if head else 0
        return FetchProgress(
            path=self._order.path,
            peer=self._peer.ref.alias,
            phase=transfer.phase,
            chunks_present=present,
            chunks_total=transfer.bitmap.count,
            bytes_total=total,
            bytes_present=total if transfer.bitmap.complete else present * size,
            new_bytes=self._new_bytes,
            in_flight=transfer.in_flight,
            waiting=transfer.waiting,
            read_back_bytes=self._read_back_bytes,
        )

    # ------------------------------------------------------------ beginning and end

    async def _begin(self) -> None:
        resumed, doubt_all = await self._in_thread(self._load)
        requester = self._peer.requester
        self._transfer = Transfer(
            window=self._peer.window,
            resumed=resumed,
            now=self._clock.monotonic_s(),
            patience_s=self._order.patience_s,
            doubt_all=doubt_all,
            commit_bytes=self._order.commit_bytes,
            commit_interval_s=self._order.commit_interval_s,
        )
        if doubt_all:
            self._log("transfer_recovering", path=self._order.path, peer=self._peer.ref.alias)
        if resumed is not None:
            self._use_head(resumed.head)
            self._durable = resumed.bitmap.copy()
            self._resumed_chunks = self._transfer.bitmap.present
            if self._on_resume is not None:
                self._on_resume(self._resumed_chunks, self._transfer.bitmap.count)
            requester.adopters.append(self._adopt)
        self._feed(ev.Tick())

    def _load(self) -> tuple[ev.Resumed | None, bool]:
        """What staging knows: the state to go on from, or whether an unknown part is there."""
        kept = self._staging.load_manifest()
        try:
            state = self._staging.state.load()
        except StateInvalid as error:
            self._log("state_invalid", level="warning", detail=error.message)
            return None, True
        if state is None or not any(state.root):
            return None, kept is not None
        self._generation = state.generation
        try:
            if kept is None:
                return None, True
            manifest = cbor.decode(ManifestReply, kept)
            head = verify_head(self._peer.ref.card, manifest.head, manifest.signature)
        except PacketError:
            return None, True
        if head.root != state.root:
            return None, True
        self._manifest = manifest
        if not self._staging.part.matches(head.geometry):
            self._log("part_missing", level="warning", path=self._order.path)
            self._staging.part.allocate(head.geometry, None)
            return ev.Resumed(head, Phase.RECOVERING, Bitmap(head.geometry.chunk_count)), False
        return ev.Resumed(head, Phase(state.phase), state.bitmap), False

    async def _finish_published(self) -> FetchResult:
        """A crash came between the publishing and the tidying."""
        kept = await self._in_thread(self._staging.load_manifest)
        await self._in_thread(self._staging.remove)
        if kept is None:
            raise DestinationExists(f"{self._order.path} is published already")
        manifest = cbor.decode(ManifestReply, kept)
        head = verify_head(self._peer.ref.card, manifest.head, manifest.signature)
        return self._result_of(head, unchanged=False)

    async def _wind_down(self) -> None:
        """Leave everything so that the next run goes on from here; also after success."""
        self._stopping = True
        if self._timer is not None:
            self._timer.cancel()
        requester = self._peer.requester
        if self._adopt in requester.adopters:
            requester.adopters.remove(self._adopt)
        self._peer.hungry.pop(self, None)
        if self._space_poll is not None:
            self._space_poll.cancel()
        if self._assembler is not None:
            await self._assembler.drained()
        await self._steps.drain()
        transfer = self._transfer
        if transfer is not None and not self._result.done():
            if transfer.uncommitted_bytes and transfer.head is not None:
                effect = transfer.commit()
                assert isinstance(effect, ev.Commit)
                await self._commit(effect.phase)
            transfer.abandon()
        requester.done(*self._written)
        self._written = []
        await self._in_thread(self._staging.close)
        self._peer.room_appeared()

    def _make_result(self) -> FetchResult:
        assert self._transfer is not None
        assert self._transfer.head is not None
        return self._result_of(self._transfer.head, unchanged=self._unchanged)

    def _result_of(self, head: Head, *, unchanged: bool) -> FetchResult:
        return FetchResult(
            path=self._order.path,
            size_bytes=head.geometry.size_bytes,
            new_bytes=self._new_bytes,
            content_digest=head.content_digest,
            resumed_chunks=self._resumed_chunks,
            chunks_total=head.geometry.chunk_count,
            duplicate_chunks=self._duplicates,
            unchanged=unchanged,
        )

    # ------------------------------------------------------------ events and effects

    def _feed(self, event: ev.Event) -> None:
        transfer = self._transfer
        if transfer is None or self._stopping or self._result.done():
            return
        for effect in transfer.handle(event, self._clock.monotonic_s()):
            self._perform(effect)
        if transfer.hungry:
            self._peer.hungry[self] = self._tick
        self._set_timer()

    def _tick(self) -> None:
        self._feed(ev.Tick())

    def _set_timer(self) -> None:
        assert self._transfer is not None
        wake = self._transfer.next_wake_s
        if wake is None or self._result.done():
            return
        at = self._loop.time() + max(0.0, wake - self._clock.monotonic_s())
        if self._timer is not None:
            if not self._timer.cancelled() and self._loop.time() < self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._tick)

    def _perform(self, effect: ev.Effect) -> None:
        match effect:
            case ev.AskOpen() | ev.AskPages() | ev.AskChunks():
                self._ask(effect)
            case ev.Prepare(head):
                self._steps.spawn(self._prepare(head))
            case ev.Recheck():
                assert self._assembler is not None
                assert self._transfer is not None
                self._assembler.put(RecheckJob(effect, self._transfer.version))
            case ev.Commit(phase):
                self._steps.spawn(self._commit(phase))
            case ev.ReadBack():
                self._steps.spawn(self._read_back())
            case ev.Publish():
                self._steps.spawn(self._publish())
            case ev.Finish(error):
                if not self._result.done():
                    self._result.set_result(error)

    def _ask(self, effect: ev.AskOpen | ev.AskPages | ev.AskChunks) -> None:
        assert self._transfer is not None
        order, peer, head = self._order, self._peer, self._transfer.head
        instance = peer.requester.instance
        body: Open | Pages | Chunks
        if isinstance(effect, ev.AskOpen):
            kind = RequestKind.OPEN
            body = Open(
                instance=instance,
                share=order.share,
                path=order.path,
                largest_chunk=peer.largest_chunk_bytes,
            )
        else:
            assert head is not None
            pages = isinstance(effect, ev.AskPages)
            kind = RequestKind.PAGES if pages else RequestKind.CHUNKS
            body = (Pages if pages else Chunks)(
                instance=instance,
                share=order.share,
                path=order.path,
                root=head.root,
                chunk_size=head.geometry.chunk_size_bytes,
                runs=list(effect.runs),
            )
        peer.ask(
            kind,
            body,
            ephemeral=self._staging.ephemeral,
            handler=self._on_reply,
            failed=self._on_ask_failed,
            token=effect.token,
            version=self._transfer.version,
        )

    def _on_ask_failed(self, asked: Asked, error: TransportError) -> None:
        reason = "broker_unreachable"
        if isinstance(error, Unroutable):
            reason = "peer_silent"
        elif isinstance(error, Nacked):
            reason = "busy"
        self._feed(ev.AskFailed(asked.token, Waiting(reason, error.message)))

    def _on_crash(self, error: Exception) -> None:
        if isinstance(error, ChunkqError):
            self._feed(ev.Broken(error))
        elif not self._result.done():
            self._result.set_exception(error)

    # ------------------------------------------------------------ replies

    def _on_reply(self, asked: Asked, raw: RawReply, delivery: Delivery) -> None:
        if self._stopping or self._result.done():
            self._peer.requester.done(delivery)
        elif raw.header.kind is ReplyKind.CHUNK:
            self._on_chunk(asked, raw, delivery)
        else:
            self._peer.requester.done(delivery)
            try:
                self._on_control(asked, raw)
            except PacketError as error:
                self._log("reply_dropped", level="warning", code=error.code)

    def _on_control(self, asked: Asked, raw: RawReply) -> None:
        body = asked.open(raw)
        assert self._transfer is not None
        match raw.header.kind:
            case ReplyKind.MANIFEST:
                manifest = cbor.decode(ManifestReply, body)
                head = verify_head(self._peer.ref.card, manifest.head, manifest.signature)
                if head.geometry.chunk_size_bytes > self._peer.largest_chunk_bytes:
                    raise PeerRefused("the origin cut the file into larger chunks than allowed")
                self._manifest = manifest
                self._feed(ev.ManifestCame(asked.token, head))
            case ReplyKind.PAGE if asked.version == self._transfer.version:
                self._feed(ev.PageCame(asked.token, raw.header.index, body))
            case ReplyKind.REFUSAL:
                refusal = cbor.decode(Refusal, body)
                self._peer.heed(asked, refusal)
                self._feed(ev.Refused(asked.token, refusal))
            case _:
                self._log("reply_dropped", level="debug", code="unasked")

    def _on_chunk(self, asked: Asked, raw: RawReply, delivery: Delivery) -> None:
        transfer, index = self._transfer, raw.header.index
        assert transfer is not None
        current = asked.token == 0 or asked.version == transfer.version
        if self._assembler is None or not current or not transfer.wants(index):
            self._duplicates += 1
            self._peer.requester.done(delivery)
            return
        leaf = transfer.leaf(index)
        if index in self._writing or (leaf is None and asked.token):
            self._duplicates += 1
            self._peer.requester.done(delivery)
            return
        self._writing.add(index)
        if asked.token:
            self._feed(ev.ChunkLanded(index))
        self._assembler.put(ChunkJob(asked, raw, delivery, index, leaf, transfer.version))

    def _adopt(self, raw: RawReply) -> Asked | None:
        if self._stopping:
            return None
        return self._peer.adopt(raw, self._staging.ephemeral, self._on_reply)

    def _on_jobs(self, jobs: list[Job]) -> None:
        assert self._transfer is not None
        for job in jobs:
            if isinstance(job, ChunkJob):
                self._on_chunk_job(job)
            elif job.version == self._transfer.version:
                self._feed(ev.Rechecked(job.good, job.bad))
        self._peer.room_appeared()

    def _on_chunk_job(self, job: ChunkJob) -> None:
        assert self._transfer is not None
        self._writing.discard(job.index)
        if job.outcome in (Outcome.STORED, Outcome.ADOPTED):
            self._written.append(job.delivery)
        else:
            self._peer.requester.done(job.delivery)
        if job.version != self._transfer.version:
            return
        match job.outcome:
            case Outcome.STORED:
                self._new_bytes += len(job.raw.sealed_body) - SEAL_SIZE_BYTES
                self._feed(ev.ChunkStored(job.index, job.asked.token))
            case Outcome.ADOPTED:
                self._new_bytes += len(job.raw.sealed_body) - SEAL_SIZE_BYTES
                self._feed(ev.ChunkAdopted(job.index))
            case Outcome.BAD:
                self._log("chunk_bad", level="warning", peer=self._peer.ref.alias, index=job.index)
                self._feed(ev.ChunkBad(job.index))
            case Outcome.UNSEALED:
                self._feed(ev.ChunkDropped(job.index))
            case Outcome.NO_ROOM:
                self._feed(ev.ChunkDropped(job.index))
                self._wait_for_space("no room for the next chunk", step=False)

    # ------------------------------------------------------------ steps

    async def _in_thread(self, work: Callable[..., _T], *arguments: Any) -> _T:
        return await self._loop.run_in_executor(self._pool, work, *arguments)

    def _use_head(self, head: Head) -> None:
        self._peer.window.max_chunks = MAX_WINDOW_BYTES // head.geometry.chunk_size_bytes
        self._assembler = Assembler(
            self._staging.part, head.geometry, self._pool, self._on_jobs, self._on_crash
        )

    async def _prepare(self, head: Head) -> None:
        """Keep the manifest, make room; an equal file at the final path ends it well."""
        if self._assembler is not None:
            await self._assembler.drained()
        existing = await self._in_thread(self._staging.destination_digest)
        if existing == head.content_digest:
            self._unchanged = True
            await self._in_thread(self._staging.remove)
            self._feed(ev.Published())
            return
        if existing is not None and not self._order.overwrite:
            raise DestinationExists(
                f"{self._order.path}: another file is at the destination already",
                hint="give another destination, or --overwrite to replace it",
            )
        try:
            await self._in_thread(self._prepare_blocking, head)
        except DiskFull as error:
            self._wait_for_space(error.message, step=True)
            return
        self._durable = Bitmap(head.geometry.chunk_count)
        self._use_head(head)
        self._feed(ev.Prepared())

    def _prepare_blocking(self, head: Head) -> None:
        assert self._manifest is not None
        self._staging.save_manifest(cbor.encode(self._manifest))
        self._staging.part.allocate(head.geometry, None)

    async def _commit(self, phase: Phase) -> None:
        transfer = self._transfer
        assert transfer is not None
        assert transfer.head is not None
        written, self._written = self._written, []
        snapshot = transfer.bitmap.copy()
        state = TransferState(
            generation=self._generation + 1,
            phase=phase,
            root=transfer.head.root,
            size_bytes=transfer.head.geometry.size_bytes,
            chunk_size_bytes=transfer.head.geometry.chunk_size_bytes,
            bitmap=snapshot,
        )
        try:
            await self._in_thread(self._commit_blocking, state)
        except DiskFull as error:
            self._written = written + self._written
            self._wait_for_space(error.message, step=True)
        except SyncFailed as error:
            self._log("sync_failed", level="error", detail=error.message)
            self._peer.requester.done(*written)
            self._feed(ev.SyncLost(self._durable))
        else:
            self._generation += 1
            self._durable = snapshot
            self._peer.requester.done(*written)
            self._feed(ev.Committed(phase))

    def _commit_blocking(self, state: TransferState) -> None:
        self._staging.part.sync()
        self._staging.state.store(state)

    async def _read_back(self) -> None:
        assert self._transfer is not None
        head = self._transfer.head
        assert head is not None
        found = await self._in_thread(
            content_digest,
            self._staging.part,
            head.geometry.size_bytes,
            self._on_read_back,
            lambda: self._stopping,
        )
        if found != head.content_digest:
            self._log("read_back_mismatch", level="error", path=self._order.path)
        self._feed(ev.ReadBackDone(found == head.content_digest))

    def _on_read_back(self, done_bytes: int) -> None:
        self._read_back_bytes = done_bytes

    async def _publish(self) -> None:
        manifest = self._manifest
        assert manifest is not None
        await self._in_thread(
            lambda: self._staging.publish(
                mode=manifest.mode, mtime_ns=manifest.mtime_ns, overwrite=self._order.overwrite
            )
        )
        await self._in_thread(self._staging.remove)
        self._peer.requester.done(*self._written)
        self._written = []
        self._feed(ev.Published())

    def _wait_for_space(self, detail: str, *, step: bool) -> None:
        self._feed(ev.SpaceGone(detail, step))
        if self._space_poll is None or self._space_poll.done():
            self._log("disk_full", level="warning", detail=detail)
            self._space_poll = self._steps.spawn(self._poll_space())

    async def _poll_space(self) -> None:
        while not self._stopping:
            await asyncio.sleep(SPACE_POLL_S)
            if await self._in_thread(self._staging.free_bytes) >= self._space_needed():
                self._feed(ev.SpaceBack())
                return

    def _space_needed(self) -> int:
        assert self._transfer is not None
        head = self._transfer.head
        if head is None:
            return SPACE_ENOUGH_BYTES
        missing = self._transfer.bitmap.count - self._transfer.bitmap.present
        return min(SPACE_ENOUGH_BYTES, missing * head.geometry.chunk_size_bytes)
