"""The requester's machine for one file: `handle(event, now) -> effects`, no I/O.

    OPENING     ask every origin for its manifest (or use the one kept in staging)
    RUNNING     ask for pages of leaves, and for chunks whose leaves are known
    RECOVERING  as RUNNING, while chunks that may be right already are compared with their leaves
    VERIFYING   every chunk is durable; the whole part file is hashed
    PUBLISHING  the content digest matches; the file is about to appear
    DONE, FAILED

    OPENING    -> RUNNING      a manifest, nothing in staging
    OPENING    -> RECOVERING   a manifest, and a part file of another version or without its bitmap
    RUNNING    -> OPENING      `stale`: the source changed, and no other origin is left
    RECOVERING -> RUNNING      nothing is doubtful any more
    RUNNING    -> VERIFYING    complete
    VERIFYING  -> RECOVERING   the digest does not match: find the bad chunks, at most three times
    VERIFYING  -> PUBLISHING   it matches
    PUBLISHING -> DONE

Bits go from absent to present when the chunk is in the part file; what is durable is the driver's
business at `Commit`. A page of leaves is kept while one of its chunks is missing, no longer.

Of several origins, the one named first decides which version it is, if it answers within its timer;
then the next one that has answered. An origin with another version leaves, as does one that lies or
does not have the file; one that is silent is asked now and then whether it is there. It ends when
nobody is left, or all are silent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chunkq.errors import ChunkqError, IntegrityError, OtherVersion, PacketError
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.asking import Asking
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.dirty import Dirty
from chunkq.protocol.holding import Holding
from chunkq.protocol.lane import Lane
from chunkq.protocol.limits import COMMIT_BYTES, COMMIT_INTERVAL_MS
from chunkq.protocol.manifest import Head
from chunkq.protocol.messages import Refusal, RefusalReason
from chunkq.protocol.strikes import Strikes, final_refusal
from chunkq.protocol.transfer_events import Phase, Waiting
from chunkq.protocol.window import Window


class Transfer:
    """One file from one origin, or from several: `window` is the first one's, then `mirrors`.

    `patience_s`: silence after which it ends as `PeerSilent`. `doubt_all`: there is a part file
    and nothing is known of it. A commit is due after `commit_bytes` or `commit_interval_s`.
    """

    def __init__(
        self,
        *,
        window: Window,
        mirrors: Sequence[Window] = (),
        resumed: ev.Resumed | None,
        now: float,
        patience_s: float,
        doubt_all: bool = False,
        commit_bytes: int = COMMIT_BYTES,
        commit_interval_s: float = COMMIT_INTERVAL_MS / 1000,
    ) -> None:
        self.phase = Phase.OPENING
        self.finished = False
        #: Rises with each version of the source; what belongs to an older one is of no use.
        self.version = 0
        self._holding = Holding()
        self._asking = Asking((window, *mirrors), self._holding, now, patience_s)
        #: No room on the disk: nothing is asked for.
        self._full: Waiting | None = None
        self._opening_since = now
        #: Whose manifest it is.
        self.signer = self.lanes[0]
        self._told: list[ev.Effect] = []
        self.strikes = Strikes()
        self._dirty = Dirty(commit_bytes, commit_interval_s)
        self._now = now
        self._busy_with: str | None = None
        #: There is a head, and staging does not have it yet: nothing may be committed under it.
        self._unprepared = False
        self._ever_committed = resumed is not None or doubt_all
        self._doubt_all = doubt_all
        if resumed is not None:
            self._resume(resumed)

    # ------------------------------------------------------------ what the driver asks

    def wants(self, index: int) -> bool:
        """Whether a reply with this chunk is of use."""
        return self.phase in (Phase.RUNNING, Phase.RECOVERING) and self._holding.lacks(index)

    def leaf(self, index: int) -> bytes | None:
        """The verified leaf of a chunk, if its page is here."""
        leaves = self._asking.leaves
        return None if leaves is None else leaves.leaf(index)

    @property
    def head(self) -> Head | None:
        """The version that is being fetched."""
        return self._holding.head

    @property
    def bitmap(self) -> Bitmap:
        """What of it is in the part file."""
        return self._holding.bitmap

    @property
    def doubtful(self) -> Bitmap:
        """What may be."""
        return self._holding.doubtful

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """Its origins, in the order in which they were named."""
        return self._asking.lanes

    @property
    def waiting(self) -> Waiting | None:
        """Why nothing moves, if nothing does."""
        if self._full is not None:
            return self._full
        reasons = [lane.patience.waiting for lane in self._asking.live]
        return None if None in reasons else next(iter(reasons), None)

    @property
    def hungry(self) -> bool:
        """Whether it would ask for more if a window had room."""
        return any(lane.hungry for lane in self._asking.live)

    @property
    def next_wake_s(self) -> float | None:
        """When to send the next `Tick`, at the latest; None: only an event helps."""
        if self.finished:
            return None
        times: list[float] = []
        if self._may_commit and (due := self._dirty.due_at_s) is not None:
            times.append(due)
        if self._asks_now and self._busy_with != "prepare":
            times += self._asking.next_wakes_s(self._now)
            if self.phase is Phase.OPENING and self._busy_with is None:
                times += self._asking.hopes_s(self._opening_since, self._now)
        return min(times, default=None)

    @property
    def uncommitted_bytes(self) -> int:
        return self._dirty.size_bytes

    @property
    def in_flight(self) -> int:
        return self._asking.in_flight

    @property
    def _asks_now(self) -> bool:
        return self.phase <= Phase.RECOVERING and self._full is None

    @property
    def _may_commit(self) -> bool:
        return self._busy_with is None and not self._unprepared

    def abandon(self) -> None:
        """It ends here for now: nothing outstanding counts in the window any more."""
        self.finished = True
        self._asking.end()

    # ------------------------------------------------------------ events

    def handle(self, event: ev.Event, now: float) -> list[ev.Effect]:
        """Take one event, return what is to be done, in that order."""
        return self.handle_all((event,), now)

    def handle_all(self, events: Iterable[ev.Event], now: float) -> list[ev.Effect]:
        """Take events that came together; what they lead to is looked at once, behind them."""
        if self.finished:
            return []
        self._now = now
        effects: list[ev.Effect] = []
        try:
            for event in events:
                if not self.finished:
                    effects += self._take(event, now)
            if not self.finished:
                effects += self._advance(now)
        except ChunkqError as error:
            effects.append(self._fail(error))
        told, self._told = self._told, []
        return told + effects

    def _take(self, event: ev.Event, now: float) -> list[ev.Effect]:
        match event:
            case ev.ManifestCame():
                return self._on_manifest(event, now)
            case ev.PageCame():
                return self._on_page(event, now)
            case ev.ChunkAdopted(index, lane):
                return self._on_adopted(index, self.lanes[lane], now)
            case ev.Refused(token, refusal, lane):
                self._on_refused(self.lanes[lane], token, refusal, now)
            case ev.AskFailed(token, waiting, lane):
                if self._asking.release(self.lanes[lane], token):
                    self.lanes[lane].patience.wait(waiting, now)
            case ev.OriginBroken(lane, error):
                self._leave(self.lanes[lane], error, now)
            case ev.Broken(error):
                raise error
            case ev.SpaceGone() | ev.SpaceBack():
                return self._on_space(event, now)
            case ev.Prepared() | ev.Committed() | ev.SyncLost() | ev.ReadBackDone():
                return self._on_step_done(event, now)
            case ev.Published():
                self.phase = Phase.DONE
                self.finished = True
                return [ev.Finish(None)]
            case _:
                self._on_chunk_event(event, now)
        return []

    def _on_chunk_event(self, event: ev.Event, now: float) -> None:
        match event:
            case ev.ChunkLanded(index, lane):
                self.lanes[lane].heard(now)
                self.lanes[lane].chunks.land(index)
            case ev.ChunkStored(index, token, lane):
                self._asking.stored(self.lanes[lane], index, token, now)
                self.lanes[lane].heard(now, progress=True)
                self._present(index, now)
            case ev.ChunkBad(index, lane):
                self._on_bad(self.lanes[lane], index, now)
            case ev.ChunkDropped(index, lane):
                self._asking.dropped(self.lanes[lane], index)
            case ev.Rechecked():
                self._on_rechecked(event, now)
            case _:
                pass

    def _on_step_done(self, event: ev.Event, now: float) -> list[ev.Effect]:
        """One of the steps that the driver does one at a time has ended."""
        self._busy_with = None
        match event:
            case ev.Prepared():
                self._unprepared = False
                if self.doubtful.present:  # let go of what was received of the version before
                    self._dirty.add(0, now)
                self.phase = Phase.RECOVERING if self.doubtful.present else Phase.RUNNING
                self._asking.all_heard(now)
            case ev.Committed(phase):
                self._ever_committed = True
                self.strikes.synced()
                if phase is Phase.VERIFYING and self._holding.whole:
                    return [self._step("read back", ev.ReadBack(), Phase.VERIFYING)]
                if phase is Phase.PUBLISHING:
                    return [self._step("publish", ev.Publish(), Phase.PUBLISHING)]
            case ev.SyncLost(durable, detail):
                self._on_sync_lost(durable, detail)
            case ev.ReadBackDone(matches):
                return self._on_read_back(matches, now)
            case _:
                pass
        return []

    def _on_manifest(self, event: ev.ManifestCame, now: float) -> list[ev.Effect]:
        lane = self.lanes[event.lane]
        if self.phase > Phase.RECOVERING or lane.left is not None or not lane.opened(event.token):
            return []
        if self.phase is Phase.OPENING and not self._unprepared:
            if self._busy_with is not None:  # a commit of the old version is under way: once more
                lane.patience.pause(now)
                return []
            lane.heard(now, progress=True)
            lane.offered(event.head)
            return self._decide(now)
        if event.token:  # the question is settled; only whether this one has the same is new
            lane.heard(now, progress=True)
            lane.offered(event.head)
            self._compare(lane, now)
        return []

    def _decide(self, now: float) -> list[ev.Effect]:
        """Take the manifest of the first named that offers one, once no better is hoped for."""
        lane = self._asking.first_offer(self._opening_since, now)
        if lane is None or lane.offer is None or self._busy_with is not None:
            return []
        before, head = self.head, lane.offer
        effects: list[ev.Effect] = []
        self.signer = lane
        if before is not None and before.root == head.root and before == head:
            self.phase = Phase.RECOVERING if self.doubtful.present else Phase.RUNNING
        else:
            effects = self._begin_version(head, doubt=before is not None or self._doubt_all)
        for other in [other for other in self._asking.live if other.offer is not None]:
            self._compare(other, now)
        return effects

    def _begin_version(self, head: Head, *, doubt: bool) -> list[ev.Effect]:
        self.version += 1
        self._holding.begin(head, doubt=doubt)
        self._asking.begin(answers=True)
        self._dirty.clear()
        self._unprepared = True
        return [self._step("prepare", ev.Prepare(head), Phase.OPENING)]

    def _compare(self, lane: Lane, now: float) -> None:
        """An origin says what it has: it joins if that is the same content, however cut."""
        assert self.head is not None
        offer, lane.offer = lane.offer, None
        assert offer is not None
        if offer.content_digest == self.head.content_digest:
            lane.joined = True
        else:
            self._leave(lane, OtherVersion("it has another version"), now, may_return=True)

    def _on_page(self, event: ev.PageCame, now: float) -> list[ev.Effect]:
        lane = self.lanes[event.lane]
        leaves = self._asking.leaves
        if self.head is None or leaves is None or lane.left is not None:
            return []
        if not event.token and not leaves.prove(event.page, event.leaves):
            return []  # an earlier process asked, perhaps for another version: no lie
        if not self._asking.page_came(event.page, now):
            return []
        try:
            leaves.add(event.page, event.leaves)
        except PacketError as error:
            self._asking.freed([event.page], ())
            self._leave(lane, _lies(error), now)
            return []
        lane.heard(now, progress=True)
        return self._holding.open_page(event.page, leaves)

    def _on_rechecked(self, event: ev.Rechecked, now: float) -> None:
        self._holding.rechecked(event)
        if event.good:
            self._asking.all_heard(now, progress=True)
        for index in event.good:
            self._asking.give_up(index)
            self._present(index, now)
        for index in event.bad:
            self._asking.again(index)

    def _on_adopted(self, index: int, lane: Lane, now: float) -> list[ev.Effect]:
        if not self.wants(index):
            return []
        lane.heard(now)
        self.doubtful.add(index)
        leaves = self._asking.leaves
        if leaves is None or leaves.leaf(index) is None:
            return []
        return self._holding.recheck([index], leaves)

    def _on_bad(self, lane: Lane, index: int, now: float) -> None:
        if lane.left is None:
            if not lane.chunks.landed(index):  # asked for by an earlier process: no strike
                return
            if len(self._asking.live) == 1:
                self._strike(lane, index, now)
            else:
                detail = f"chunk {index} does not match the signed manifest"
                self._leave(lane, IntegrityError(detail), now)
        self._asking.dropped(lane, index)

    def _strike(self, lane: Lane, index: int, now: float) -> None:
        """The last one gets a few tries; then others may be asked what they have."""
        try:
            self.strikes.bad_chunk(index)
        except IntegrityError as error:
            self._leave(lane, error, now)

    def _on_refused(self, lane: Lane, token: int, refusal: Refusal, now: float) -> None:
        if not self._asking.release(lane, token):
            return
        lane.heard(now)
        if (error := final_refusal(refusal)) is not None:
            self._leave(lane, error, now)
        elif refusal.reason is RefusalReason.STALE:
            self._leave(lane, OtherVersion("it has another version"), now, may_return=True)
        else:
            waiting = Waiting(str(refusal.reason), refusal.detail, refusal.done, refusal.total)
            lane.patience.refused(waiting, now, refusal.retry_after_ms / 1000 or None)

    def _leave(
        self, lane: Lane, error: ChunkqError, now: float, *, may_return: bool = False
    ) -> None:
        """Ask this origin for nothing any more. Raises when that was the last one.

        But those that left for their version come back then: what they have now is the version.
        """
        if lane.left is not None:
            return
        self._asking.leave(lane, error, may_return=may_return)
        if len(self.lanes) > 1:
            self._told.append(ev.OriginLeft(lane.number, error))
        if self._asking.live:
            return
        if not self._asking.come_back():
            raise self._asking.verdict
        self.strikes.stale()
        self._reopen(now)

    def _reopen(self, now: float) -> None:
        """Ask those that are in for their manifests; what has not changed is kept."""
        if self.phase in (Phase.RUNNING, Phase.RECOVERING):
            self.phase = Phase.OPENING
        self._opening_since = now
        self._asking.begin()
        for lane in self.lanes:
            lane.joined, lane.offer = False, None

    def _on_sync_lost(self, durable: Bitmap, detail: str) -> None:
        self.strikes.sync_failed(detail)
        if self.phase is Phase.VERIFYING:
            self.phase = Phase.RUNNING
        for index in durable.missing():
            if self.bitmap.clear(index):
                self._asking.again(index)

    def _on_read_back(self, matches: bool, now: float) -> list[ev.Effect]:
        if matches:
            if self._single_group:
                return [self._step("publish", ev.Publish(), Phase.PUBLISHING)]
            return [self._step("commit", ev.Commit(Phase.PUBLISHING), Phase.VERIFYING)]
        self.phase = Phase.RECOVERING
        self._holding.doubt_all()
        self._asking.begin()
        self._asking.all_heard(now)
        try:
            self.strikes.read_back_wrong()
        except IntegrityError as error:  # all leaves hold, so the digest signed with them is wrong
            if self.signer.left is not None or len(self._asking.live) == 1:
                raise
            self._leave(self.signer, error, now)
            self._reopen(now)
        return []

    def _on_space(self, event: ev.SpaceGone | ev.SpaceBack, now: float) -> list[ev.Effect]:
        if isinstance(event, ev.SpaceGone):
            self._full = Waiting("disk_full", event.detail)
            if event.step:
                if self._busy_with == "commit":
                    self._dirty.restore(now)
                self._busy_with = None
            return []
        self._full = None
        self._asking.renew(now)
        if self._unprepared and self.head is not None and self._busy_with is None:
            return [self._step("prepare", ev.Prepare(self.head), Phase.OPENING)]
        return []

    # ------------------------------------------------------------ going on

    def _advance(self, now: float) -> list[ev.Effect]:
        if self._full is not None or self._busy_with == "prepare":
            return self._commit_if_due(now)
        self._asking.give_up_overdue(now)
        if self._asks_now and (error := self._asking.exhausted(now)) is not None:
            raise error
        effects = self._go_on(now)
        self._asking.expect(now)
        return effects + self._commit_if_due(now)

    def _go_on(self, now: float) -> list[ev.Effect]:
        """What the phase asks for."""
        effects: list[ev.Effect] = []
        if self.phase is Phase.OPENING and self._busy_with is None:
            effects += self._decide(now)
        if self.phase is Phase.OPENING:
            if self._busy_with is None:
                effects += self._asking.ask_open(now, everybody=True)
        elif self.phase in (Phase.RUNNING, Phase.RECOVERING):
            if self.phase is Phase.RECOVERING and not self.doubtful.present:
                self.phase = Phase.RUNNING
            if not self._holding.whole:
                effects += self._asking.ask_open(now, everybody=False)
                effects += self._asking.ask(now)
            if self._holding.whole:  # at once, if all that it lacked were holes
                effects += self._complete()
        elif self.phase is Phase.VERIFYING and self._busy_with is None:
            effects.append(self._step("read back", ev.ReadBack(), Phase.VERIFYING))
        elif self.phase is Phase.PUBLISHING and self._busy_with is None:
            effects.append(self._step("publish", ev.Publish(), Phase.PUBLISHING))
        return effects

    def _complete(self) -> list[ev.Effect]:
        """Everything is in the part file: make it durable, then read it back."""
        self._asking.begin()
        self._asking.satisfied()
        if self._busy_with is not None:
            return []
        if self._single_group:
            return [self._step("read back", ev.ReadBack(), Phase.VERIFYING)]
        return [self._step("commit", ev.Commit(Phase.VERIFYING), self.phase)]

    def _commit_if_due(self, now: float) -> list[ev.Effect]:
        if not self._may_commit or not self._dirty.due(now):
            return []
        return [self.commit()]

    def commit(self) -> ev.Commit:
        """A commit of what there is, under the present phase (when due, at a pause, at a stop)."""
        # Doubt is not on disk but as this phase: what is absent may be in the part file.
        effect = ev.Commit(Phase.RECOVERING if self.doubtful.present else self.phase)
        self._step("commit", effect, self.phase)
        return effect

    def _step(self, what: str, effect: ev.Effect, phase: Phase) -> ev.Effect:
        self._busy_with = what
        self.phase = phase
        if what == "commit":
            self._dirty.clear()
        return effect

    # ------------------------------------------------------------ small pieces

    @property
    def _single_group(self) -> bool:
        """Nothing of it was ever committed, nor need be: one commit group is the whole file."""
        fits = self._holding.size_bytes <= self._dirty.limit_bytes
        return fits and not self._ever_committed

    def _resume(self, resumed: ev.Resumed) -> None:
        self.signer = self.lanes[resumed.lane]
        self.phase = resumed.phase
        if self.phase is Phase.RECOVERING or not resumed.bitmap.complete:
            self.phase = max(Phase.RUNNING, min(self.phase, Phase.RECOVERING))
        doubt = self.phase is Phase.RECOVERING
        self._holding.resume(resumed.head, resumed.bitmap, doubt=doubt)
        self._asking.begin()
        for lane in self.lanes:  # the one that has another version by now will say so
            lane.joined = self.phase is not Phase.OPENING

    def _present(self, index: int, now: float) -> None:
        if size := self._holding.add(index):
            self._dirty.add(size, now)
        if self._asking.leaves is not None:
            self._asking.leaves.drop_if_done(self._holding.page_of(index), self.bitmap)

    def _fail(self, error: ChunkqError) -> ev.Finish:
        self.finished = True
        self.phase = Phase.FAILED
        self._asking.end()
        return ev.Finish(error)


def _lies(error: PacketError) -> IntegrityError:
    """Under a valid seal and for this root, only a head or a page that lies does not prove."""
    return IntegrityError(f"the origin's manifest does not hold: {error.message}")
