"""A peer of the registry as the runtime knows it."""

from __future__ import annotations

from chunkq.ports import (
    PeerRef,
)
from chunkq.settings import Peer
from chunkq.settings.trust import millis


def ref_of(peer: Peer) -> PeerRef:
    earlier = peer.earlier
    return PeerRef(
        peer.alias,
        peer.card,
        peer.address,
        earlier=tuple(each.card for each in earlier if each.until_ms),
        first_id=(earlier[-1].card if earlier else peer.card).site_id,
        pinned_ms=millis(peer.added_at),
        distrust=peer.detail if peer.trouble else "",
        quota=peer.quota,
    )


def ref_for(peer: Peer, site_id: bytes, now_ms: int) -> PeerRef | None:
    """The peer as the sender of a request by that key; None where the key counts no more."""
    counts = site_id == peer.card.site_id or any(
        each.card.site_id == site_id and now_ms < each.until_ms for each in peer.earlier
    )
    return ref_of(peer) if counts else None
