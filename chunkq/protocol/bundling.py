"""Getting small files in bundles: `handle(event, now) -> effects`, no I/O.

    QUEUED    the walk came by it, or it must be asked for again
    ASKED     in a request under way
    PLACING   its bundle is here; it is being written and synced
    settled   placed, failed, or sent to be got alone; forgotten

    QUEUED  -> ASKED     the window has room, and there is a request's worth or little under way
    ASKED   -> PLACING   a bundle with it, be it the late answer to a request that was given up
    ASKED   -> QUEUED    silence, a refusal that passes; once each: `busy`, spoiled
    PLACING -> QUEUED    no room, a sync that failed

The window counts requests. A request asks for as many bytes as come in one bundle, at first few,
and twice as many after each full one that was answered at once: on a slow link bundles stay small.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from chunkq.errors import ChunkqError, NotFound
from chunkq.protocol import bundling_events as ev
from chunkq.protocol.bundle import OVERHEAD_SIZE_BYTES, RECORD_SIZE_BYTES
from chunkq.protocol.bundling_events import Small
from chunkq.protocol.limits import (
    KIB,
    MAX_FILES_PER_REQUEST,
    MAX_NAMES_SIZE_BYTES,
    MAX_REPAIR_ROUNDS,
    MAX_SMALL_FILE_SIZE_BYTES,
    MAX_WINDOW_BYTES,
)
from chunkq.protocol.messages import Refusal, RefusalReason
from chunkq.protocol.patience import Patience
from chunkq.protocol.strikes import final_refusal
from chunkq.protocol.transfer_events import Waiting
from chunkq.protocol.window import MAX_RTO_S, Sent, Window

#: What the first requests ask for: a chunk of the default size.
FIRST_BUNDLE_BYTES: Final = 256 * KIB
#: A full bundle that was placed so soon after the smallest round trip did not hold up the link: it
#: may be twice as large the next time.
QUICK_S: Final = 0.25
#: Silence makes them smaller again, down to this.
LEAST_BUNDLE_BYTES: Final = 32 * KIB
#: Less than a full request is asked for only while fewer than this are under way.
BUSY_ASKS: Final = 2
#: Requests that were given up and whose late answer is still of use.
MAX_OLD_ASKS: Final = 64
#: Unanswered rounds double the wait, up to this factor.
MAX_BACKOFF: Final = 64
#: How often a file comes back spoiled or `busy` before it goes alone.
MAX_SPOILED: Final = 2
#: What a name costs in a request beside its bytes.
_NAME_OVERHEAD_BYTES: Final = 3

_QUEUED: Final = 0
_PLACING: Final = -1


@dataclass(slots=True, eq=False)
class _Ask:
    """One request. `missing`: indices without an answer; `placing`: how many are being placed."""

    token: int
    files: tuple[Small, ...]
    sent: Sent
    at_s: float
    full: bool
    missing: set[int] = field(default_factory=set)
    placing: int = 0
    opening: int = 0


class Bundling:
    """The small files of one tree from one origin.

    `largest_bytes`: the largest body of a reply. `patience_s`: silence after which it ends.
    """

    def __init__(
        self, *, window: Window, largest_bytes: int, patience_s: float, now: float
    ) -> None:
        self.finished = False
        self._window = window
        self._largest_bytes = largest_bytes
        self._bundle_bytes = 0
        self._set_bundle_bytes(FIRST_BUNDLE_BYTES)
        self._patience = Patience(now, patience_s)
        self._tokens = count(1)
        #: Where each file stands that is not settled: _QUEUED, _PLACING, or its request's token.
        self._where: dict[Small, int] = {}
        self._queue: dict[Small, None] = {}
        self._queued_bytes = 0
        self._asks: dict[int, _Ask] = {}
        self._old: OrderedDict[int, _Ask] = OrderedDict()
        self._strikes: Counter[Small] = Counter()
        self._backoff = 1
        self._walk_ended = False
        self._full: Waiting | None = None
        self._now = now

    # ------------------------------------------------------------ what the driver asks

    @property
    def queued(self) -> int:
        """Files that wait to be asked for: the walk is ahead by so many."""
        return len(self._queue)

    @property
    def waiting(self) -> Waiting | None:
        """Why nothing moves, if nothing does."""
        return self._full or self._patience.waiting

    def files_of(self, token: int) -> tuple[Small, ...]:
        """What a request asked for; empty if that is forgotten."""
        ask = self._asks.get(token) or self._old.get(token)
        return ask.files if ask else ()

    @property
    def next_wake_s(self) -> float | None:
        """When to send the next `Tick`, at the latest; None: only an event helps."""
        if self.finished or self._full is not None:
            return None
        times = self._patience.wakes_s(self._now)
        timeout = self._timeout_s
        times += [
            self._deadline_s(ask, timeout) for ask in self._asks.values() if self._is_awaited(ask)
        ]
        return min(times, default=None)

    # ------------------------------------------------------------ events

    def handle(self, event: ev.Event, now: float) -> list[ev.Effect]:
        """Take one event, return what is to be done, in that order."""
        if self.finished:
            return []
        self._now = now
        effects = self._take(event, now)
        return effects + self._advance(now)

    def _take(self, event: ev.Event, now: float) -> list[ev.Effect]:
        match event:
            case ev.Landed(token):
                self._on_landed(token, now)
            case ev.Opened():
                return self._on_opened(event, now)
            case ev.Spoiled(token):
                return self._on_spoiled(token)
            case ev.Settled(token, files):
                for file in files:
                    self._forget(file)
                self._on_placed(token, len(files), now)
            case ev.Returned(token, files, error):
                effects = self._on_returned(files, error)
                self._on_placed(token, len(files), now)
                return effects
            case ev.Refused(token, refusal):
                return self._on_refused(token, refusal, now)
            case ev.AskFailed(token, waiting):
                if (ask := self._asks.get(token)) is not None:
                    self._give_up(ask)
                    self._patience.wait(waiting, now)
            case _:
                self._on_outside(event, now)
        return []

    def _on_outside(self, event: ev.Event, now: float) -> None:
        """The walk and the disk."""
        match event:
            case ev.Offered(files):
                self._enqueue(files)
            case ev.WalkEnded():
                self._walk_ended = True
            case ev.SpaceGone(detail):
                self._full = Waiting("disk_full", detail)
            case ev.SpaceBack():
                self._full = None
                self._patience.renew(now)
            case _:
                pass

    def _on_landed(self, token: int, now: float) -> None:
        self._patience.heard(now, progress=True)
        if (ask := self._asks.get(token) or self._old.get(token)) is not None:
            ask.opening += 1
            ask.at_s = now

    def _on_opened(self, event: ev.Opened, now: float) -> list[ev.Effect]:
        ask = self._asks.get(event.token) or self._old.get(event.token)
        if ask is None:
            return []
        ask.opening -= 1
        ask.at_s = now
        self._backoff = 1
        place = [index for index in event.good if self._claim(ask, index, _PLACING)]
        ask.placing += len(place)
        effects: list[ev.Effect] = [ev.Place(event.token, tuple(place))] if place else []
        for index in event.bad:
            if self._claim(ask, index, _QUEUED):
                effects += self._strike(ask.files[index])
        for index, reason in event.refused:
            if self._claim(ask, index, _QUEUED):
                effects += self._on_file_refused(ask.files[index], reason)
        self._close_if_done(ask, now)
        return effects

    def _on_file_refused(self, file: Small, reason: RefusalReason) -> list[ev.Effect]:
        if reason is RefusalReason.BUSY:
            return self._strike(file)
        self._forget(file)
        if reason is RefusalReason.NOT_FOUND:
            error = NotFound("no such file there, or this site may not see it")
            return [ev.Fail(file, error)]
        return [ev.GoAlone((file,))]

    def _on_spoiled(self, token: int) -> list[ev.Effect]:
        """Whatever it was meant to be: ask once more for what has not come, then get it alone."""
        ask = self._asks.get(token) or self._old.get(token)
        if ask is None:
            return []
        ask.opening -= 1
        files = [ask.files[index] for index in ask.missing]
        self._give_up(ask)
        effects: list[ev.Effect] = []
        for file in files:
            if self._where.get(file) == _QUEUED:
                effects += self._strike(file)
        return effects

    def _on_returned(self, files: tuple[Small, ...], error: ChunkqError | None) -> list[ev.Effect]:
        effects: list[ev.Effect] = []
        for file in files:
            self._strikes[file] += error is not None
            if error is not None and self._strikes[file] >= MAX_REPAIR_ROUNDS:
                self._forget(file)
                effects.append(ev.Fail(file, error))
            else:
                self._enqueue((file,))
        return effects

    def _on_refused(self, token: int, refusal: Refusal, now: float) -> list[ev.Effect]:
        ask = self._asks.get(token)
        if ask is None:
            return []
        self._patience.heard(now)
        files = [
            ask.files[index] for index in ask.missing if self._where[ask.files[index]] == token
        ]
        self._give_up(ask)
        if final_refusal(refusal) is not None:  # said of each file by its own transfer
            for file in files:
                self._forget(file)
            return [ev.GoAlone(tuple(files))] if files else []
        waiting = Waiting(str(refusal.reason), refusal.detail)
        self._patience.refused(waiting, now, refusal.retry_after_ms / 1000 or None)
        return []

    # ------------------------------------------------------------ going on

    def _advance(self, now: float) -> list[ev.Effect]:
        if not self._where:
            self._patience.satisfied()
            if self._walk_ended:
                self._end()
                return [ev.Finish(None)]
        if not self._where or self._full is not None:
            return []
        self._give_up_overdue(now)
        if (error := self._patience.exhausted(now)) is not None:
            self._end()
            return [ev.Finish(error)]
        effects: list[ev.Effect] = []
        while self._may_ask(now):
            effects.append(self._ask(now))
        awaited = any(map(self._is_awaited, self._asks.values()))
        self._patience.expect(now, awaited or not self._patience.may_ask(now))
        return effects

    def _may_ask(self, now: float) -> bool:
        if not self._queue or not self._window.room or not self._patience.may_ask(now):
            return False
        enough = self._queued_bytes >= self._bundle_bytes or self.queued >= MAX_FILES_PER_REQUEST
        idle = len(self._asks) < BUSY_ASKS
        return enough or idle or self._walk_ended

    def _ask(self, now: float) -> ev.Ask:
        files: list[Small] = []
        left, names_left = self._bundle_bytes - OVERHEAD_SIZE_BYTES, MAX_NAMES_SIZE_BYTES
        directory: str | None = None
        for file in self._queue:
            left -= _cost(file)
            names_left -= len(file.name.encode()) + _NAME_OVERHEAD_BYTES
            if file.directory != directory:
                directory = file.directory
                names_left -= len(directory.encode()) + 2 * _NAME_OVERHEAD_BYTES
            over = left < 0 or names_left < 0 or len(files) == MAX_FILES_PER_REQUEST
            if over and files:
                break
            files.append(file)
        token = next(self._tokens)
        for file in files:
            del self._queue[file]
            self._queued_bytes -= _cost(file)
            self._where[file] = token
        ask = _Ask(token, tuple(files), self._window.sent(now), now, full=bool(self._queue))
        ask.missing = set(range(len(files)))
        self._asks[token] = ask
        return ev.Ask(token, ask.files)

    def _give_up_overdue(self, now: float) -> None:
        timeout = self._timeout_s
        late = [
            ask
            for ask in self._asks.values()
            if self._is_awaited(ask) and self._deadline_s(ask, timeout) <= now
        ]
        for ask in late:
            self._give_up(ask)
            self._window.timed_out(ask.sent)
        if late:
            self._backoff = min(self._backoff * 2, MAX_BACKOFF)
            self._set_bundle_bytes(self._bundle_bytes // 2)
            self._patience.timed_out(now, self._window.rto_s)

    def _give_up(self, ask: _Ask) -> None:
        """What has not come of it is asked for again; a late answer is taken all the same."""
        self._enqueue(
            ask.files[index]
            for index in sorted(ask.missing)
            if self._where.get(ask.files[index]) == ask.token
        )
        if self._asks.pop(ask.token, None) is None:
            return
        self._window.lost(1)
        self._old[ask.token] = ask
        while len(self._old) > MAX_OLD_ASKS:
            self._old.popitem(last=False)

    def _close_if_done(self, ask: _Ask, now: float) -> None:
        """All of it has come and is placed: it leaves the window."""
        if ask.missing or ask.placing:
            return
        if self._old.pop(ask.token, None) is not None:
            self._window.came_late(ask.sent, now)
        if self._asks.pop(ask.token, None) is None:
            return
        quick = now - ask.sent.at_s <= (self._window.rtt_min_s or 0.0) + QUICK_S
        self._window.arrived(ask.sent, now)
        if ask.full and quick:
            self._set_bundle_bytes(2 * self._bundle_bytes)

    def _on_placed(self, token: int, number: int, now: float) -> None:
        if (ask := self._asks.get(token) or self._old.get(token)) is not None:
            ask.placing -= number
            self._close_if_done(ask, now)

    # ------------------------------------------------------------ small pieces

    def _claim(self, ask: _Ask, index: int, state: int) -> bool:
        """Whether this answer is the one that counts; then the file is in `state`."""
        ask.missing.discard(index)
        file = ask.files[index]
        where = self._where.get(file, _PLACING)
        if where == _PLACING:
            return False
        if where == _QUEUED:
            self._dequeue(file)
        elif where != ask.token and (other := self._asks.get(where)) is not None:
            other.missing.discard(other.files.index(file))
            self._drop_if_empty(other)
        self._where[file] = state
        return True

    def _drop_if_empty(self, ask: _Ask) -> None:
        """Others have answered all of it: its own answer tells nothing any more."""
        if not ask.missing and not ask.placing:
            del self._asks[ask.token]
            self._window.lost(1)

    def _strike(self, file: Small) -> list[ev.Effect]:
        self._strikes[file] += 1
        if self._strikes[file] < MAX_SPOILED:
            self._enqueue((file,))
            return []
        self._forget(file)
        return [ev.GoAlone((file,))]

    def _enqueue(self, files: Iterable[Small]) -> None:
        for file in files:
            self._where[file] = _QUEUED
            if file not in self._queue:
                self._queue[file] = None
                self._queued_bytes += _cost(file)

    def _dequeue(self, file: Small) -> None:
        if file in self._queue:
            del self._queue[file]
            self._queued_bytes -= _cost(file)

    def _forget(self, file: Small) -> None:
        self._dequeue(file)
        self._where.pop(file, None)
        self._strikes.pop(file, None)

    def _is_awaited(self, ask: _Ask) -> bool:
        return bool(ask.missing) and not ask.opening

    def _end(self) -> None:
        self.finished = True
        self._window.lost(len(self._asks))
        self._asks.clear()
        self._old.clear()

    def _set_bundle_bytes(self, size_bytes: int) -> None:
        self._bundle_bytes = min(max(size_bytes, LEAST_BUNDLE_BYTES), self._largest_bytes)
        self._window.max_chunks = MAX_WINDOW_BYTES // self._bundle_bytes

    def _deadline_s(self, ask: _Ask, timeout_s: float) -> float:
        """When to give it up: a part of the answer gives the rest its full time again."""
        return max(self._window.deadline_s(ask.sent, timeout_s), ask.at_s + timeout_s)

    @property
    def _timeout_s(self) -> float:
        return min(self._window.rto_s * self._backoff, MAX_RTO_S)


def _cost(file: Small) -> int:
    return file.size_bytes + RECORD_SIZE_BYTES


def is_small(size_bytes: int, largest_bytes: int) -> bool:
    """Whether a file of that size travels in a bundle of at most `largest_bytes`."""
    room = largest_bytes - OVERHEAD_SIZE_BYTES - RECORD_SIZE_BYTES
    return size_bytes <= min(MAX_SMALL_FILE_SIZE_BYTES, room)
