"""A site: what it fetches, lists and serves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Self

from chunkq.api.source import Source
from chunkq.api.transfer import Transfer, Wanted
from chunkq.compose import (
    Fetcher,
    OfferedShares,
    RegistryDirectory,
    SystemClock,
    load_identity,
    make_own_spool,
    make_transport,
    origin_worker,
    prepare_process,
    ref_of,
    write_log,
)
from chunkq.errors import BrokerUnreachable, NotFound
from chunkq.ports import Log, Share
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.messages import Entry
from chunkq.runtime.listing import list_directory
from chunkq.settings import Link, Peer, Registry, Settings, load

#: A worker whose broker is away tries again after this, doubling up to the cap.
RETRY_S: Final = 1.0
RETRY_CAP_S: Final = 30.0


class Site:
    """This site: its keys, its peers, its links. Use `Site.open`."""

    def __init__(
        self, settings: Settings, keys: SiteKeys, *, peers: Mapping[str, Peer] | None, log: Log
    ) -> None:
        self.settings = settings
        self.keys = keys
        self._registry = Registry(settings.directories) if peers is None else None
        self._given_peers = peers
        self._fetcher = Fetcher(settings, keys, log=log)
        self._log = log

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: Settings | None = None,
        *,
        keys: SiteKeys | None = None,
        peers: Mapping[str, Peer] | None = None,
        log: Log = write_log,
    ) -> AsyncIterator[Self]:
        """A site for the time of an `async with`.

        Without arguments everything is read from the configuration, as the command line does.
        `keys` and `peers` (by alias) replace what would be read from disk.
        Raises `ConfigError`, `IdentityError`.
        """
        settings = settings or load().settings
        prepare_process()
        make_own_spool(settings)
        site = cls(settings, keys or load_identity(settings), peers=peers, log=log)
        try:
            yield site
        finally:
            await site._fetcher.close()

    def fetch(
        self,
        source: str,
        destination: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        links: bool = False,
        patience_s: float | None = None,
    ) -> Transfer:
        """Begin to fetch a file to the path `destination`, or a tree (`.../`) into it.

        `links`: carry symbolic links, as links, where they stay inside the tree. `patience_s`:
        silence of the peer after which it ends as `PeerSilent`. Raises `UsageError` for a source
        that names nothing, `NotFound` for a peer that is not pinned.
        """
        parsed = Source.parse(source)
        peer = self._peer(parsed.peer)
        patience = self.settings.requester.patience_s if patience_s is None else patience_s
        wanted = Wanted(
            source=parsed,
            destination=Path(destination),
            overwrite=overwrite,
            links=links,
            patience_s=patience,
        )
        return Transfer(self._fetcher, peer, wanted)

    async def list(self, source: str, *, patience_s: float | None = None) -> AsyncIterator[Entry]:
        """The entries of a directory of a peer's share, by name. Raises `NotFound`, ..."""
        parsed = Source.parse(source if "/" in source else f"{source}/")
        peer = await self._fetcher.peer(self._peer(parsed.peer))
        patience = self.settings.requester.patience_s if patience_s is None else patience_s
        async for entry in list_directory(peer, parsed.share, parsed.path, patience_s=patience):
            yield entry

    async def serve(
        self,
        find: Callable[[str, str, str], Share | None] | None = None,
        *,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        """Answer requests on every link that a peer uses, until cancelled.

        `find(peer alias, share, path)` decides what is offered; without it the shares and grants
        on disk do. A cancelled worker finishes the requests it has. Raises `BrokerRefused`.
        """
        directory: RegistryDirectory | OfferedShares
        if find is not None:
            refs = {alias: ref_of(peer) for alias, peer in self._peers().items()}
            directory = OfferedShares(peers=refs, find=find)
        else:
            directory = RegistryDirectory(self._registry or Registry(self.settings.directories))
        used = {peer.link for peer in self._peers().values()} or set(self.settings.links)
        waiting = len(used)

        def ready() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0 and on_ready is not None:
                on_ready()

        async with asyncio.TaskGroup() as group:
            for name in sorted(used):
                group.create_task(self._serve_link(self.settings.links[name], directory, ready))

    async def _serve_link(
        self,
        link: Link,
        directory: RegistryDirectory | OfferedShares,
        ready: Callable[[], None],
    ) -> None:
        transport = make_transport(link, self.settings.site_name, SystemClock())
        delay = RETRY_S
        try:
            while True:
                try:
                    await transport.open()
                    break
                except BrokerUnreachable as error:
                    self._log("broker_unreachable", level="warning", detail=error.message)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, RETRY_CAP_S)
            worker = origin_worker(
                self.settings, self.keys, link, transport, directory=directory, log=self._log
            )
            async with worker as serving:
                ready()
                await serving.run()
        finally:
            await transport.close()

    def _peers(self) -> Mapping[str, Peer]:
        if self._given_peers is not None:
            return self._given_peers
        assert self._registry is not None
        return self._registry.peers

    def _peer(self, alias: str) -> Peer:
        if self._registry is not None:
            return self._registry.peer(alias)
        peers = self._peers()
        if alias not in peers:
            raise NotFound(f"no peer is called {alias!r}", hint=f"known: {', '.join(peers)}")
        return peers[alias]
