"""The driver of one file's transfer: feeds the machine, performs its effects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

from chunkq.errors import (
    ChunkqError,
    DiskFull,
    IntegrityError,
    OtherVersion,
    PacketError,
    PeerDistrusted,
    PeerRefused,
    StorageError,
    TransportError,
)
from chunkq.ports import Delivery, Staging
from chunkq.protocol import cbor
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.limits import MAX_WINDOW_BYTES
from chunkq.protocol.manifest import Head
from chunkq.protocol.messages import ManifestReply, Refusal
from chunkq.protocol.packet import RawReply, ReplyKind
from chunkq.protocol.priority import Priority
from chunkq.protocol.transfer import Transfer
from chunkq.protocol.transfer_events import Phase
from chunkq.runtime.asking import Order, Place, receipt, request_body, waiting_for
from chunkq.runtime.committing import Committer
from chunkq.runtime.disk import DiskShares
from chunkq.runtime.landing import Landing
from chunkq.runtime.offers import Offers, acceptable
from chunkq.runtime.peer import Asked, PeerLink
from chunkq.runtime.preparing import Preparing
from chunkq.runtime.progress import FetchDetail, FetchProgress, FetchResult
from chunkq.runtime.readback import ReadBack
from chunkq.runtime.recording import Record, Recorder
from chunkq.runtime.resuming import look, open_whole, read_manifest, was_published
from chunkq.runtime.roomwait import RoomWait
from chunkq.runtime.tally import Tally
from chunkq.runtime.tasks import Tasks, to_the_end
from chunkq.runtime.telling import hear

_T = TypeVar("_T")


class FileFetch:
    """One file into one staging place: from a peer, and from `mirrors` at other peers.

    Cancelling `run` stops it resumably.
    """

    def __init__(
        self,
        peer: PeerLink,
        order: Order,
        *,
        open_staging: Callable[[], Staging],
        pool: Executor,
        on_resume: Callable[[int, int], None] | None = None,
        mirrors: Sequence[Place] = (),
        record: Record | None = None,
        disk: tuple[DiskShares, int] | None = None,
    ) -> None:
        """`disk`: what the peers' files take, and how much those of this one may; 0: anything."""
        self._peer = peer
        self._disk, self._disk_limit_bytes = disk or (DiskShares(), 0)
        self._places = (Place(peer, order.share, order.path), *mirrors)
        self._recorder = Recorder(record, self._places)
        self._lanes = {place.peer: number for number, place in enumerate(self._places)}
        self._requesters = tuple(dict.fromkeys(place.peer.requester for place in self._places))
        self._order = order
        self._open_staging = open_staging
        self._pool = pool
        self._on_resume = on_resume
        self.priority = Priority.of(order.priority)  #: of what is asked for from now on
        self._log = peer.requester.log
        self._clock = peer.requester.clock
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[ChunkqError | None] = self._loop.create_future()
        self._steps = Tasks(self._on_crash)
        self._timer: asyncio.TimerHandle | None = None
        self._transfer: Transfer | None = None
        self._landing: Landing | None = None
        self._reader: ReadBack | None = None
        self._manifest: ManifestReply | None = None
        self._offers = Offers()
        self._tally = Tally(order.path, [place.peer.ref.alias for place in self._places])
        self._room = RoomWait(
            lambda: self._in_thread(self._staging.free_bytes),
            lambda: self._feed(ev.SpaceBack()),
            self._steps,
            self._log,
        )
        #: No more replies and requests; then, no more events.
        self._closing = False
        self._stopping = False
        #: Whether staging holds a manifest or data.
        self._kept = False

    # ------------------------------------------------------------ the outside

    async def run(self) -> FetchResult:
        """Fetch and publish. Raises a `ChunkqError`; what is in staging stays for the next run."""
        await self._open()
        try:
            was = await self._in_thread(lambda: was_published(self._staging, self._recorder.cards))
            if was and (finished := await self._finish_published()) is not None:
                return finished
            await self._begin()
            await self._watch()
            if (error := self._result.result()) is not None:
                raise self._tally.account_for(error, self._transfer)
            assert self._transfer is not None
            assert self._transfer.head is not None
            return self._tally.result(self._transfer.head, self._transfer)
        finally:
            await to_the_end(asyncio.ensure_future(self._wind_down()))

    @property
    def starved(self) -> bool:
        """Whether not one of its chunks is under way."""
        return self._transfer is None or not self._transfer.in_flight

    def progress(self) -> FetchProgress | None:
        """None until there is something to say."""
        return None if self._transfer is None else self._tally.progress(self._transfer)

    def detail(self) -> FetchDetail | None:
        """What is under way; None until there is something to say."""
        return None if self._transfer is None else self._tally.detail(self._transfer)

    # ------------------------------------------------------------ beginning and end

    async def _watch(self) -> None:
        """Wait for the end. A link that ends for good takes its origins out."""
        failed = {requester.failed: requester for requester in self._requesters}
        while not self._result.done():
            futures: list[asyncio.Future[Any]] = [self._result, *failed]
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            for future in [future for future in failed if future.done()]:
                requester, error = failed.pop(future), future.exception()
                if not failed or not isinstance(error, ChunkqError):
                    future.result()
                    continue
                for place, lane in ((place, self._lanes[place.peer]) for place in self._places):
                    if place.peer.requester is requester:
                        self._feed(ev.OriginBroken(lane, error))

    async def _open(self) -> None:
        self._staging = await open_whole(self._pool, self._open_staging)
        self._committer = Committer(self._staging, self._in_thread, self._log)
        self._preparing = Preparing(self._staging, self._committer, self._in_thread)

    async def _begin(self) -> None:
        cards = self._recorder.cards
        found = await self._in_thread(lambda: look(self._staging, cards, self._log))
        resumed, self._manifest = found.resumed, found.manifest
        self._kept = resumed is not None or found.doubt_all
        self._committer.begin(found.generation, resumed.bitmap if resumed else Bitmap(0))
        if resumed is not None and found.part_missing:
            await self._preparing.mend(resumed.head)
        self._transfer = Transfer(
            window=self._peer.window_for(self),
            mirrors=[place.peer.window_for(self) for place in self._places[1:]],
            resumed=resumed,
            now=self._clock.monotonic_s(),
            patience_s=self._order.patience_s,
            doubt_all=found.doubt_all,
            commit_bytes=self._order.commit_bytes,
            commit_interval_s=self._order.commit_interval_s,
        )
        if found.doubt_all:
            self._log("transfer_recovering", path=self._order.path, peer=self._peer.ref.alias)
        if resumed is not None:
            self._use_head(resumed.head).follow(resumed.bitmap)
            self._disk.hold(self._peer.ref.alias, self, resumed.head.geometry.size_bytes)
            self._tally.resumed_chunks = self._transfer.bitmap.present
            if self._on_resume is not None:
                self._on_resume(self._tally.resumed_chunks, self._transfer.bitmap.count)
        for requester in self._requesters:
            requester.adopters.append(self._adopt)
        self._feed(ev.Tick())

    async def _finish_published(self) -> FetchResult | None:
        """A crash came before the tidying. None, the manifest lost: a new transfer finds out."""
        kept = await self._in_thread(self._staging.load_manifest) or b""
        try:
            manifest, head, _ = read_manifest(kept, self._recorder.cards)
        except PacketError:
            await self._in_thread(self._staging.settle_published)
            await self._in_thread(self._staging.remove)
            await self._open()
            return None
        self._manifest = manifest
        if await self._in_thread(self._staging.published):
            # Once more: its name may not have been durable when the crash came.
            await self._in_thread(lambda: self._publish_blocking(manifest))
        await self._end(head)
        return self._tally.result(head)

    async def _wind_down(self) -> None:
        """Leave everything so that the next run goes on from here; also after success."""
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        for requester in self._requesters:
            requester.forget(self._on_reply)
            if self._adopt in requester.adopters:
                requester.adopters.remove(self._adopt)
        for peer in self._lanes:
            peer.hungry.pop(self, None)
        self._room.end()
        if self._landing is not None:
            await self._landing.drained()
        if self._reader is not None:
            await self._reader.stop()
        self._stopping = True
        await self._steps.drain()
        try:
            await self._leave_staging()
        finally:  # whatever the disk says, or this process would hold it for good
            self._disk.give_back(self._peer.ref.alias, self)
            await self._in_thread(self._staging.close)
        self._room_appeared()

    async def _leave_staging(self) -> None:
        """What there is goes to disk; what is of no use any more goes away."""
        try:
            await self._commit_last()
        finally:  # what is not durable is asked for again; kept, it would hold up other replies
            self._committer.release()
        error = self._ended_with
        if isinstance(error, IntegrityError):  # what was signed may not hold: asked for anew
            with contextlib.suppress(StorageError):
                await self._in_thread(self._staging.forget_manifest)
        if error is not None and not error.retry and not self._kept:
            await self._in_thread(self._staging.remove)

    async def _commit_last(self) -> None:
        """What has come, where it was stopped."""
        transfer = self._transfer
        if transfer is None or self._result.done():
            return
        effect = transfer.commit() if transfer.uncommitted_bytes and self._kept else None
        transfer.abandon()
        if effect is not None and transfer.head is not None:
            await self._committer.commit(transfer, effect.phase)

    @property
    def _ended_with(self) -> ChunkqError | None:
        """The error, if it has ended with one."""
        ended = self._result.done() and self._result.exception() is None
        return self._result.result() if ended else None

    # ------------------------------------------------------------ events and effects

    def _feed(self, *events: ev.Event) -> None:
        transfer = self._transfer
        if transfer is None or self._stopping or self._result.done():
            return
        for peer in self._lanes:
            peer.window.deaf_s = peer.requester.deaf_s
        for effect in transfer.handle_all(events, self._clock.monotonic_s()):
            self._perform(effect)
        for event in events:
            if isinstance(event, ev.SpaceGone):
                self._room.begin(event.detail, transfer)
        for peer, lane in self._lanes.items():
            if transfer.lanes[lane].hungry:
                peer.hungry[self] = self._tick
        if not isinstance(events[0], ev.Tick):
            self._room_appeared()
        self._set_timer()

    def _room_appeared(self) -> None:
        for peer in self._lanes:
            peer.room_appeared()

    def _tick(self) -> None:
        self._feed(ev.Tick())

    def _on_timer(self) -> None:
        assert self._timer is not None
        late_s = self._loop.time() - self._timer.when()
        self._timer = None
        for requester in self._requesters:
            requester.held_up(late_s)
        self._tick()

    def _set_timer(self) -> None:
        assert self._transfer is not None
        wake = self._transfer.next_wake_s
        if wake is None or self._closing or self._result.done():
            return
        at = self._loop.time() + max(0.0, wake - self._clock.monotonic_s())
        if self._timer is not None:
            if not self._timer.cancelled() and self._loop.time() < self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._on_timer)

    def _perform(self, effect: ev.Effect) -> None:
        if self._closing and not isinstance(effect, ev.Commit | ev.Finish):
            return
        match effect:
            case ev.AskOpen() | ev.AskPages() | ev.AskChunks():
                self._ask(effect)
            case ev.Prepare(head):
                self._steps.spawn(self._prepare(head))
            case ev.Recheck():
                assert self._landing is not None
                self._landing.recheck(effect)
            case ev.Punch():
                assert self._landing is not None
                self._landing.punch(effect)
            case ev.Commit(phase):
                self._steps.spawn(self._commit(phase))
            case ev.ReadBack():
                self._steps.spawn(self._read_back())
            case ev.Publish():
                self._steps.spawn(self._publish())
            case ev.OriginLeft(lane, why):
                peer = self._places[lane].peer.ref.alias
                self._log("origin_left", level="warning", peer=peer, detail=why.message)
            case ev.Finish(error):
                if not self._result.done():
                    self._result.set_result(error)

    def _ask(self, effect: ev.AskOpen | ev.AskPages | ev.AskChunks) -> None:
        assert self._transfer is not None
        place = self._places[effect.lane]
        kind, body = request_body(
            effect, self.priority.word, place, self._transfer.head, self._largest_chunk_bytes
        )
        place.peer.ask(
            kind,
            body,
            ephemeral=self._staging.ephemeral,
            handler=self._on_reply,
            failed=self._on_ask_failed,
            token=effect.token,
            version=self._transfer.version,
        )

    @property
    def _largest_chunk_bytes(self) -> int:
        """What every link of this transfer carries."""
        return min(peer.largest_chunk_bytes for peer in self._lanes)

    def _on_ask_failed(self, asked: Asked, error: TransportError) -> None:
        waiting = waiting_for(error, asked.peer.requester.transport.health)
        self._feed(ev.AskFailed(asked.token, waiting, self._lanes[asked.peer]))

    def _on_crash(self, error: Exception) -> None:
        if isinstance(error, ChunkqError):
            self._feed(ev.Broken(error))
        elif not self._result.done():
            self._result.set_exception(error)

    # ------------------------------------------------------------ replies

    def _on_reply(self, asked: Asked, raw: RawReply, delivery: Delivery) -> None:
        if self._closing or self._result.done():
            asked.peer.requester.done(delivery)
        elif raw.header.kind is ReplyKind.CHUNK and self._landing is not None:
            self._landing.take(asked, raw, delivery)
        else:
            asked.peer.requester.done(delivery)
            try:
                self._on_control(asked, raw)
            except PacketError as error:
                asked.peer.requester.drop(error.code)

    def _on_control(self, asked: Asked, raw: RawReply) -> None:
        body, lane = asked.open(raw), self._lanes[asked.peer]
        assert self._transfer is not None
        match raw.header.kind:
            case ReplyKind.MANIFEST:
                self._on_manifest(asked, cbor.decode(ManifestReply, body))
            case ReplyKind.PAGE if asked.version == self._transfer.version:
                if note := self._recorder.page(self._transfer.head, raw.header.index, body):
                    self._steps.spawn(self._in_thread(note))
                self._feed(ev.PageCame(asked.token, raw.header.index, body, lane))
            case ReplyKind.REFUSAL:
                refusal = cbor.decode(Refusal, body)
                asked.peer.heed(asked, refusal)
                self._feed(ev.Refused(asked.token, refusal, lane))
            case ReplyKind.STANDING:
                try:
                    hear(asked.peer, body)
                except PeerDistrusted as error:
                    self._feed(ev.OriginBroken(lane, error))
            case _:
                asked.peer.requester.drop("unasked", level="debug")

    def _on_manifest(self, asked: Asked, manifest: ManifestReply) -> None:
        lane = self._lanes[asked.peer]
        try:
            head = acceptable(
                manifest, asked.recipient, self._largest_chunk_bytes, self._order.content_digest
            )
        except PacketError as error:
            if len(self._places) == 1:
                raise
            lies = IntegrityError(f"its manifest does not hold: {error.message}")
            self._feed(ev.OriginBroken(lane, lies))
            return
        except (PeerRefused, OtherVersion) as error:
            if asked.token:  # else an earlier process asked, perhaps for something else
                self._feed(ev.OriginBroken(lane, error))
            return
        assert self._transfer is not None
        self._offers.add(lane, head, manifest)
        self._feed(ev.ManifestCame(asked.token, head, lane))
        self._offers.keep_only(self._transfer)

    def _adopt(self, raw: RawReply) -> Asked | None:
        """A reply to an earlier process; only the origin that made it opens it."""
        if self._closing:
            return None
        found = (peer.adopt(raw, self._staging.ephemeral, self._on_reply) for peer in self._lanes)
        return next(filter(None, found), None)

    # ------------------------------------------------------------ steps

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        """Whoever is cancelled meanwhile goes on once it has ended: it works on open files."""
        return await to_the_end(self._loop.run_in_executor(self._pool, work))

    def _use_head(self, head: Head) -> ReadBack:
        assert self._transfer is not None
        for peer in self._lanes:
            peer.window.max_chunks = MAX_WINDOW_BYTES // head.geometry.chunk_size_bytes
        self._landing = Landing(
            self._transfer,
            self._staging.part,
            head.geometry,
            self._pool,
            committer=self._committer,
            tally=self._tally,
            feed=self._feed,
            lanes=self._lanes,
            pages=self._peer.requester.pages,
            broken=self._on_crash,
            log=self._log,
        )
        self._reader = ReadBack(
            self._staging.part,
            head.geometry,
            self._pool,
            self._peer.requester.pages,
            self._tally.on_read_back,
        )
        return self._reader

    async def _prepare(self, head: Head) -> None:
        """Keep the manifest, make room; an equal file at the final path ends it well."""
        if self._landing is not None:
            await self._landing.drained()
        if self._reader is not None:
            await self._reader.stop()
        assert self._transfer is not None
        self._manifest = self._offers.choose(self._transfer.signer.number, head) or self._manifest
        if await self._preparing.is_there(head, self._order):
            self._tally.unchanged = True
            await self._end(head)
            self._feed(ev.Published())
            return
        assert self._manifest is not None
        try:
            size, limit = head.geometry.size_bytes, self._disk_limit_bytes
            self._disk.take(self._peer.ref.alias, self, size, limit)
            self._kept = True
            await self._preparing.begin(head, cbor.encode(self._manifest))
        except DiskFull as error:
            self._feed(ev.SpaceGone(error.message, step=True))
            return
        self._use_head(head)
        self._feed(ev.Prepared())

    async def _commit(self, phase: Phase) -> None:
        assert self._transfer is not None
        if self._landing is not None:
            await self._landing.punched()
        event = await self._committer.commit(self._transfer, phase)
        assert self._reader is not None
        if isinstance(event, ev.Committed):
            self._room.written()
            self._reader.follow(self._committer.durable)
            self._feed(event)
            self._look_at_room()
            return
        if isinstance(event, ev.SyncLost):
            self._reader.restart()
            assert self._landing is not None
            await self._landing.drained()  # what was written meanwhile may be lost as well
        self._feed(event)

    def _look_at_room(self) -> None:
        """What is set aside is ours, but a disk that others fill wants somebody to look at it."""
        assert self._transfer is not None
        lacking = -self._committer.room_bytes
        if lacking > 0 and self._transfer.phase in (Phase.RUNNING, Phase.RECOVERING):
            self._room.below_floor = True
            self._feed(ev.SpaceGone(f"{lacking} bytes less are free than shall stay (disk_floor)"))

    async def _read_back(self) -> None:
        assert self._transfer is not None
        assert self._reader is not None
        assert self._landing is not None
        assert self._transfer.head is not None
        await self._landing.drained()  # a chunk that was found good may be being written once more
        matches = await self._reader.digest() == self._transfer.head.content_digest
        if not matches:
            self._log("read_back_mismatch", level="error", path=self._order.path)
            self._reader.restart()
        self._feed(ev.ReadBackDone(matches))

    async def _publish(self) -> None:
        manifest = self._manifest
        assert self._transfer is not None
        assert self._transfer.head is not None
        assert manifest is not None
        await self._in_thread(lambda: self._publish_blocking(manifest))
        await self._end(self._transfer.head)
        self._committer.release()
        for place, came in zip(self._places, self._tally.origins.values(), strict=True):
            if came or place.peer is self._peer:
                place.peer.tell(receipt(place, self._transfer.head))
        self._feed(ev.Published())

    def _publish_blocking(self, manifest: ManifestReply) -> None:
        self._staging.publish(
            mode=manifest.mode, mtime_ns=manifest.mtime_ns, overwrite=self._order.overwrite
        )

    async def _end(self, head: Head) -> None:
        """The file is at its place: note that down, and only then forget the transfer."""
        await self._in_thread(lambda: self._recorder.published(head, self._manifest))
        await self._in_thread(self._staging.remove)
        self._kept = False
