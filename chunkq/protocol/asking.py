"""What a transfer asks for: leaves and chunks of one version, and the requests under way."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count

from chunkq.protocol import transfer_events as ev
from chunkq.protocol.asks import Asks
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import to_ranges
from chunkq.protocol.leaves import MAX_PAGES, Leaves
from chunkq.protocol.limits import MAX_BYTES_PER_REQUEST, MAX_CHUNKS_PER_REQUEST
from chunkq.protocol.manifest import Head
from chunkq.protocol.missing import Missing
from chunkq.protocol.window import Window


class Asking:
    """The requests of one transfer. A token stands for one request and is never used twice."""

    def __init__(self, window: Window) -> None:
        self.chunks = Asks(window)
        self.leaves: Leaves | None = None
        #: Whether it would ask for more if the window had room.
        self.hungry = False
        self._window = window
        self._tokens = count(1)
        self._missing = Missing()
        #: Requests for the manifest (no pages) and for pages: when, and which are still to come.
        self._others: dict[int, tuple[float, tuple[int, ...]]] = {}
        #: Requests for the manifest whose answer is of use, those given up included.
        self._opens: set[int] = set()

    @property
    def awaiting(self) -> bool:
        """Whether an answer is awaited of the peer: what has landed only needs our disk."""
        return bool(self._others or self.chunks.waiting)

    @property
    def starved(self) -> bool:
        """Others have the whole window: nobody may tell when there is room."""
        return self.hungry and not self.awaiting

    def begin(self, head: Head | None) -> None:
        """Forget what was asked for; from now on it is about this version."""
        self.chunks.clear()
        self._others.clear()
        self._opens.clear()
        self.hungry = False
        self._missing = Missing()
        self.leaves = None if head is None else Leaves(head)

    # ------------------------------------------------------------ asking

    def ask_open(self, now: float) -> list[ev.Effect]:
        """Ask for the manifest, unless that is under way."""
        if self._others:
            return []
        token = next(self._tokens)
        self._others[token] = (now, ())
        self._opens.add(token)
        return [ev.AskOpen(token)]

    def wanted_pages(self, present: Bitmap) -> list[int]:
        """The next pages of leaves to be had, once half of the room for them is free."""
        assert self.leaves is not None
        asked = {page for _, pages in self._others.values() for page in pages}
        room = MAX_PAGES - len(self.leaves) - len(asked)
        if room < MAX_PAGES // 2 and not (self.leaves.urgent and not asked):
            return []
        pages: list[int] = []
        for page in self.leaves.wanted(present):
            if page not in asked and page not in self.leaves:
                pages.append(page)
                if len(pages) >= room:
                    break
        return pages

    def ask_pages(self, pages: Iterable[int], now: float) -> list[ev.Effect]:
        wanted = tuple(sorted(pages))
        if not wanted:
            return []
        token = next(self._tokens)
        self._others[token] = (now, wanted)
        return [ev.AskPages(token, tuple(to_ranges(wanted)))]

    def ask_chunks(
        self, chunk_size_bytes: int, present: Bitmap, doubtful: Bitmap, now: float
    ) -> list[ev.Effect]:
        """Ask for as many chunks as the window has room for, and whose leaves are here."""
        effects: list[ev.Effect] = []
        most = min(MAX_CHUNKS_PER_REQUEST, MAX_BYTES_PER_REQUEST // chunk_size_bytes)
        while picked := self._pick(min(self._window.room, most), present, doubtful):
            token = next(self._tokens)
            for index in picked:
                self.chunks.add(index, token, now)
            effects.append(ev.AskChunks(token, tuple(to_ranges(sorted(picked)))))
        self.hungry = self._window.room < self._window.batch
        return effects

    def _pick(self, room: int, present: Bitmap, doubtful: Bitmap) -> list[int]:
        """Up to `room` chunks for one request; none if it is not worth one yet."""
        leaves = self.leaves
        assert leaves is not None
        if room < self._window.batch and self.chunks.waiting:
            return []
        return self._missing.pick(
            room,
            present=present,
            skip=lambda index: index in doubtful or index in self.chunks,
            known=lambda index: leaves.leaf(index) is not None,
        )

    # ------------------------------------------------------------ what comes of it

    def opened(self, token: int) -> bool:
        """A manifest came; True if it was asked for, be it too long ago for our timer.

        Where the round trip is longer than the timer, every answer is late. Token 0: an earlier
        process asked.
        """
        if token and token not in self._opens:
            return False
        for other in self._opens:
            self._others.pop(other, None)
        return True

    def page_came(self, page: int, now: float) -> bool:
        """A page came; True if it is of use, whichever request it answers: the head proves it."""
        for token, (_, pages) in self._others.items():
            if page in pages:
                rest = tuple(other for other in pages if other != page)
                if rest:
                    self._others[token] = (now, rest)
                else:
                    del self._others[token]
                return True
        return self.leaves is not None and self.leaves.take_wanted(page)

    def again(self, index: int, page: int) -> None:
        """This chunk is missing after all: ask for it anew, and for its leaf if need be."""
        self.chunks.give_up(index)
        self._missing.again(index)
        if self.leaves is not None:
            self.leaves.want(page)

    def release(self, token: int) -> list[int] | None:
        """Give up a request: its chunks, to be asked for again; None if it is not under way."""
        known = self._others.pop(token, None)
        if known is not None and self.leaves is not None:
            for page in known[1]:
                self.leaves.want(page)
        indices = self.chunks.refused(token)
        return None if known is None and not indices else indices

    def overdue(self, now: float) -> tuple[list[int], bool]:
        """Chunks that did not come in time, and whether anything did not."""
        timeout = self.chunks.timeout_s
        late_tokens = [token for token, (at, _) in self._others.items() if at + timeout <= now]
        for token in late_tokens:
            self.release(token)
        late = self.chunks.overdue(now)
        if late_tokens and not late:
            self.chunks.back_off()
        return late, bool(late or late_tokens)

    @property
    def next_deadline_s(self) -> float | None:
        times = [at + self.chunks.timeout_s for at, _ in self._others.values()]
        if (deadline := self.chunks.next_deadline_s) is not None:
            times.append(deadline)
        return min(times, default=None)
