"""What was asked of an origin and has not come yet: one ledger, one timer.

A chunk is *asked* until its reply lands, *landed* until it is verified and written (the window
still counts it, so that a slow disk slows the asking), and then gone from here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from chunkq.protocol.window import MAX_RTO_S, Sent, Window

#: Each round of unanswered asks waits twice as long as the one before, up to this factor.
MAX_BACKOFF: Final = 64
#: Requests that were given up and whose replies still tell the round trip: a window of them.
MAX_GIVEN_UP: Final = 256


@dataclass(slots=True)
class _Ask:
    token: int
    sent: Sent


class Asks:
    """The asked chunks of one transfer, oldest first. A `token` stands for one request."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._asked: dict[int, _Ask] = {}
        self._landed: dict[int, _Ask] = {}
        self._given_up: OrderedDict[int, Sent] = OrderedDict()
        self._backoff = 1

    def __contains__(self, index: int) -> bool:
        return index in self._asked or index in self._landed

    def __len__(self) -> int:
        return len(self._asked) + len(self._landed)

    @property
    def waiting(self) -> int:
        """Chunks whose reply has not landed."""
        return len(self._asked)

    def waiting_since(self) -> Iterator[tuple[int, float]]:
        """The chunks that have not landed and when each was asked for, oldest first."""
        return ((index, ask.sent.at_s) for index, ask in self._asked.items())

    def landed(self, index: int) -> bool:
        """Whether the reply is here and not yet stored."""
        return index in self._landed

    def add(self, index: int, token: int, now: float) -> None:
        """Asked now; an earlier ask for the same chunk is given up, so that order is age."""
        self.give_up(index)
        self._asked[index] = _Ask(token, self._window.sent(now))

    def land(self, index: int) -> None:
        """The reply is here: stop its timer."""
        ask = self._asked.pop(index, None)
        if ask is not None:
            self._landed[index] = ask

    def stored(self, index: int, token: int | None, now: float) -> None:
        """Verified and written. `token` is that of the request which this answers.

        So a late reply to an earlier ask tells its round trip as well as any; where that is longer
        than the timer, every reply is late until it is known.
        """
        ask = self._landed.pop(index, None) or self._asked.pop(index, None)
        sent = self._given_up.get(token or 0)
        if ask is not None and ask.token == token:
            sent = ask.sent
        if sent is not None:
            self._backoff = 1
        if ask is None:
            if sent is not None:
                self._window.came_late(sent, now)
        elif sent is not None:
            self._window.arrived(sent, now)
        else:
            self._window.lost(1)

    def give_up(self, index: int) -> None:
        """This chunk will not come of what was asked."""
        if self._asked.pop(index, None) or self._landed.pop(index, None):
            self._window.lost(1)

    def refused(self, token: int) -> list[int]:
        """The request `token` will not be answered any more: its chunks, given up."""
        indices = [index for index, ask in self._asked.items() if ask.token == token]
        for index in indices:
            self.give_up(index)
        return indices

    def clear(self) -> None:
        self._window.lost(len(self))
        self._asked.clear()
        self._landed.clear()
        self._given_up.clear()

    def overdue(self, now: float) -> list[int]:
        """Chunks whose timer ran out, given up; the next ones get twice the time."""
        timeout = self.timeout_s
        late: dict[int, _Ask] = {}
        for index, ask in self._asked.items():
            if self._window.deadline_s(ask.sent, timeout) > now:
                break
            late[index] = ask
        for index, ask in late.items():
            self.give_up(index)
            self._window.timed_out(ask.sent)
            self._given_up[ask.token] = ask.sent
        while len(self._given_up) > MAX_GIVEN_UP:
            self._given_up.popitem(last=False)
        if late:
            self.back_off()
        return list(late)

    def back_off(self) -> None:
        """Something asked was not answered in time: wait twice as long for the next."""
        self._backoff = min(self._backoff * 2, MAX_BACKOFF)

    @property
    def timeout_s(self) -> float:
        return min(self._window.rto_s * self._backoff, MAX_RTO_S)

    @property
    def next_deadline_s(self) -> float | None:
        for ask in self._asked.values():
            return self._window.deadline_s(ask.sent, self.timeout_s)
        return None
