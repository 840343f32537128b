"""With which of our keys a peer is asked, as long as it may not know the newest.

After a change of keys a peer that has not heard of it drops what the new ones sign. So the keys
that still count take turns until one is answered; and the peer is told of the change meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.keyring import KeyRing

#: How long one key is tried without an answer; the first timer of a request is as long.
TURN_S: Final = 3.0
#: How often a peer that does not answer is told of the change: it may have no worker now.
TELL_AGAIN_S: Final = 30.0


class Signers:
    """The choice for one peer. `new_first`: it was pinned after the change, so it has the new."""

    def __init__(self, ring: KeyRing, now_ms: int, *, new_first: bool) -> None:
        counting = ring.counting(now_ms)
        self.ring = ring
        self._turns: Sequence[SiteKeys] = counting if new_first else (*counting[1:], counting[0])
        self._turn = 0
        self._turn_began_s: float | None = None
        self._answered: SiteKeys | None = None
        self._told = ring.succession is None
        self._tell_at_s: float | None = None
        self._in_grace = now_ms < ring.until_ms

    def pick(self, now_s: float) -> SiteKeys:
        """The keys for a request that is sent now."""
        if self._answered is not None:
            return self._answered
        if self._turn_began_s is None:
            self._turn_began_s = now_s
        elif now_s - self._turn_began_s >= TURN_S:
            self._turn, self._turn_began_s = self._turn + 1, now_s
        return self._turns[self._turn % len(self._turns)]

    def answered(self, site_id: bytes) -> None:
        """A reply to what these keys signed; once the newest were answered, no others are used."""
        if self._answered is self.ring.keys:
            return
        for keys in self._turns:
            if keys.site_id == site_id:
                self._answered = keys
        if site_id == self.ring.site_id:
            self._told = True

    def told(self, known: bytes) -> None:
        """The peer was told, and says which keys it has pinned now."""
        self._told = True
        self._answered = next((keys for keys in self._turns if keys.site_id == known), None)

    def must_tell(self, now_s: float) -> bool:
        """Whether to tell the peer of the change now; True once in a while.

        While the old keys count, at once; later only one who does not answer: nearly all know.
        """
        if self._told or self._answered is self.ring.keys:
            return False
        if self._tell_at_s is None:
            self._tell_at_s = now_s if self._in_grace else now_s + TURN_S
        if now_s < self._tell_at_s:
            return False
        self._tell_at_s = now_s + TELL_AGAIN_S
        return True
