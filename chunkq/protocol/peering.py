"""A pinned peer as drivers see it, and what became of a statement about its keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from chunkq.protocol.identity import SiteCard
from chunkq.protocol.quota import PeerQuota


@dataclass(frozen=True, slots=True)
class PeerRef:
    """A pinned peer: what it is called here, its card, and its name on the link.

    `earlier`: the cards it had, the newest first, without those that were revoked. `first_id`: the
    id it was first pinned with, for names on disk that outlive a change of keys. `pinned_ms`: when
    that was. `distrust`: why nothing of it counts. `quota`: what is said of it in particular; a
    change of that makes no other peer of it.
    """

    alias: str
    card: SiteCard
    address: str
    earlier: tuple[SiteCard, ...] = ()
    first_id: bytes = b""
    pinned_ms: int = 0
    distrust: str = ""
    quota: PeerQuota = field(default=PeerQuota(), compare=False)

    @property
    def cards(self) -> tuple[SiteCard, ...]:
        return (self.card, *self.earlier)

    def card_of(self, site_id: bytes) -> SiteCard | None:
        """The card with that id, now or earlier."""
        return next((card for card in self.cards if card.site_id == site_id), None)


News = Literal["", "succession", "grace_ended", "revoked", "conflict"]


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of a statement: how its peer stands now, and what is new about that."""

    peer: PeerRef
    news: News = ""
