"""What a transfer asks for: leaves and chunks of one version, from every origin that has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import count, islice
from typing import Final

from chunkq.errors import ChunkqError
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.holding import Holding
from chunkq.protocol.lane import Lane
from chunkq.protocol.leaves import MAX_PAGES, Leaves
from chunkq.protocol.limits import MAX_BYTES_PER_REQUEST, MAX_CHUNKS_PER_REQUEST
from chunkq.protocol.missing import Missing
from chunkq.protocol.patience import Patience
from chunkq.protocol.sharing import late_after_s, most_twice, shares, sooner
from chunkq.protocol.window import Window

#: How often a transfer looks whether others have left it room in the window.
STARVED_POLL_S: Final = 1.0


class Asking:
    """The requests of one transfer, over all of its lanes."""

    def __init__(
        self, windows: Sequence[Window], holding: Holding, now: float, patience_s: float
    ) -> None:
        tokens = count(1)
        #: One for each origin, in the order in which they were named.
        self.lanes = tuple(
            Lane(number, window, Patience(now, patience_s), tokens)
            for number, window in enumerate(windows)
        )
        #: Those that have not left.
        self.live = list(self.lanes)
        self.leaves: Leaves | None = None
        self._holding = holding
        self._missing = Missing()
        #: Chunks of this version that were asked for a second time to end sooner; of these, those
        #: that are under way at both.
        self._twice: set[int] = set()
        self._doubled: set[int] = set()
        #: Whether nothing is left that nobody was asked for.
        self._tail = False

    @property
    def in_flight(self) -> int:
        return sum(len(lane.chunks) for lane in self.lanes)

    def usable(self, lane: Lane) -> bool:
        """Whether a lane is asked for chunks; else only whether it is there and what it has."""
        return lane.joined and not (lane.silent and len(self.live) > 1)

    def begin(self, *, answers: bool = False) -> None:
        """Forget what was asked for; from now on it is about the version held.

        `answers`: those of the other origins to the question for the manifest are still of use.
        """
        for lane in self.lanes:
            lane.begin(answers=answers)
        self._missing = Missing()
        self._twice.clear()
        self._doubled.clear()
        self._tail = False
        self.leaves = None if self._holding.head is None else Leaves(self._holding.head)

    def end(self) -> None:
        """Nothing counts in any window any more."""
        self.begin()
        self.leaves = None

    # ------------------------------------------------------------ asking

    def ask_open(self, now: float, *, everybody: bool) -> list[ev.Effect]:
        """Ask for the manifest: everybody, or who is to say what it has, or that it is there."""
        effects: list[ev.Effect] = []
        for lane in self.live:
            if not everybody and self.usable(lane):
                continue
            lane.hungry = False
            if lane.offer is None and lane.patience.may_ask(now):
                effects += lane.ask_open(now)
        return effects

    def ask(self, now: float) -> list[ev.Effect]:
        """Ask for leaves, and for chunks whose leaves are here; some are known without asking."""
        leaves, held = self.leaves, self._holding
        assert leaves is not None
        lanes = [lane for lane in self.live if self.usable(lane) and lane.patience.may_ask(now)]
        if not lanes:
            return []
        effects: list[ev.Effect] = []
        pages = self._wanted_pages(leaves)
        known = {page for page in pages if leaves.add_known(page)}
        for page in sorted(known):
            effects += held.open_page(page, leaves)
        nearest = min(lanes, key=lambda lane: lane.window.rtt_smoothed_s or float("inf"))
        effects += nearest.ask_pages(set(pages) - known, now)
        return effects + self._ask_chunks(lanes, now)

    def _wanted_pages(self, leaves: Leaves) -> list[int]:
        """The next pages of leaves to be had, once half of the room for them is free."""
        asked = {page for lane in self.live for page in lane.pages}
        room = MAX_PAGES - len(leaves) - len(asked)
        if room < MAX_PAGES // 2 and not (leaves.urgent and not asked):
            return []
        pages: list[int] = []
        for page in leaves.wanted(self._holding.bitmap):
            if page not in asked and page not in leaves:
                pages.append(page)
                if len(pages) >= room:
                    break
        return pages

    def _ask_chunks(self, lanes: Sequence[Lane], now: float) -> list[ev.Effect]:
        """Ask for as many chunks as the windows have room for, and whose leaves are here."""
        held = self._holding
        assert held.head is not None
        for lane in lanes:
            lane.hungry = not lane.has_room
        if all(lane.hungry and lane.chunks.waiting for lane in lanes):
            return []
        most = MAX_BYTES_PER_REQUEST // held.head.geometry.chunk_size_bytes
        most = min(MAX_CHUNKS_PER_REQUEST, most)
        left = held.bitmap.count
        limits = [left]
        several = len(self.live) > 1
        if several:
            left -= held.bitmap.present + held.doubtful.present + self._outstanding()
            limits = shares(lanes, left, held.bitmap.count)
        effects: list[ev.Effect] = []
        before = self.in_flight
        for lane, limit in zip(lanes, limits, strict=True):
            effects += self._ask_lane(lane, (limit, most), now)
            lane.hungry = not lane.has_room
        self._tail = several and left <= self.in_flight - before
        if self._tail:
            effects += self._ask_twice(lanes, most, now)
        return effects

    def _outstanding(self) -> int:
        """Chunks under way, each counted once."""
        if self._doubled:
            under_way = [lane.chunks for lane in self.live]
            self._doubled = {
                index for index in self._doubled if sum(index in each for each in under_way) > 1
            }
        return self.in_flight - len(self._doubled)

    def _ask_lane(self, lane: Lane, limits: tuple[int, int], now: float) -> list[ev.Effect]:
        """`limits`: how many chunks in all, and in one request."""
        limit, most = limits
        effects: list[ev.Effect] = []
        while limit > 0 and (picked := self._pick(lane, min(limit, most))):
            limit -= len(picked)
            effects.append(lane.ask_chunks(picked, now))
        return effects

    def _pick(self, lane: Lane, most: int) -> list[int]:
        """Up to `most` chunks for one request; none if it is not worth one yet."""
        leaves, doubtful = self.leaves, self._holding.doubtful
        assert leaves is not None
        if lane.chunks.waiting and not lane.has_room:
            return []
        return self._missing.pick(
            min(lane.window.room, most),
            present=self._holding.bitmap,
            skip=lambda index: index in doubtful or self._asked(index),
            known=lambda index: leaves.leaf(index) is not None,
        )

    def _ask_twice(self, lanes: Sequence[Lane], most: int, now: float) -> list[ev.Effect]:
        """At the end: ask again what another lane will bring too late, within the bound for it."""
        effects: list[ev.Effect] = []
        for lane in lanes:
            may = most_twice(self._holding.bitmap.count) - len(self._twice)
            room = min(lane.window.room, most, may)
            others = [other for other in self.live if other is not lane and other.chunks.waiting]
            if room > 0 and (picked := sooner(lane, others, room, now, skip=self._twice)):
                self._twice.update(picked)
                self._doubled.update(picked)
                effects.append(lane.ask_chunks(picked, now))
        return effects

    # ------------------------------------------------------------ what comes of it

    def stored(self, lane: Lane, index: int, token: int | None, now: float) -> None:
        """A chunk of this lane is verified and written: nobody else need bring it."""
        if len(self.lanes) > 1:
            lane.arrived(now)
        lane.chunks.stored(index, token, now)
        for other in self.live:
            if other is not lane:
                other.chunks.give_up(index)

    def page_came(self, page: int, now: float) -> bool:
        """A page came; True if it is of use, whichever request it answers: the head proves it."""
        if any(lane.page_came(page, now) for lane in self.live):
            return True
        return self.leaves is not None and self.leaves.take_wanted(page)

    def give_up(self, index: int) -> None:
        """This chunk will come of nothing that was asked."""
        for lane in self.live:
            lane.chunks.give_up(index)

    def again(self, index: int) -> None:
        """This chunk is missing after all: ask for it anew."""
        self.give_up(index)
        self._miss(index)

    def dropped(self, lane: Lane, index: int) -> None:
        """What this lane brought is of no use."""
        lane.chunks.give_up(index)
        self._miss(index)

    def release(self, lane: Lane, token: int) -> bool:
        """Give up a request; True if it was still one of ours."""
        freed = lane.release(token)
        if freed is None:
            return False
        self.freed(*freed)
        return True

    def give_up_overdue(self, now: float) -> None:
        """Ask anew for what did not come in time; of a silent lane, for everything."""
        for lane in self.live:
            if (freed := lane.overdue(now)) is None:
                continue
            self.freed(*freed)
            lane.patience.timed_out(now, lane.window.rto_s)
            if lane.silent and len(self.live) > 1:
                self.freed(*lane.give_up())

    def freed(self, pages: Iterable[int], chunks: Iterable[int]) -> None:
        """These will not come of what was asked."""
        if self.leaves is not None:
            for page in pages:
                self.leaves.want(page)
        for index in chunks:
            self._miss(index)

    def _miss(self, index: int) -> None:
        """Ask for this chunk anew, and for its leaf if need be, unless another may bring it yet."""
        if self._holding.lacks(index) and not self._asked(index):
            self._missing.again(index)
            if self.leaves is not None:
                self.leaves.want(self._holding.page_of(index))

    def _asked(self, index: int) -> bool:
        """Whether a chunk is under way, at whatever lane."""
        return any(index in lane.chunks for lane in self.live)

    # ------------------------------------------------------------ who is in

    def leave(self, lane: Lane, error: ChunkqError, *, may_return: bool) -> None:
        """This lane is out; what it was asked for is for the others."""
        freed = lane.give_up()
        lane.leave(error, may_return=may_return)
        self.live.remove(lane)
        self.freed(*freed)  # what has landed is judged by itself

    def come_back(self) -> bool:
        """Let those in again that left for their version; True if there are any."""
        for lane in self.lanes:
            if lane.may_return:
                lane.come_back()
        self.live = [lane for lane in self.lanes if lane.left is None]
        return bool(self.live)

    @property
    def verdict(self) -> ChunkqError:
        """The error of a transfer that nobody is left for: one that may pass, or the first's."""
        errors = [lane.left for lane in self.lanes if lane.left is not None]
        return next((error for error in errors if error.retry), errors[0])

    def first_offer(self, since: float, now: float) -> Lane | None:
        """The first named that has offered a manifest, once no earlier one is hoped for.

        `since`: when they were asked.
        """
        for lane in self.live:
            if lane.offer is not None:
                return lane
            if now < since + lane.window.rto_s:
                return None
        return None

    def hopes_s(self, since: float, now: float) -> list[float]:
        """When an offer that is here would no longer wait for one of those named before it."""
        if not any(lane.offer is not None for lane in self.live):
            return []
        ends = (since + lane.window.rto_s for lane in self.live if lane.offer is None)
        return [end for end in ends if end > now]

    # ------------------------------------------------------------ time

    def expect(self, now: float) -> None:
        for lane in self.live:
            lane.patience.expect(now, lane.awaiting or not lane.patience.may_ask(now))

    def exhausted(self, now: float) -> ChunkqError | None:
        """The error that it means if everybody has been silent for too long."""
        errors = [lane.patience.exhausted(now) for lane in self.live]
        return None if None in errors else errors[0]

    def satisfied(self) -> None:
        """Nothing is needed of anybody any more."""
        for lane in self.live:
            lane.patience.satisfied()

    def all_heard(self, now: float, *, progress: bool = False) -> None:
        """We were busy with ourselves: nobody's silence counts until now."""
        for lane in self.live:
            lane.patience.heard(now, progress=progress)

    def renew(self, now: float) -> None:
        """The disk has room again."""
        for lane in self.live:
            lane.patience.renew(now)

    def next_wakes_s(self, now: float) -> list[float]:
        """When something asked for is overdue, late, or may be asked for again."""
        times: list[float] = []
        for lane in self.live:
            times += lane.patience.wakes_s(now)
            if lane.starved and lane.patience.may_ask(now):
                times.append(now + STARVED_POLL_S)
            if (deadline := lane.next_deadline_s) is not None:
                times.append(deadline)
            if self._tail:
                late_s = late_after_s(lane, (other for other in self.live if other is not lane))
                late = (at + late_s for _, at in lane.chunks.waiting_since())
                times += islice((at for at in late if at > now), 1)
        return times
