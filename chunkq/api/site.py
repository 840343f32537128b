"""A site: what it fetches, lists and serves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, Self
from weakref import WeakSet

from chunkq.api.hand import Hand
from chunkq.api.origins import Origins
from chunkq.api.reporting import Reporting
from chunkq.api.serving import Serving
from chunkq.api.source import Source, check_alike
from chunkq.api.steered import Steered
from chunkq.api.transfer import Transfer, Wanted
from chunkq.api.trust import KeyNews, ProgramTrust, RegistryTrust
from chunkq.api.verification import Mending, Verification
from chunkq.compose import (
    Fetcher,
    OfferedShares,
    RegistryDirectory,
    SystemClock,
    load_identity,
    make_own_spool,
    prepare_process,
    ref_of,
    write_log,
)
from chunkq.errors import ChunkqError, IdentityError, NotFound, UsageError
from chunkq.ports import Identity, Log, Share
from chunkq.protocol.checking import Checked
from chunkq.protocol.identity import SiteKeys, decode_card, encode_card
from chunkq.protocol.keyring import KeyRing
from chunkq.protocol.messages import Entry
from chunkq.protocol.priority import PriorityWord, priority_word
from chunkq.protocol.report import Role
from chunkq.protocol.standing import Earlier
from chunkq.runtime.identity import FixedIdentity, identity_of
from chunkq.runtime.listing import list_directory
from chunkq.runtime.peer import PeerLink
from chunkq.runtime.probing import Limits, Prober
from chunkq.runtime.telling import tell_keys
from chunkq.settings import DEFAULT_LINK, MAX_ORIGINS, Peer, Registry, Settings, load
from chunkq.storage.job import JobClaim
from chunkq.storage.jobs import JobStore

#: How long a peer may take to say that it took note of a change of keys.
ANNOUNCE_S: Final = 10.0
#: Later than any time: what a program names counts.
ALWAYS_MS: Final = 1 << 60

#: A peer's card, or its card and those it had before.
Cards = str | Sequence[str]


class Site:
    """This site: its keys, its peers, its links. Use `Site.open`."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        *,
        peers: Mapping[str, Cards] | None,
        on_keys: Callable[[KeyNews], bool] | None = None,
        log: Log,
    ) -> None:
        self.settings = settings
        self.identity = identity
        self._registry = Registry(settings.directories) if peers is None else None
        self._given_cards: Mapping[str, Cards] = {} if peers is None else peers
        clock = SystemClock()
        self.trust: RegistryTrust | ProgramTrust = (
            ProgramTrust(self._peers, on_keys, settings, clock, log)
            if self._registry is None
            else RegistryTrust(self._registry, settings, clock, log)
        )
        self._fetcher = Fetcher(settings, identity, heed=self.trust.heed, log=log)
        self.reporting = Reporting(settings, self._fetcher, log)
        #: The jobs of this process, and what people want of it.
        self.hand = Hand(settings.directories.state, log)
        self.reporting.told = self.hand.tell
        self.hand.on_drain = self.reporting.drain
        self._transfers: WeakSet[Transfer] = WeakSet()
        self._verifications: WeakSet[Verification] = WeakSet()
        self._log = log

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: Settings | None = None,
        *,
        keys: SiteKeys | KeyRing | None = None,
        peers: Mapping[str, Cards] | None = None,
        on_keys: Callable[[KeyNews], bool] | None = None,
        role: Role | None = None,
        log: Log = write_log,
    ) -> AsyncIterator[Self]:
        """A site for the time of an `async with`.

        Without arguments everything is read from the configuration, as the command line does.
        `keys` and `peers` replace what would be read from disk: a card by alias, each reached on
        the default link; or several cards, of which the first is the peer's and the others are
        those it had before, which still count. The mapping is looked at again for every request,
        so the program may change it at any time.

        `on_keys` hears of a peer's change of keys, proved by its signatures, on the loop: to
        follow, put `[news.card, *news.earlier]` into `peers` and return True. Without it nothing
        is followed. `role`: what the process reports itself as, from now on; without it, as
        "embedded" from the first transfer or from `serve` on. Raises `ConfigError`,
        `IdentityError`.
        """
        settings = settings or load().settings
        prepare_process()
        make_own_spool(settings)
        identity = identity_of(keys) if keys else load_identity(settings)
        site = cls(settings, identity, peers=peers, on_keys=on_keys, log=log)
        if role is not None:
            site.reporting.begin(role)
        try:
            yield site
        finally:
            await site._stop_transfers()
            await site.hand.close()
            await site.reporting.close()
            await site._fetcher.close()

    @property
    def keys(self) -> SiteKeys:
        """The keys now."""
        return self.identity.ring.keys

    def use_keys(self, ring: KeyRing) -> None:
        """Go on with changed keys, for a program that keeps them itself: they count at once.

        Running workers answer to both, transfers under way go on. `announce` tells the peers.
        """
        if not isinstance(self.identity, FixedIdentity):
            raise UsageError("these keys are in a file; change them with `chunkq rotate`")
        self.identity.ring = ring

    async def announce(
        self, *, aliases: Collection[str] | None = None, patience_s: float = ANNOUNCE_S
    ) -> dict[str, bool]:
        """Tell the peers (or some) what became of this site's keys; whether each took note.

        Who does not answer in time hears of it when it next asks, or is asked.
        """
        said = self.identity.ring.statement
        if said is None:
            return {}
        return await self.say(said.line, aliases=aliases, patience_s=patience_s)

    async def say(
        self, line: str, *, aliases: Collection[str] | None = None, patience_s: float = ANNOUNCE_S
    ) -> dict[str, bool]:
        """Tell one statement to the peers; whether each took note of it."""
        peers = [
            peer
            for alias, peer in self._peers().items()
            if peer.trouble is None and (aliases is None or alias in aliases)
        ]

        async def tell(peer: Peer) -> bool:
            try:
                return await tell_keys(await self._fetcher.peer(peer), line, patience_s)
            except ChunkqError as error:
                self._log("peer_not_told", level="warning", peer=peer.alias, detail=error.message)
                return False

        answers = await asyncio.gather(*map(tell, peers))
        return {peer.alias: told for peer, told in zip(peers, answers, strict=True)}

    @property
    def peer_links(self) -> Sequence[PeerLink]:
        """The ways to peers that are open."""
        return self._fetcher.peers

    @property
    def card(self) -> str:
        """This site's card, one line, for others to pin."""
        return encode_card(self.keys, self.settings.site_name)

    def fetch(
        self,
        source: str,
        destination: str | os.PathLike[str],
        *,
        mirrors: Sequence[str] = (),
        overwrite: bool = False,
        links: bool = False,
        patience_s: float | None = None,
        priority: PriorityWord = "normal",
        by: str = "",
        durable: bool = False,
    ) -> Transfer:
        """Begin to fetch a file to the path `destination`, or a tree (`.../`) into it.

        `mirrors`: the same file or tree at other peers; it comes from all that have the version
        of the first one that answers, and those of the configuration. `links`: carry symbolic
        links, as links, where they stay inside the tree. `patience_s`: silence of the peers after
        which it ends as `PeerSilent`. `priority`: "urgent" overtakes what is under way from that
        peer, "bulk" lets everything else overtake. Raises `UsageError` for a source that names
        nothing, `NotFound` for a peer that is not pinned.

        It has a job in the state directory, by which operators see and steer it: awaiting it raises
        `Paused` or `Cancelled` if they stop it, and where they freeze the peer it waits. `by`: who
        asked for it. `durable`: the job survives a power cut from the first moment on, for which
        the disk is waited for; else it may be lost then, and the transfer with the same call goes
        on all the same.
        """
        created_ms = SystemClock().wall_ms()
        target = os.path.abspath(destination)

        def begin(store: JobStore) -> JobClaim:
            return store.begin(
                tuple(map(str, (wanted.source, *others))),
                target,
                options={"overwrite": overwrite, "links": links, "priority": priority},
                created_ms=created_ms,
                by=by,
                origin=origin_of(origins.first),
                durable=durable,
            )

        wanted, others, origins = self._prepare(
            source,
            destination,
            mirrors=mirrors,
            overwrite=overwrite,
            links=links,
            patience_s=patience_s,
            priority=priority,
        )
        return self._begin(origins, wanted, Steered(self.hand, begin=begin, log=self._log))

    def do(
        self, claim: JobClaim, *, postponed: Callable[[ChunkqError], None] | None = None
    ) -> Transfer:
        """Begin a job that was taken from `hand.store`; how it ends is written there.

        `postponed` hears of the error after which it goes back to the queue, just before. Raises as
        `fetch`; then the job is as it was.
        """
        job = claim.job
        source, *mirrors = job.sources
        wanted, _, origins = self._prepare(
            source,
            job.destination,
            mirrors=mirrors,
            overwrite=bool(job.options.get("overwrite")),
            links=bool(job.options.get("links")),
            priority=priority_word(job.options.get("priority")),
        )
        if not job.origin:  # an earlier version of chunkq has left it
            claim.job = replace(job, origin=origin_of(origins.first))
        steered = Steered(self.hand, claim=claim, postponed=postponed, log=self._log)
        return self._begin(origins, wanted, steered)

    def _prepare(
        self,
        source: str,
        destination: str | os.PathLike[str],
        *,
        mirrors: Sequence[str],
        overwrite: bool,
        links: bool,
        patience_s: float | None = None,
        priority: PriorityWord,
    ) -> tuple[Wanted, list[Source], Origins]:
        """What is wanted, the other sources that were named, and all places to have it from."""
        parsed = Source.parse(source)
        peer = self._peer(parsed.peer)
        others = [Source.parse(mirror) for mirror in mirrors]
        check_alike(parsed, others)
        patience = self.settings.requester.patience_s if patience_s is None else patience_s
        wanted = Wanted(
            source=parsed,
            destination=Path(destination),
            overwrite=overwrite,
            links=links,
            patience_s=patience,
            priority=priority,
        )
        origins = Origins(
            self._fetcher,
            [(peer, parsed), *((self._peer(other.peer), other) for other in others)],
        )
        self._add_configured(origins, (parsed, *others))
        return wanted, others, origins

    def _begin(self, origins: Origins, wanted: Wanted, steered: Steered | None = None) -> Transfer:
        self.reporting.begin("embedded")
        origins.barred = self.hand.barred
        transfer = Transfer(self._fetcher, origins, wanted, steered)
        self._transfers.add(transfer)
        self.reporting.watch(transfer)
        transfer.on_end(lambda: self.reporting.unwatch(transfer))
        return transfer

    def verify(
        self,
        *paths: str | os.PathLike[str],
        repair: bool = False,
        overwrite: bool = False,
        patience_s: float | None = None,
        anew: bool = False,
        on_checked: Callable[[Checked], None] | None = None,
    ) -> Verification:
        """Begin to compare received files, and all below received directories, with what came.

        `repair`: fetch what is damaged or missing, and only that; `overwrite`: also what was
        changed on purpose. It goes on where an earlier one was stopped, unless `anew`.
        `on_checked` hears of each file. Raises `NotFound` when awaited, if a path is not known.
        """
        patience = self.settings.requester.patience_s if patience_s is None else patience_s
        mending = Mending(self._mend, overwrite=overwrite, patience_s=patience) if repair else None
        verification = Verification(
            self.settings.directories.state,
            [os.fspath(path) for path in paths],
            mending=mending,
            anew=anew,
            on_checked=on_checked,
        )
        self._verifications.add(verification)
        return verification

    def _mend(self, wanted: Wanted) -> Transfer:
        """The transfer of one damaged file, from where it came and the mirrors of that."""
        source = wanted.source
        origins = Origins(self._fetcher, [(self._peer(source.peer), source)])
        self._add_configured(origins, (source,))
        return self._begin(origins, wanted)

    def _add_configured(self, origins: Origins, named: Sequence[Source]) -> None:
        """What the configuration says is the same, at peers that are not named."""
        peers = {source.peer for source in named}
        for source in named:
            for mirror in self.settings.mirrors.get(f"{source.peer}:{source.share}", ()):
                alias, _, share = mirror.partition(":")
                if alias in peers or len(peers) == MAX_ORIGINS:
                    continue
                peers.add(alias)
                try:
                    origins.add(self._peer(alias), replace(source, peer=alias, share=share))
                except NotFound as error:
                    origins.leave(alias, error)

    async def _stop_transfers(self) -> None:
        """What is still under way when the site is left stops resumably."""
        running: list[Transfer | Verification] = [*self._verifications, *self._transfers]
        for each in running:
            each.cancel()
        for each in running:
            await each.ended()

    async def list(self, source: str, *, patience_s: float | None = None) -> AsyncIterator[Entry]:
        """The entries of a directory of a peer's share, by name. Raises `NotFound`, ..."""
        parsed = Source.parse(source if "/" in source else f"{source}/")
        peer = await self._fetcher.peer(self._peer(parsed.peer))
        patience = self.settings.requester.patience_s if patience_s is None else patience_s
        async for entry in list_directory(peer, parsed.share, parsed.path, patience_s=patience):
            yield entry

    async def prober(self, peer: str, limits: Limits) -> Prober:
        """What measures the link to a peer. Raises `NotFound`, `BrokerUnreachable`, ..."""
        return Prober(await self._fetcher.peer(self._peer(peer)), limits)

    async def serve(
        self,
        find: Callable[[str, str, str], Share | os.PathLike[str] | None] | None = None,
        *,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        """Answer requests on every link that a peer uses, until cancelled.

        `find(peer alias, share, path)` decides what is offered: a path on this disk, a `Share` of
        the program's own, or None. It is called on the loop for every request, so it must not
        block. Without it the shares and grants on disk decide. A cancelled worker finishes the
        requests it has; so does one that somebody drains (`chunkq drain`), and this returns.
        Raises `BrokerRefused`.
        """
        directory: RegistryDirectory | OfferedShares
        if find is not None:
            directory = OfferedShares(peers=self._peers, trust=self.trust.heed, find=find)
        else:
            registry = self._registry or Registry(self.settings.directories)
            directory = RegistryDirectory(registry, self.trust.heed)
        used = {peer.link for peer in self._peers().values()} or set(self.settings.links)
        links = [self.settings.links[name] for name in sorted(used)]
        reporter = self.reporting.begin("embedded")
        await self.hand.attend(reporter.who.instance if reporter is not None else "")
        serving = Serving(self.settings, self.identity, directory, self._log)
        serving.frozen = self.hand.refuses
        await serving.run(links, self.reporting, self.hand.draining, on_ready)

    def _peers(self) -> Mapping[str, Peer]:
        """The peers as they are at this moment: on disk, or as given."""
        if self._registry is not None:
            self._registry.refresh()
            return self._registry.peers
        return {alias: pinned(alias, *_lines(each)) for alias, each in self._given_cards.items()}

    def freezes(self, alias: str) -> bool:
        """Whether somebody here wants nothing asked of that peer, or over its link."""
        if not self.hand.frozen:
            return False
        peer = self._peers().get(alias)
        return self.hand.barred_by("peer", alias) is not None or (
            peer is not None and self.hand.barred(peer) is not None
        )

    def _peer(self, alias: str) -> Peer:
        """The peer to be asked. Raises `NotFound`, `PeerDistrusted`, `IdentityError`."""
        if self.identity.ring.revocation is not None:
            raise IdentityError(
                "this site's keys are revoked, so no peer answers to them",
                hint="begin a new identity: move site.keys away, then `chunkq init`",
            )
        if self._registry is not None:
            self._registry.refresh()
            return self._registry.peer(alias).check_trusted()
        if alias not in self._given_cards:
            known = ", ".join(self._given_cards) or "none"
            raise NotFound(f"no peer is called {alias!r}", hint=f"known: {known}")
        return pinned(alias, *_lines(self._given_cards[alias]))


def origin_of(peer: Peer) -> str:
    """By what a job names the peer that it asks first: its staging is found by that."""
    return ref_of(peer).first_id.hex()


def _lines(cards: Cards) -> Sequence[str]:
    return (cards,) if isinstance(cards, str) else cards


@lru_cache(maxsize=1024)
def pinned(alias: str, card_line: str, *earlier_lines: str) -> Peer:
    """A peer whose cards a program has; those it had before count as long as it names them.

    Raises `CardInvalid`.
    """
    card = decode_card(card_line)
    never = datetime.fromtimestamp(0, UTC)
    earlier = tuple(
        Earlier(card=decode_card(line), card_line=line, left_ms=ALWAYS_MS, until_ms=ALWAYS_MS)
        for line in earlier_lines
    )
    return Peer(
        alias=alias,
        card=card,
        card_line=card_line,
        link=DEFAULT_LINK,
        address=card.name,
        added_at=never,
        earlier=earlier,
    )
