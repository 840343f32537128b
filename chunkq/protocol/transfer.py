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

from collections import Counter
from itertools import count
from typing import Final

from chunkq.errors import (
    ChunkqError,
    IntegrityError,
    NotFound,
    NotPermitted,
    PacketError,
    PeerRefused,
    PeerSilent,
    SourceChanging,
    SyncFailed,
)
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.asks import Asks
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import to_ranges
from chunkq.protocol.leaves import MAX_PAGES, Leaves
from chunkq.protocol.limits import (
    COMMIT_BYTES,
    COMMIT_INTERVAL_MS,
    MAX_BYTES_PER_REQUEST,
    MAX_CHUNKS_PER_REQUEST,
    MAX_REPAIR_ROUNDS,
)
from chunkq.protocol.manifest import Head, is_zero_page
from chunkq.protocol.messages import Refusal, RefusalReason
from chunkq.protocol.missing import Missing
from chunkq.protocol.transfer_events import Phase, Waiting
from chunkq.protocol.window import Window

#: How often the source may change under a transfer before it says so and gives up.
MAX_VERSIONS: Final = 16
#: A request for fewer chunks than this waits for more room, unless nothing else is under way.
MIN_BATCH_CHUNKS: Final = 8
#: The wait after `busy`, a lost carrier or a full disk, if nothing better is known.
RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 60.0
#: No reply for so many timeouts is worth a word to the user.
SILENT_TIMEOUTS: Final = 2


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
        self.waiting: Waiting | None = None
        self.finished = False
        #: Whether it would ask for more if the window had room.
        self.hungry = False
        self.uncommitted_bytes = 0
        self._window = window
        self._patience_s = patience_s
        self._asks = Asks(window)
        self._tokens = count(1)
        self._leaves: Leaves | None = None
        self._missing = Missing()
        self._other_asks: dict[int, tuple[float, tuple[int, ...]]] = {}
        self._bad: Counter[int] = Counter()
        self._rechecking = 0
        self.version = 0
        self._stale = 0
        self._repairs = 0
        self._sync_failures = 0
        self._retry_at = now
        self._retry_s = RETRY_S
        self._heard_at = self._now = now
        self._dirty_since: float | None = None
        self._busy_with: str | None = None
        self._ever_committed = resumed is not None or doubt_all
        self._full = False
        self._doubt_all = doubt_all
        self._commit_bytes = commit_bytes
        self._commit_interval_s = commit_interval_s
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
        return None if self._leaves is None else self._leaves.leaf(index)

    @property
    def next_wake_s(self) -> float | None:
        """When to send the next `Tick`, at the latest; None: only an event helps."""
        if self.finished:
            return None
        times: list[float] = []
        if self._dirty_since is not None and self._busy_with is None:
            times.append(self._dirty_since + self._commit_interval_s)
        if self.phase <= Phase.RECOVERING and not self._full and self._busy_with != "prepare":
            times.append(self._heard_at + self._patience_s)
            if self._retry_at > self._now:
                times.append(self._retry_at)
            if (deadline := self._asks.next_deadline_s) is not None:
                times.append(deadline)
            times += [at + self._asks.timeout_s for at, _ in self._other_asks.values()]
        return min(times, default=None)

    @property
    def in_flight(self) -> int:
        return len(self._asks)

    def abandon(self) -> None:
        """It ends here for now: nothing outstanding counts in the window any more."""
        self.finished = True
        self._asks.clear()

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
                self._release(token)
                self._wait(waiting, now)
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
                self._heard(now)
                self._asks.land(index)
            case ev.ChunkStored(index, token):
                self._asks.stored(index, token, now)
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
                self.phase = Phase.RECOVERING if self.doubtful.present else Phase.RUNNING
                self._heard(now)
            case ev.Committed(phase):
                self._ever_committed = True
                self._sync_failures = 0
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
        if self._other_asks.pop(event.token, None) is None or self.phase is not Phase.OPENING:
            return []
        if self._busy_with is not None:  # a commit of the old version is under way: ask once more
            self._retry_at = now + RETRY_S / 10
            return []
        self._heard(now)
        self._retry_s = RETRY_S
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
        self._forget_asks()
        self._mark_zero_pages()
        return [self._step("prepare", ev.Prepare(head), Phase.OPENING)]

    def _on_page(self, event: ev.PageCame, now: float) -> list[ev.Effect]:
        ask = self._other_asks.get(event.token)
        if ask is None or self.head is None or event.page not in ask[1]:
            return []
        assert self._leaves is not None
        self._leaves.add(event.page, event.leaves)
        self._heard(now)
        self._retry_s = RETRY_S
        rest = tuple(page for page in ask[1] if page != event.page)
        if rest:
            self._other_asks[event.token] = (now, rest)
        else:
            del self._other_asks[event.token]
        return self._open_page(event.page)

    def _open_page(self, page: int) -> list[ev.Effect]:
        """Leaves of `page` are here: mark its holes, and recheck what is doubtful."""
        assert self.head is not None
        assert self._leaves is not None
        doubtful = [i for i in self.head.geometry.page_chunks(page) if i in self.doubtful]
        holes = [
            index
            for index in self._leaves.holes(page)
            if index not in self.doubtful and self.bitmap.add(index)
        ]
        effects = self._recheck(doubtful)
        if holes:
            effects.append(ev.Punch(tuple(to_ranges(holes))))
        self._leaves.drop_if_done(page, self.bitmap)
        return effects

    def _recheck(self, indices: list[int]) -> list[ev.Effect]:
        assert self.head is not None
        assert self._leaves is not None
        if not indices:
            return []
        self._rechecking += 1
        page = self.head.geometry.page_of(indices[0])
        first = self.head.geometry.page_chunks(page).start
        return [ev.Recheck(tuple(indices), first, self._leaves.page(page))]

    def _on_rechecked(self, event: ev.Rechecked, now: float) -> None:
        self._rechecking -= 1
        for index in event.good:
            self.doubtful.clear(index)
            self._asks.give_up(index)
            self._present(index, now)
        for index in event.bad:
            self.doubtful.clear(index)
            self._ask_again(index)

    def _on_adopted(self, index: int, now: float) -> list[ev.Effect]:
        if not self.wants(index):
            return []
        self._heard(now)
        self.doubtful.add(index)
        return self._recheck([index]) if self.leaf(index) is not None else []

    def _on_bad(self, index: int) -> None:
        self._bad[index] += 1
        if self._bad[index] >= MAX_REPAIR_ROUNDS:
            raise IntegrityError(
                f"chunk {index} came {MAX_REPAIR_ROUNDS} times with bytes that do not match"
                " the signed manifest",
                hint="the origin's disk or memory is failing, or it lies: tell its operator",
            )
        self._ask_again(index)

    def _on_refused(self, token: int, refusal: Refusal, now: float) -> None:
        if not self._release(token):
            return
        self._heard(now)
        reason, detail = refusal.reason, refusal.detail
        match reason:
            case RefusalReason.NOT_FOUND:
                raise NotFound(detail or "no such file there, or this site may not see it")
            case RefusalReason.NOT_PERMITTED:
                raise NotPermitted(detail or "the origin does not permit it")
            case RefusalReason.TOO_LARGE | RefusalReason.UNSUPPORTED:
                raise PeerRefused(detail or f"the origin refused: {reason}")
            case RefusalReason.STALE:
                self._on_stale()
            case RefusalReason.EXPIRED | RefusalReason.CLOCK_SKEW:
                self._wait(Waiting(str(reason), detail), now)
            case RefusalReason.PREPARING | RefusalReason.BUSY:
                self._wait(Waiting(str(reason), detail, refusal.done, refusal.total), now)
                if refusal.retry_after_ms:
                    self._retry_at = now + min(refusal.retry_after_ms / 1000, MAX_RETRY_S)

    def _on_stale(self) -> None:
        self._stale += 1
        if self._stale > MAX_VERSIONS:
            raise SourceChanging(
                f"the source changed {MAX_VERSIONS} times while it was read",
                hint="wait until it is no longer written to, then run the same command again",
            )
        if self.phase in (Phase.RUNNING, Phase.RECOVERING):
            self.phase = Phase.OPENING
        self._forget_asks()

    def _on_sync_lost(self, durable: Bitmap) -> None:
        self._sync_failures += 1
        if self._sync_failures >= MAX_REPAIR_ROUNDS:
            raise SyncFailed(
                f"the disk failed to sync the part file {MAX_REPAIR_ROUNDS} times in a row",
                hint="look at the kernel's log; the disk may be dying",
            )
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
        self._repairs += 1
        if self._repairs > MAX_REPAIR_ROUNDS:
            raise IntegrityError(
                f"the file was read back wrong {self._repairs} times",
                hint="this disk loses or alters data, or the origin signed a digest that is wrong",
            )
        assert self.head is not None
        self.phase = Phase.RECOVERING
        self.doubtful.fill(0, self.doubtful.count)
        self.bitmap = Bitmap(self.bitmap.count)
        self._forget_asks()
        self._heard(now)
        return []

    def _on_space_gone(self, detail: str, step: bool, now: float) -> None:
        self._full = True
        self.waiting = Waiting("disk_full", detail)
        if step:
            self._busy_with = None
            self._dirty_since = now if self.bitmap.present else None

    def _on_space_back(self, now: float) -> list[ev.Effect]:
        self._full = False
        self.waiting = None
        self._heard(now)
        if self.phase is Phase.OPENING and self.head is not None and self._busy_with is None:
            return [self._step("prepare", ev.Prepare(self.head), Phase.OPENING)]
        return []

    # ------------------------------------------------------------ going on

    def _advance(self, now: float) -> list[ev.Effect]:
        if self._full or self._busy_with == "prepare":
            return self._commit_if_due(now)
        self._give_up_overdue(now)
        if now - self._heard_at >= self._patience_s and self.phase <= Phase.RECOVERING:
            raise PeerSilent(
                f"no answer for {now - self._heard_at:.0f} s",
                hint="is `chunkq serve` running there, and does its clock agree with ours? "
                "Run the same command again to go on",
            )
        effects: list[ev.Effect] = []
        if self.phase is Phase.OPENING:
            effects += self._ask_open(now)
        elif self.phase in (Phase.RUNNING, Phase.RECOVERING):
            if self.phase is Phase.RECOVERING and not self.doubtful.present:
                self.phase = Phase.RUNNING
            if self._whole:
                return self._complete()
            if self._retry_at <= now:
                effects += self._ask_pages(now)
                effects += self._ask_chunks(now)
        elif self.phase is Phase.VERIFYING and self._busy_with is None:
            effects.append(self._step("read back", ev.ReadBack(), Phase.VERIFYING))
        elif self.phase is Phase.PUBLISHING and self._busy_with is None:
            effects.append(self._step("publish", ev.Publish(), Phase.PUBLISHING))
        return effects + self._commit_if_due(now)

    def _complete(self) -> list[ev.Effect]:
        """Everything is in the part file: make it durable, then read it back."""
        if self._busy_with is not None:
            return []
        self.waiting = None
        self._forget_asks()
        if self._single_group:
            return [self._step("read back", ev.ReadBack(), Phase.VERIFYING)]
        return [self._step("commit", ev.Commit(Phase.VERIFYING), self.phase)]

    def _commit_if_due(self, now: float) -> list[ev.Effect]:
        if self._dirty_since is None or self._busy_with is not None:
            return []
        young = now - self._dirty_since < self._commit_interval_s
        if self.uncommitted_bytes < self._commit_bytes and young:
            return []
        return [self.commit()]

    def commit(self) -> ev.Commit:
        """A commit of what there is, under the present phase (when due, at a pause, at a stop)."""
        effect = ev.Commit(self.phase)
        self._step("commit", effect, self.phase)
        return effect

    def _step(self, what: str, effect: ev.Effect, phase: Phase) -> ev.Effect:
        self._busy_with = what
        self.phase = phase
        if what == "commit":
            self._dirty_since = None
            self.uncommitted_bytes = 0
        return effect

    def _ask_open(self, now: float) -> list[ev.Effect]:
        if self._other_asks or self._retry_at > now or self._busy_with == "prepare":
            return []
        token = next(self._tokens)
        self._other_asks[token] = (now, ())
        return [ev.AskOpen(token)]

    def _ask_pages(self, now: float) -> list[ev.Effect]:
        """Ask for the next pages of leaves when half of the room for them is free."""
        assert self._leaves is not None
        asked = {page for _, pages in self._other_asks.values() for page in pages}
        room = MAX_PAGES - len(self._leaves) - len(asked)
        if room < MAX_PAGES // 2 and not (self._leaves.urgent and not asked):
            return []
        effects: list[ev.Effect] = []
        pages: list[int] = []
        for page in self._leaves.wanted(self.bitmap):
            if page in asked or page in self._leaves:
                continue
            if self._leaves.add_zeros(page):
                effects += self._open_page(page)
            else:
                pages.append(page)
            room -= 1
            if room <= 0:
                break
        if pages:
            token = next(self._tokens)
            self._other_asks[token] = (now, tuple(pages))
            effects.append(ev.AskPages(token, tuple(to_ranges(sorted(pages)))))
        return effects

    def _ask_chunks(self, now: float) -> list[ev.Effect]:
        effects: list[ev.Effect] = []
        while True:
            picked = self._pick(min(self._window.room, MAX_CHUNKS_PER_REQUEST))
            if not picked:
                self.hungry = self._window.room < MIN_BATCH_CHUNKS
                return effects
            token = next(self._tokens)
            for index in picked:
                self._asks.add(index, token, now)
            effects.append(ev.AskChunks(token, tuple(to_ranges(sorted(picked)))))

    def _pick(self, room: int) -> list[int]:
        """Up to `room` chunks to ask for in one request; none if it is not worth one yet."""
        assert self.head is not None
        batch = min(MIN_BATCH_CHUNKS, max(1, self._window.limit // 4))
        if room < batch and self._asks.waiting:
            return []
        return self._missing.pick(
            min(room, MAX_BYTES_PER_REQUEST // self.head.geometry.chunk_size_bytes),
            present=self.bitmap,
            skip=lambda index: index in self.doubtful or index in self._asks,
            known=lambda index: self.leaf(index) is not None,
        )

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
            and self.head.geometry.size_bytes <= self._commit_bytes
        )

    def _resume(self, resumed: ev.Resumed) -> None:
        self.head, self.bitmap = resumed.head, resumed.bitmap
        self._leaves = Leaves(resumed.head)
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
        self._heard(now)
        self._retry_s = RETRY_S
        if self.bitmap.add(index):
            self.uncommitted_bytes += self.head.geometry.length(index)
            if self._dirty_since is None:
                self._dirty_since = now
        if self._leaves is not None:
            self._leaves.drop_if_done(self.head.geometry.page_of(index), self.bitmap)

    def _ask_again(self, index: int) -> None:
        self._asks.give_up(index)
        if self.head is not None and index not in self.bitmap:
            self._missing.again(index)
            if self._leaves is not None:
                self._leaves.want(self.head.geometry.page_of(index))

    def _release(self, token: int) -> bool:
        """Give up a request; True if it was still one of ours."""
        known = self._other_asks.pop(token, None)
        if known is not None and self._leaves is not None:
            for page in known[1]:
                self._leaves.want(page)
        indices = self._asks.refused(token)
        for index in indices:
            self._ask_again(index)
        return known is not None or bool(indices)

    def _forget_asks(self) -> None:
        self._asks.clear()
        self._other_asks.clear()
        self._missing = Missing()
        self._leaves = None if self.head is None else Leaves(self.head)

    def _give_up_overdue(self, now: float) -> None:
        late = self._asks.overdue(now)
        for index in late:
            self._ask_again(index)
        timeout = self._asks.timeout_s
        for token, (at, _) in list(self._other_asks.items()):
            if at + timeout <= now:
                self._release(token)
                late.append(-1)
        if late and now - self._heard_at > SILENT_TIMEOUTS * self._window.rto_s:
            silence = f"no answer for {now - self._heard_at:.0f} s"
            self.waiting = self.waiting or Waiting("peer_silent", silence)

    def _wait(self, waiting: Waiting, now: float) -> None:
        self.waiting = waiting
        self._retry_at = now + self._retry_s
        self._retry_s = min(self._retry_s * 2, MAX_RETRY_S)

    def _heard(self, now: float) -> None:
        self._heard_at = now
        if self._retry_at <= now and not self._full:
            self.waiting = None

    def _fail(self, error: ChunkqError) -> ev.Finish:
        if isinstance(error, PacketError):  # a page that does not prove: the origin's head lies
            error = IntegrityError(f"the origin's manifest does not hold: {error.message}")
        self.finished = True
        self.phase = Phase.FAILED
        self._asks.clear()
        return ev.Finish(error)
