"""How long a transfer waits: when it heard last, when to try again, and what it tells meanwhile."""

from __future__ import annotations

from typing import Final

from chunkq.errors import BrokerUnreachable, PeerSilent, Unreachable
from chunkq.protocol.transfer_events import Waiting

#: The wait after `busy` or a lost carrier, if nothing better is known; doubled up to the cap.
RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 60.0
#: The shortest wait that a peer may announce, doubled with each until it is the longest such: so
#: one that always says "in a millisecond" is asked once a second.
LEAST_ANNOUNCED_S: Final = 0.01
MOST_LEAST_ANNOUNCED_S: Final = 1.0
#: No reply for so many timeouts is worth a word to the user.
SILENT_TIMEOUTS: Final = 2


class Patience:
    """All times in seconds. `limit_s`: silence after which the peer counts as gone."""

    def __init__(self, now: float, limit_s: float) -> None:
        self.waiting: Waiting | None = None
        self._limit_s = limit_s
        self._heard_at = now
        self._retry_at = now
        self._retry_s = RETRY_S
        self._least_s = LEAST_ANNOUNCED_S
        self._expecting = False

    @property
    def heard_at_s(self) -> float:
        return self._heard_at

    def expect(self, now: float, expecting: bool) -> None:
        """Whether an answer is awaited at all: silence counts only from then on."""
        if expecting and not self._expecting:
            self._heard_at = max(self._heard_at, now)
        self._expecting = expecting

    def heard(self, now: float, *, progress: bool = False) -> None:
        """The peer lives. `progress`: it also did what was asked."""
        self._heard_at = max(self._heard_at, now)
        if progress:
            self._retry_s = RETRY_S
            self._least_s = LEAST_ANNOUNCED_S
        if self._retry_at <= now:
            self.waiting = None

    def wait(self, waiting: Waiting, now: float) -> None:
        """The carrier takes nothing: ask for nothing for a while, and say why."""
        self.waiting = waiting
        if self._retry_at <= now:  # of many requests that fail together, the first one counts
            self._retry_at = now + self._retry_s
            self._retry_s = min(self._retry_s * 2, MAX_RETRY_S)

    def refused(self, waiting: Waiting, now: float, retry_after_s: float | None) -> None:
        """The peer lives and answers later: until then, silence is what it announced."""
        if retry_after_s is None:
            self.wait(waiting, now)
        else:
            self.waiting = waiting
            wait_s = min(max(retry_after_s, self._least_s), MAX_RETRY_S)
            if self._retry_at <= now:  # of many requests that are refused together, once
                self._least_s = min(2 * self._least_s, MOST_LEAST_ANNOUNCED_S)
            self._retry_at = max(self._retry_at, now + wait_s)
        self._heard_at = max(self._heard_at, self._retry_at)

    def pause(self, now: float) -> None:
        """Ask for nothing for a moment; not worth a word."""
        self._retry_at = now + RETRY_S / 10

    def satisfied(self) -> None:
        """Nothing is needed of the peer any more."""
        self._expecting = False
        self.waiting = None

    def may_ask(self, now: float) -> bool:
        return self._retry_at <= now

    def timed_out(self, now: float, rto_s: float) -> None:
        """Replies did not come in time."""
        if now - self._heard_at > SILENT_TIMEOUTS * rto_s and self.waiting is None:
            self.waiting = Waiting("peer_silent", f"no answer for {now - self._heard_at:.0f} s")

    def exhausted(self, now: float) -> Unreachable | None:
        """The error that it means if an answer has been awaited for too long."""
        if not self._expecting or now < self._heard_at + self._limit_s:
            return None
        silence = f"no answer for {now - self._heard_at:.0f} s"
        if self.waiting is not None and self.waiting.reason == "broker_unreachable":
            return BrokerUnreachable(
                f"{silence}: {self.waiting.detail or 'the broker takes no requests'}",
                hint="once the broker is reached, run the same command again to go on",
            )
        return PeerSilent(
            silence,
            hint="is `chunkq serve` running there, and does its clock agree with ours? "
            "Run the same command again to go on",
        )

    def wakes_s(self, now: float) -> list[float]:
        """When time alone changes something: to try again, or to give up."""
        times = [self._heard_at + self._limit_s] if self._expecting else []
        return [at for at in (*times, self._retry_at) if at > now]

    def renew(self, now: float) -> None:
        """We come back from something that kept us from asking."""
        self.waiting = None
        self._heard_at = now
