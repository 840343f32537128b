"""One origin of a transfer: what was asked of it, how it behaves, and whether it is still in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from chunkq.errors import ChunkqError
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.asks import Asks
from chunkq.protocol.geometry import to_ranges
from chunkq.protocol.manifest import Head
from chunkq.protocol.patience import Patience
from chunkq.protocol.window import Window

#: So many arrivals tell what a lane brings of late: enough that bursts of a worker are even.
RECENT_ARRIVALS: Final = 64


class Lane:
    """What a transfer has under way at one origin. A token is never used twice, in any lane."""

    def __init__(
        self, number: int, window: Window, patience: Patience, tokens: Iterator[int]
    ) -> None:
        self.number = number
        self.window = window
        self.patience = patience
        self.chunks = Asks(window)
        #: Why nothing is asked of it any more.
        self.left: ChunkqError | None = None
        #: It left because its version is another: it may come back when nobody else is left.
        self.may_return = False
        #: It is known to have this version, or was when the transfer was stopped.
        self.joined = False
        #: It has let its timer run out and has not been heard since.
        self.silent = False
        #: Whether it would be asked for more if its window had room.
        self.hungry = False
        #: Its manifest, until one of those offered is chosen.
        self.offer: Head | None = None
        self._tokens = tokens
        #: When the latest chunks came, as long as something was under way all the time.
        self._arrivals: deque[float] = deque(maxlen=RECENT_ARRIVALS)
        #: Requests for the manifest (no pages) and for pages: when, and which are still to come.
        self._others: dict[int, tuple[float, tuple[int, ...]]] = {}
        #: Requests for the manifest whose answer is of use, those given up included.
        self._opens: set[int] = set()

    @property
    def awaiting(self) -> bool:
        """Whether an answer is awaited: what has landed only needs our disk."""
        return bool(self._others or self.chunks.waiting)

    @property
    def has_room(self) -> bool:
        """Whether its window has room for a request that is worth it beside others."""
        return self.window.room >= self.window.batch

    @property
    def starved(self) -> bool:
        """Others have the whole window: nobody may tell when there is room."""
        return self.hungry and not self.awaiting

    @property
    def pages(self) -> list[int]:
        """Pages that it was asked for and has not brought."""
        return [page for _, pages in self._others.values() for page in pages]

    def heard(self, now: float, *, progress: bool = False) -> None:
        """Something came from it. `progress`: what was asked for."""
        self.silent = False
        self.patience.heard(now, progress=progress)

    def arrived(self, now: float) -> None:
        """A chunk that was asked for here came."""
        self._arrivals.append(now)

    @property
    def pace(self) -> tuple[float, int]:
        """Chunks a second, and how many come before one asked for now.

        The window's rate is the best that it has seen, and some links let much pass at first: what
        came here of late counts, if that is less and no single burst.
        """
        rate, round_trip = self.window.rate_chunks_per_s, self.window.rtt_smoothed_s
        if rate and round_trip is not None and len(self._arrivals) > 1:
            span = self._arrivals[-1] - self._arrivals[0]
            if span > round_trip and (of_late := (len(self._arrivals) - 1) / span) < rate:
                return of_late, len(self.chunks)
        return rate, self.window.outstanding

    def begin(self, *, answers: bool = False) -> None:
        """Forget what was asked for; `answers`: but for the manifest, which is still of use."""
        self.chunks.clear()
        self._arrivals.clear()
        self.hungry = False
        if answers:
            self._others = {
                token: asked for token, asked in self._others.items() if token in self._opens
            }
        else:
            self._others.clear()
            self._opens.clear()

    def leave(self, error: ChunkqError, *, may_return: bool) -> None:
        """It is out."""
        self.begin()
        self.patience.satisfied()
        self.left, self.may_return = error, may_return
        self.joined, self.offer = False, None

    def come_back(self) -> None:
        """It is asked which version it has now."""
        self.left, self.may_return = None, False

    # ------------------------------------------------------------ asking

    def ask_open(self, now: float) -> list[ev.Effect]:
        """Ask for the manifest, unless something else is under way."""
        if self.awaiting:
            return []
        token = next(self._tokens)
        self._others[token] = (now, ())
        self._opens.add(token)
        return [ev.AskOpen(token, self.number)]

    def ask_pages(self, pages: Iterable[int], now: float) -> list[ev.Effect]:
        wanted = tuple(sorted(pages))
        if not wanted:
            return []
        token = next(self._tokens)
        self._others[token] = (now, wanted)
        return [ev.AskPages(token, tuple(to_ranges(wanted)), self.number)]

    def ask_chunks(self, indices: Iterable[int], now: float) -> ev.AskChunks:
        token = next(self._tokens)
        picked = sorted(indices)
        if not len(self.chunks):
            self._arrivals.clear()
        for index in picked:
            self.chunks.add(index, token, now)
        return ev.AskChunks(token, tuple(to_ranges(picked)), self.number)

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

    def offered(self, head: Head) -> None:
        """This is the manifest that it has now; other answers to that question are old."""
        self.offer = head
        self._opens.clear()

    def page_came(self, page: int, now: float) -> bool:
        """A page came, from whomever; True if it was asked for here."""
        for token, (_, pages) in self._others.items():
            if page in pages:
                rest = tuple(other for other in pages if other != page)
                if rest:
                    self._others[token] = (now, rest)
                else:
                    del self._others[token]
                return True
        return False

    def release(self, token: int) -> tuple[tuple[int, ...], list[int]] | None:
        """Give up a request: its pages and chunks; None if it is not under way."""
        known = self._others.pop(token, None)
        indices = self.chunks.refused(token)
        if known is None and not indices:
            return None
        return known[1] if known else (), indices

    def overdue(self, now: float) -> tuple[list[int], list[int]] | None:
        """Give up what did not come in time: pages and chunks; None if there is no such thing.

        A link that loses some goes on being heard; if this one was not for half of the timer,
        it is silent.
        """
        timeout = self.chunks.timeout_s
        late = [token for token, (at, _) in self._others.items() if at + timeout <= now]
        pages = [page for token in late for page in self._others.pop(token)[1]]
        chunks = self.chunks.overdue(now)
        if not late and not chunks:
            return None
        if not chunks:
            self.chunks.back_off()
        self.silent = self.silent or now - self.patience.heard_at_s >= timeout / 2
        return pages, chunks

    def give_up(self) -> tuple[list[int], list[int]]:
        """Give up whatever was asked for and has not landed: pages and chunks."""
        pages, chunks = self.pages, [index for index, _ in self.chunks.waiting_since()]
        self._others.clear()
        for index in chunks:
            self.chunks.give_up(index)
        return pages, chunks

    @property
    def next_deadline_s(self) -> float | None:
        times = [at + self.chunks.timeout_s for at, _ in self._others.values()]
        if (deadline := self.chunks.next_deadline_s) is not None:
            times.append(deadline)
        return min(times, default=None)
