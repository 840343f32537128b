"""What an origin worker did for each peer since it started: integers that only rise."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class PeerCounts:
    """`sent_bytes`: of content, as it was before it was packed. `heard_ms`: wall clock."""

    requests: int = 0
    sent_bytes: int = 0
    heard_ms: int = 0
    refusals: Counter[str] = field(default_factory=Counter)


class Served:
    """By the peers' names; only pinned peers get here, so their number is bounded."""

    def __init__(self) -> None:
        self.peers: dict[str, PeerCounts] = {}

    def of(self, alias: str) -> PeerCounts:
        found = self.peers.get(alias)
        if found is None:
            found = self.peers[alias] = PeerCounts()
        return found
