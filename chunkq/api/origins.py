"""The peers that a transfer comes from: the first named one, and its mirrors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from chunkq.api.source import Source
from chunkq.compose import Fetcher
from chunkq.errors import BrokerRefused, BrokerUnreachable, ChunkqError, PeerFrozen
from chunkq.ports import LinkHealth
from chunkq.protocol.transfer_events import Waiting
from chunkq.runtime.asking import Place
from chunkq.runtime.peer import PeerLink
from chunkq.runtime.progress import FetchProgress
from chunkq.settings import Peer


class Origins:
    """Where a file or tree is to be had, which links to there are open, and who brought how much.

    `named`: the first one first. What is in staging belongs to that one, whoever brings the rest.
    """

    def __init__(self, fetcher: Fetcher, named: Sequence[tuple[Peer, Source]]) -> None:
        self._fetcher = fetcher
        self._named = list(named)
        self._reached: list[tuple[PeerLink, Source]] = []
        self._came: Counter[str] = Counter()
        #: Peers that were of no use, and why.
        self._left: dict[str, str] = {}
        #: Why nothing is to be asked of a peer now, if somebody wants it so.
        self.barred: Callable[[Peer], Waiting | None] = lambda _: None

    @property
    def first(self) -> Peer:
        return self._named[0][0]

    def blocked(self) -> Waiting | None:
        """Why nobody may be asked now; of a tree, the first named must be."""
        found = [self.barred(peer) for peer, _ in self._named]
        may_others = not self._named[0][1].tree and None in found
        return None if may_others else found[0]

    def asks_barred(self) -> bool:
        """Whether one is asked that may not be any more."""
        asked = {link.ref.alias for link, _ in self._reached}
        return any(peer.alias in asked and self.barred(peer) for peer, _ in self._named)

    def add(self, peer: Peer, source: Source) -> None:
        """One more."""
        self._named.append((peer, source))

    def leave(self, alias: str, error: ChunkqError) -> None:
        """This one is of no use."""
        self._left[alias] = error.message

    async def reach(self) -> PeerLink:
        """Open the links; returns the first. Raises the error of the first if none opens.

        A tree's listing comes from the first named, so that one's link must open.
        """
        first: BrokerRefused | BrokerUnreachable | None = None
        self._reached.clear()
        for peer, source in self._named:
            self._left.pop(peer.alias, None)
            if (waiting := self.barred(peer)) is not None:
                self._left[peer.alias] = waiting.detail
                continue
            try:
                self._reached.append((await self._fetcher.peer(peer), source))
            except (BrokerUnreachable, BrokerRefused) as error:
                if source.tree and not self._reached:
                    raise
                first = first or error
                self.leave(peer.alias, error)
        if not self._reached:
            waiting = self.blocked()
            if first is None and waiting is not None:
                raise PeerFrozen(waiting.detail, reason=waiting.reason)
            assert first is not None
            raise first
        return self._reached[0][0]

    def places(self, parts: tuple[str, ...] = ()) -> list[Place]:
        """Where one file is to be had; `parts`: its path below the source."""
        return [
            Place(link, source.share, "/".join(filter(None, (source.path, *parts))))
            for link, source in self._reached
        ]

    @property
    def health(self) -> LinkHealth | None:
        """The trouble with the links, if all of them have some."""
        states = [link.requester.transport.health for link, _ in self._reached]
        if not states and (opening := self._fetcher.opening) is not None:
            states = [opening.health]
        return states[0] if states and not any(state.ok for state in states) else None

    def brought(self, alias: str, size_bytes: int) -> None:
        """New bytes of files that came in a bundle."""
        self._came[alias] += size_bytes

    def ended(self, last: FetchProgress | None) -> None:
        """A file has ended, well or not."""
        if last is not None:
            self._came.update(last.origins)
            self._left.update(last.left)

    def came(self, files: Iterable[FetchProgress] = ()) -> Mapping[str, int]:
        """New bytes by peer; `files`: those under way."""
        total = self._came.copy()
        for file in files:
            total.update(file.origins)
        return dict(total)

    def left(self, files: Iterable[FetchProgress] = ()) -> Mapping[str, str]:
        """Who is of no use, and why."""
        found = dict(self._left)
        for file in files:
            found.update(file.left)
        return found
