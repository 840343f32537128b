"""How long a transfer waits: when it heard last, when to try again, and what it tells meanwhile."""

from __future__ import annotations

from typing import Final

from chunkq.errors import PeerSilent
from chunkq.protocol.transfer_events import Waiting

#: The wait after `busy` or a lost carrier, if nothing better is known; doubled up to the cap.
RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 60.0
#: No reply for so many timeouts is worth a word to the user.
SILENT_TIMEOUTS: Final = 2


class Patience:
    """All times in seconds. `limit_s`: silence after which the peer counts as gone."""

    def __init__(self, now: float, limit_s: float) -> None:
        self.waiting: Waiting | None = None
        self.full = False
        self._limit_s = limit_s
        self._heard_at = now
        self._retry_at = now
        self._retry_s = RETRY_S

    def heard(self, now: float, *, progress: bool = False) -> None:
        """The peer lives. `progress`: it also did what was asked."""
        self._heard_at = now
        if progress:
            self._retry_s = RETRY_S
        if self._retry_at <= now and not self.full:
            self.waiting = None

    def wait(self, waiting: Waiting, now: float, retry_after_s: float | None = None) -> None:
        """Ask for nothing for a while, and say why."""
        self.waiting = waiting
        wait_s = self._retry_s if retry_after_s is None else min(retry_after_s, MAX_RETRY_S)
        self._retry_at = now + wait_s
        self._retry_s = min(self._retry_s * 2, MAX_RETRY_S)

    def pause(self, now: float) -> None:
        """Ask for nothing for a moment; not worth a word."""
        self._retry_at = now + RETRY_S / 10

    def may_ask(self, now: float) -> bool:
        return self._retry_at <= now

    def timed_out(self, now: float, rto_s: float) -> None:
        """Replies did not come in time."""
        if now - self._heard_at > SILENT_TIMEOUTS * rto_s and self.waiting is None:
            self.waiting = Waiting("peer_silent", f"no answer for {now - self._heard_at:.0f} s")

    def check(self, now: float) -> None:
        """Raises `PeerSilent` when it has been silent for too long."""
        if now - self._heard_at >= self._limit_s:
            raise PeerSilent(
                f"no answer for {now - self._heard_at:.0f} s",
                hint="is `chunkq serve` running there, and does its clock agree with ours? "
                "Run the same command again to go on",
            )

    def next_wake_s(self, now: float) -> float:
        limit = self._heard_at + self._limit_s
        return min(limit, self._retry_at) if self._retry_at > now else limit

    def disk_full(self, detail: str) -> None:
        self.full = True
        self.waiting = Waiting("disk_full", detail)

    def disk_free(self, now: float) -> None:
        self.full = False
        self.waiting = None
        self._heard_at = now
