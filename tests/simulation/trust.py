"""Whom an origin of a world trusts, and with what; both may change while it runs."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from chunkq.ports import Heard, PeerRef, Share
from chunkq.protocol.packet import RequestId
from chunkq.protocol.succession import Said
from chunkq.settings.trust import Grant
from chunkq.storage.replays import ReplayStore
from chunkq.storage.source import DirectoryShare
from tests.simulation.loop import Running
from tests.simulation.workload import CHUNK_BYTES, REQUESTERS, SHARE, ref_of

if TYPE_CHECKING:
    from tests.simulation.world import World

#: What a peer may see that is to get nothing of what there is.
_ELSEWHERE = "report"


class Trust:
    """Who is not trusted where, and since when. `grants`: what each peer may see of the share."""

    def __init__(self) -> None:
        self._distrusted: dict[tuple[str, str], float] = {}

    def revoke(self, world: World, random: Random) -> None:
        """An operator takes a peer's trust away, or gives it back."""
        site, alias = random.choice(world.workload.origins), random.choice(REQUESTERS)
        world.fault("revoke_every", f"{alias} at {site}")
        if self._distrusted.pop((site, alias), None) is None:
            self._distrusted[site, alias] = world.clock.now_s

    def restore(self) -> None:
        self._distrusted.clear()

    def lost_at_s(self, site: str, alias: str) -> float | None:
        """Since when that peer is not trusted there; None if it is."""
        return self._distrusted.get((site, alias))

    @staticmethod
    def grant(alias: str) -> Grant:
        """Who has jobs sees all of the share, anybody else what merely begins like it."""
        return Grant(alias, "" if alias in REQUESTERS else _ELSEWHERE)

    @classmethod
    def may_see(cls, alias: str, path: str) -> bool:
        """By itself, not by the product's word."""
        return alias in REQUESTERS or path == _ELSEWHERE or path.startswith(f"{_ELSEWHERE}/")


class Pinned:
    """`ports.Directory`: the peers of one origin, read anew at each `refresh`."""

    def __init__(self, world: World, root: str, site: str, peers: tuple[str, ...]) -> None:
        self._world = world
        self._site = site
        self._sites = peers
        self._share = DirectoryShare(f"{root}/share")
        self._peers: dict[bytes, PeerRef] = {}
        self.refresh()

    def refresh(self) -> None:
        for alias in self._sites:
            lost = self._world.trust.lost_at_s(self._site, alias) is not None
            ref = replace(ref_of(alias), distrust="revoked" if lost else "")
            self._peers[ref.card.site_id] = ref

    def peer(self, site_id: bytes) -> PeerRef | None:
        return self._peers.get(site_id)

    def share(self, peer: PeerRef, share: str, path: str) -> Share | None:
        granted = share == SHARE and self._world.trust.grant(peer.alias).covers(path)
        return self._share if granted else None

    def chunk_size(self, share: str) -> int:
        return CHUNK_BYTES

    async def heed(self, statement: Said) -> Heard:
        raise AssertionError("nobody changes keys here")


class WatchedReplays(ReplayStore):
    """The product's record; the world hears of what is put into it."""

    def watched_by(self, world: World, process: Running, site: str) -> WatchedReplays:
        self._watch = world.watch
        self._process = process
        self._site = site
        return self

    def record(self, peer: bytes, request_id: RequestId) -> bool:
        self._watch.remembering(self._process, self._site, peer, request_id)
        return super().record(peer, request_id)
