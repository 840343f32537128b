"""The requester's machine for one file: `handle(event, now) -> effects`, no I/O.

    OPENING     ask for the manifest (or use the one kept in staging)
    RUNNING     ask for pages of leaves, and for chunks whose leaves are known
    RECOVERING  as RUNNING, while chunks that may be right already are compared with their leaves
    VERIFYING   every chunk is durable; the whole part file is hashed
    PUBLISHING  the content digest matches; the file is about to appear
    DONE, FAILED

    OPENING    -> RUNNING      a manifest, nothing in staging
    OPENING    -> RECOVERING   a manifest, and a part file of another version or without its bitmap
    RUNNING    -> OPENING      `stale`: the source changed
    RECOVERING -> RUNNING      nothing is doubtful any more
    RUNNING    -> VERIFYING    complete
    VERIFYING  -> RECOVERING   the digest does not match: find the bad chunks, at most three times
    VERIFYING  -> PUBLISHING   it matches
    PUBLISHING -> DONE

Bits go from absent to present when the chunk is in the part file; what is durable is the driver's
business at `Commit`. A page of leaves is kept while one of its chunks is missing, no longer.
"""

from __future__ import annotations

from typing import Final

from chunkq.errors import (
    ChunkqError,
    IntegrityError,
    PacketError,
)
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.asking import Asking
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.dirty import Dirty
from chunkq.protocol.geometry import to_ranges
from chunkq.protocol.limits import (
    COMMIT_BYTES,
    COMMIT_INTERVAL_MS,
)
from chunkq.protocol.manifest import Head, is_zero_page
from chunkq.protocol.messages import Refusal, RefusalReason
from chunkq.protocol.patience import Patience
from chunkq.protocol.strikes import Strikes, final_refusal
from chunkq.protocol.transfer_events import Phase, Waiting
from chunkq.protocol.window import Window

#: How often a transfer looks whether others have left it room in the window.
STARVED_POLL_S: Final = 1.0


class Transfer:
    """One file from one origin.

    `patience_s`: silence after which it ends as `PeerSilent`. `doubt_all`: there is a part file
    and nothing is known of it. A commit is due after `commit_bytes` or `commit_interval_s`.
    """

    def __init__(
        self,
        *,
        window: Window,
        resumed: ev.Resumed | None,
        now: float,
        patience_s: float,
        doubt_all: bool = False,
        commit_bytes: int = COMMIT_BYTES,
        commit_interval_s: float = COMMIT_INTERVAL_MS / 1000,
    ) -> None:
        self.phase = Phase.OPENING
        self.head: Head | None = None
        self.bitmap = Bitmap(0)
        self.doubtful = Bitmap(0)
        self.finished = False
        #: Rises with each version of the source; what belongs to an older one is of no use.
        self.version = 0
        self._window = window
        self._patience = Patience(now, patience_s)
        self._asking = Asking(window)
        self._strikes = Strikes()
        self._dirty = Dirty(commit_bytes, commit_interval_s)
        self._rechecking = 0
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
        return (
            self.head is not None
            and self.phase in (Phase.RUNNING, Phase.RECOVERING)
            and index < self.bitmap.count
            and index not in self.bitmap
        )

    def leaf(self, index: int) -> bytes | None:
        """The verified leaf of a chunk, if its page is here."""
        leaves = self._asking.leaves
        return None if leaves is None else leaves.leaf(index)

    @property
    def waiting(self) -> Waiting | None:
        """Why nothing moves, if nothing does."""
        return self._patience.waiting

    @property
    def hungry(self) -> bool:
        """Whether it would ask for more if the window had room."""
        return self._asking.hungry

    @property
    def next_wake_s(self) -> float | None:
        """When to send the next `Tick`, at the latest; None: only an event helps."""
        if self.finished:
            return None
        times: list[float] = []
        if self._may_commit and (due := self._dirty.due_at_s) is not None:
            times.append(due)
        if self._asks_now and self._busy_with != "prepare":
            times += self._patience.wakes_s(self._now)
            if self._asking.starved and self._patience.may_ask(self._now):
                times.append(self._now + STARVED_POLL_S)
            if (deadline := self._asking.next_deadline_s) is not None:
                times.append(deadline)
        return min(times, default=None)

    @property
    def uncommitted_bytes(self) -> int:
        return self._dirty.size_bytes

    @property
    def in_flight(self) -> int:
        return len(self._asking.chunks)

    @property
    def _asks_now(self) -> bool:
        return self.phase <= Phase.RECOVERING and not self._patience.full

    @property
    def _may_commit(self) -> bool:
        return self._busy_with is None and not self._unprepared

    def abandon(self) -> None:
        """It ends here for now: nothing outstanding counts in the window any more."""
        self.finished = True
        self._asking.begin(None)

    # ------------------------------------------------------------ events

    def handle(self, event: ev.Event, now: float) -> list[ev.Effect]:
        """Take one event, return what is to be done, in that order."""
        if self.finished:
            return []
        self._now = now
        effects: list[ev.Effect] = []
        try:
            effects += self._take(event, now)
            if not self.finished:
                effects += self._advance(now)
        except ChunkqError as error:
            effects.append(self._fail(error))
        return effects

    def _take(self, event: ev.Event, now: float) -> list[ev.Effect]:
        match event:
            case ev.ManifestCame():
                return self._on_manifest(event, now)
            case ev.PageCame():
                return self._on_page(event, now)
            case ev.ChunkAdopted(index):
                return self._on_adopted(index, now)
            case ev.Refused(token, refusal):
                self._on_refused(token, refusal, now)
            case ev.AskFailed(token, waiting):
                if self._release(token):
                    self._patience.wait(waiting, now)
            case ev.SpaceGone(detail, step):
                self._on_space_gone(detail, step, now)
            case ev.SpaceBack():
                return self._on_space_back(now)
            case ev.Broken(error):
                raise error
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
            case ev.ChunkLanded(index):
                self._patience.heard(now)
                self._asking.chunks.land(index)
            case ev.ChunkStored(index, token):
                self._asking.chunks.stored(index, token, now)
                self._present(index, now)
            case ev.ChunkBad(index):
                self._on_bad(index)
            case ev.ChunkDropped(index):
                self._ask_again(index)
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
                self._patience.heard(now)
            case ev.Committed(phase):
                self._ever_committed = True
                self._strikes.synced()
                if phase is Phase.VERIFYING and self._whole:
                    return [self._step("read back", ev.ReadBack(), Phase.VERIFYING)]
                if phase is Phase.PUBLISHING:
                    return [self._step("publish", ev.Publish(), Phase.PUBLISHING)]
            case ev.SyncLost(durable):
                self._on_sync_lost(durable)
            case ev.ReadBackDone(matches):
                return self._on_read_back(matches, now)
            case _:
                pass
        return []

    def _on_manifest(self, event: ev.ManifestCame, now: float) -> list[ev.Effect]:
        if self.phase is not Phase.OPENING or not self._asking.opened(event.token):
            return []
        if self._busy_with is not None:  # a commit of the old version is under way: ask once more
            self._patience.pause(now)
            return []
        self._patience.heard(now, progress=True)
        before, head = self.head, event.head
        count_ = head.geometry.chunk_count
        if before is not None and before.root == head.root and before == head:
            self.phase = Phase.RECOVERING if self.doubtful.present else Phase.RUNNING
            return []
        self.version += 1
        self._rechecking = 0
        self.head = head
        self.bitmap, self.doubtful = Bitmap(count_), Bitmap(count_)
        if before is not None or self._doubt_all:
            self.doubtful.fill(0, count_)
        self._asking.begin(head)
        self._mark_zero_pages()
        self._dirty.clear()
        self._unprepared = True
        return [self._step("prepare", ev.Prepare(head), Phase.OPENING)]

    def _on_page(self, event: ev.PageCame, now: float) -> list[ev.Effect]:
        if self.head is None or not self._asking.page_came(event.page, now):
            return []
        assert self._asking.leaves is not None
        self._asking.leaves.add(event.page, event.leaves)
        self._patience.heard(now, progress=True)
        return self._open_page(event.page)

    def _open_page(self, page: int) -> list[ev.Effect]:
        """Leaves of `page` are here: mark its holes, and recheck what is doubtful."""
        leaves = self._asking.leaves
        assert self.head is not None
        assert leaves is not None
        doubtful = [i for i in self.head.geometry.page_chunks(page) if i in self.doubtful]
        holes = [
            index
            for index in leaves.holes(page)
            if index not in self.doubtful and self.bitmap.add(index)
        ]
        effects = self._recheck(doubtful)
        if holes:
            effects.append(ev.Punch(tuple(to_ranges(holes))))
        leaves.drop_if_done(page, self.bitmap)
        return effects

    def _recheck(self, indices: list[int]) -> list[ev.Effect]:
        assert self.head is not None
        assert self._asking.leaves is not None
        if not indices:
            return []
        self._rechecking += 1
        page = self.head.geometry.page_of(indices[0])
        first = self.head.geometry.page_chunks(page).start
        return [ev.Recheck(tuple(indices), first, self._asking.leaves.page(page))]

    def _on_rechecked(self, event: ev.Rechecked, now: float) -> None:
        self._rechecking -= 1
        for index in event.good:
            self.doubtful.clear(index)
            self._asking.chunks.give_up(index)
            self._present(index, now)
        for index in event.bad:
            self.doubtful.clear(index)
            self._ask_again(index)

    def _on_adopted(self, index: int, now: float) -> list[ev.Effect]:
        if not self.wants(index):
            return []
        self._patience.heard(now)
        self.doubtful.add(index)
        return self._recheck([index]) if self.leaf(index) is not None else []

    def _on_bad(self, index: int) -> None:
        if self._asking.chunks.landed(index):  # else asked for by an earlier process: no strike
            self._strikes.bad_chunk(index)
            self._ask_again(index)

    def _on_refused(self, token: int, refusal: Refusal, now: float) -> None:
        if not self._release(token):
            return
        self._patience.heard(now)
        if (error := final_refusal(refusal)) is not None:
            raise error
        if refusal.reason is RefusalReason.STALE:
            self._on_stale()
            return
        waiting = Waiting(str(refusal.reason), refusal.detail, refusal.done, refusal.total)
        self._patience.refused(waiting, now, refusal.retry_after_ms / 1000 or None)

    def _on_stale(self) -> None:
        self._strikes.stale()
        if self.phase in (Phase.RUNNING, Phase.RECOVERING):
            self.phase = Phase.OPENING
        self._asking.begin(self.head)

    def _on_sync_lost(self, durable: Bitmap) -> None:
        self._strikes.sync_failed()
        if self.phase is Phase.VERIFYING:
            self.phase = Phase.RUNNING
        for index in durable.missing():
            if self.bitmap.clear(index):
                self._ask_again(index)

    def _on_read_back(self, matches: bool, now: float) -> list[ev.Effect]:
        if matches:
            if self._single_group:
                return [self._step("publish", ev.Publish(), Phase.PUBLISHING)]
            return [self._step("commit", ev.Commit(Phase.PUBLISHING), Phase.VERIFYING)]
        self._strikes.read_back_wrong()
        assert self.head is not None
        self.phase = Phase.RECOVERING
        self.doubtful.fill(0, self.doubtful.count)
        self.bitmap = Bitmap(self.bitmap.count)
        self._asking.begin(self.head)
        self._patience.heard(now)
        return []

    def _on_space_gone(self, detail: str, step: bool, now: float) -> None:
        self._patience.disk_full(detail)
        if step:
            if self._busy_with == "commit":
                self._dirty.restore(now)
            self._busy_with = None

    def _on_space_back(self, now: float) -> list[ev.Effect]:
        self._patience.disk_free(now)
        if self._unprepared and self.head is not None and self._busy_with is None:
            return [self._step("prepare", ev.Prepare(self.head), Phase.OPENING)]
        return []

    # ------------------------------------------------------------ going on

    def _advance(self, now: float) -> list[ev.Effect]:
        if self._patience.full or self._busy_with == "prepare":
            return self._commit_if_due(now)
        self._give_up_overdue(now)
        if self._asks_now:
            self._patience.check(now)
        effects = self._go_on(now)
        self._patience.expect(now, self._asking.awaiting or not self._patience.may_ask(now))
        return effects + self._commit_if_due(now)

    def _go_on(self, now: float) -> list[ev.Effect]:
        """What the phase asks for."""
        effects: list[ev.Effect] = []
        if self.phase is Phase.OPENING:
            if self._patience.may_ask(now) and self._busy_with is None:
                effects += self._asking.ask_open(now)
        elif self.phase in (Phase.RUNNING, Phase.RECOVERING):
            if self.phase is Phase.RECOVERING and not self.doubtful.present:
                self.phase = Phase.RUNNING
            if self._whole:
                return self._complete()
            if self._patience.may_ask(now):
                effects += self._ask(now)
        elif self.phase is Phase.VERIFYING and self._busy_with is None:
            effects.append(self._step("read back", ev.ReadBack(), Phase.VERIFYING))
        elif self.phase is Phase.PUBLISHING and self._busy_with is None:
            effects.append(self._step("publish", ev.Publish(), Phase.PUBLISHING))
        return effects

    def _complete(self) -> list[ev.Effect]:
        """Everything is in the part file: make it durable, then read it back."""
        self._asking.begin(self.head)
        self._patience.satisfied()
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

    def _ask(self, now: float) -> list[ev.Effect]:
        """Ask for leaves, and for chunks whose leaves are here; some are known without asking."""
        leaves = self._asking.leaves
        assert self.head is not None
        assert leaves is not None
        effects: list[ev.Effect] = []
        pages = self._asking.wanted_pages(self.bitmap)
        known = {page for page in pages if leaves.add_known(page)}
        for page in sorted(known):
            effects += self._open_page(page)
        effects += self._asking.ask_pages(set(pages) - known, now)
        size = self.head.geometry.chunk_size_bytes
        return effects + self._asking.ask_chunks(size, self.bitmap, self.doubtful, now)

    # ------------------------------------------------------------ small pieces

    @property
    def _whole(self) -> bool:
        return self.bitmap.complete and not self.doubtful.present and not self._rechecking

    @property
    def _single_group(self) -> bool:
        """Nothing of it was ever committed, nor need be: one commit group is the whole file."""
        return (
            not self._ever_committed
            and self.head is not None
            and self.head.geometry.size_bytes <= self._dirty.limit_bytes
        )

    def _resume(self, resumed: ev.Resumed) -> None:
        self.head, self.bitmap = resumed.head, resumed.bitmap.copy()
        self._asking.begin(resumed.head)
        self.doubtful = Bitmap(self.bitmap.count)
        self.phase = resumed.phase
        if self.phase is Phase.RECOVERING or not self.bitmap.complete:
            self.phase = max(Phase.RUNNING, min(self.phase, Phase.RECOVERING))
        if self.phase is Phase.RECOVERING:
            for index in self.bitmap.missing():
                self.doubtful.add(index)
        self._mark_zero_pages()

    def _mark_zero_pages(self) -> None:
        """Pages that hold nothing but holes are known from the head alone."""
        assert self.head is not None
        if self.doubtful.present:
            return
        for page in range(self.head.geometry.page_count):
            if is_zero_page(self.head, page):
                chunks = self.head.geometry.page_chunks(page)
                self.bitmap.fill(chunks.start, len(chunks))

    def _present(self, index: int, now: float) -> None:
        assert self.head is not None
        self._patience.heard(now, progress=True)
        if self.bitmap.add(index):
            self._dirty.add(self.head.geometry.length(index), now)
        if self._asking.leaves is not None:
            self._asking.leaves.drop_if_done(self.head.geometry.page_of(index), self.bitmap)

    def _ask_again(self, index: int) -> None:
        self._asking.chunks.give_up(index)
        if self.head is not None and index not in self.bitmap:
            self._asking.again(index, self.head.geometry.page_of(index))

    def _release(self, token: int) -> bool:
        """Give up a request; True if it was still one of ours."""
        indices = self._asking.release(token)
        for index in indices or ():
            self._ask_again(index)
        return indices is not None

    def _give_up_overdue(self, now: float) -> None:
        chunks, late = self._asking.overdue(now)
        for index in chunks:
            self._ask_again(index)
        if late:
            self._patience.timed_out(now, self._window.rto_s)

    def _fail(self, error: ChunkqError) -> ev.Finish:
        if isinstance(error, PacketError):  # a page that does not prove: the origin's head lies
            error = IntegrityError(f"the origin's manifest does not hold: {error.message}")
        self.finished = True
        self.phase = Phase.FAILED
        self._asking.begin(None)
        return ev.Finish(error)
