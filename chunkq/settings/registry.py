"""The peers and shares of a site, as they are on disk right now.

A running worker calls `refresh` before it decides, so that adding and removing take effect at
once. A file that does not hold counts as absent: who cannot be read is not trusted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

from chunkq.errors import ConfigError, NotFound, StatementInvalid, StorageError, UsageError
from chunkq.protocol.quota import PeerQuota
from chunkq.protocol.standing import Trouble, concerns, heed
from chunkq.protocol.succession import Said
from chunkq.settings.files import parse_toml, read_text, write_toml
from chunkq.settings.nearest import did_you_mean
from chunkq.settings.places import Directories
from chunkq.settings.trust import (
    Grant,
    Peer,
    ShareConfig,
    check_label,
    peer_from_table,
    peer_to_table,
    share_from_table,
    share_to_table,
)

SUFFIX: Final = ".toml"

_T = TypeVar("_T")
#: inode, size, mtime_ns: a file written by us always gets a new inode.
_Stamp = tuple[int, int, int]


@dataclass(slots=True)
class _Folder(Generic[_T]):
    """The parsed files of one directory; each is parsed again only when its stamp changed."""

    path: Path
    parse: Callable[[str, Mapping[str, Any], Path, str], _T]
    stamps: dict[str, _Stamp] = field(default_factory=dict)
    entries: dict[str, _T] = field(default_factory=dict)
    problems: dict[str, ConfigError] = field(default_factory=dict)

    def refresh(self) -> bool:
        found = dict(self._scan())
        if found == self.stamps:
            return False
        for name in self.stamps.keys() - found.keys():
            self.entries.pop(name, None)
            self.problems.pop(name, None)
        for name in sorted(found):
            if self.stamps.get(name) != found[name]:
                self._read(name)
        self.stamps = found
        return True

    def _scan(self) -> Iterator[tuple[str, _Stamp]]:
        try:
            with os.scandir(self.path) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIX) and not entry.name.startswith("."):
                        # a file removed between scan and stat is absent
                        with contextlib.suppress(FileNotFoundError):
                            stat = entry.stat()
                            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
                            yield entry.name.removesuffix(SUFFIX), stamp
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {error.strerror}") from error

    def _read(self, name: str) -> None:
        path = self.path / f"{name}{SUFFIX}"
        self.entries.pop(name, None)
        self.problems.pop(name, None)
        try:
            check_label(name, "peer or share")
            text = read_text(path)
            if text is not None:
                self.entries[name] = self.parse(name, parse_toml(path, text), path, text)
        except ConfigError as error:
            self.problems[name] = error
        except UsageError as error:
            self.problems[name] = ConfigError(f"{path}: {error.message}", hint=error.hint)


class Registry:
    """Peers, shares and grants. Reading is free of I/O; `refresh` costs one stat a file."""

    def __init__(self, directories: Directories) -> None:
        self._directories = directories
        self._peers = _Folder(directories.peers, peer_from_table)
        self._shares = _Folder(directories.shares, share_from_table)
        self._by_key: dict[bytes, Peer] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Read again what changed on disk; True if anything did. Raises `StorageError`."""
        peers, shares = self._peers.refresh(), self._shares.refresh()
        if peers:
            self._by_key = {
                site_id: peer
                for peer in self._peers.entries.values()
                for site_id in peer.standing.site_ids
            }
        return peers or shares

    @property
    def problems(self) -> tuple[ConfigError, ...]:
        """What is wrong with files that count as absent."""
        return (*self._peers.problems.values(), *self._shares.problems.values())

    @property
    def peers(self) -> Mapping[str, Peer]:
        """By alias."""
        return MappingProxyType(self._peers.entries)

    @property
    def shares(self) -> Mapping[str, ShareConfig]:
        """By name."""
        return MappingProxyType(self._shares.entries)

    def peer(self, alias: str) -> Peer:
        """Raises `NotFound` naming the nearest alias, `ConfigError` if its file does not hold."""
        return _lookup(self._peers, alias, "peer", "chunkq peer add CARD")

    def share(self, name: str) -> ShareConfig:
        """Raises `NotFound` naming the nearest share, `ConfigError` if its file does not hold."""
        return _lookup(self._shares, name, "share", "chunkq share add NAME PATH")

    def peer_by_key(self, verify_key: bytes) -> Peer | None:
        """The peer that signs with this key, or did; None: then the sender is a stranger.

        Whether the key still counts, and the peer is trusted, is in the `Peer`.
        """
        return self._by_key.get(verify_key)

    def allows(self, alias: str, share: str, path: str) -> bool:
        """Whether a grant covers the `/`-separated path."""
        offered = self._shares.entries.get(share)
        return offered is not None and offered.allows(alias, path)

    def granted(self, alias: str) -> tuple[tuple[str, Grant], ...]:
        """Every `(share, grant)` of a peer."""
        return tuple(
            (share.name, grant)
            for share in self._shares.entries.values()
            for grant in share.grants
            if grant.peer == alias
        )

    # ------------------------------------------------------------ changes

    def add_peer(self, peer: Peer, *, replace_card: bool = False) -> bool:
        """Pin a peer; False if it was pinned just so before. Raises `UsageError`.

        Another card under a pinned alias is refused unless `replace_card`; one card under two
        aliases is refused always, because then a request could not be told to be from one of them.
        """
        check_label(peer.alias, "peer")
        check_label(peer.address, "site on a link")
        with self._writing():
            twin = self.peer_by_key(bytes(peer.card.verify_key))
            if twin is not None and twin.alias != peer.alias:
                raise UsageError(
                    f"this card is already pinned as {twin.alias}",
                    hint=f"to rename it, first: chunkq peer rm {twin.alias}",
                )
            pinned = self._peers.entries.get(peer.alias)
            if pinned is not None and pinned.trouble is not None:
                _check_decided(pinned, peer, replace_card=replace_card)
            elif pinned is not None and pinned.card == peer.card:
                peer = peer.at(pinned.standing)
            if pinned is not None:
                peer = replace(peer, quota=pinned.quota)
            if pinned is not None and pinned.card != peer.card and not replace_card:
                raise UsageError(
                    f"another card is already pinned as {peer.alias}",
                    hint="choose a name with --as, or give --replace if its owner told you so",
                )
            if pinned is not None and replace(peer, added_at=pinned.added_at) == pinned:
                return False
            self._write_peer(peer)
        return True

    def set_quota(self, alias: str, quota: PeerQuota) -> bool:
        """Let a peer have so much; False if it is so already. Raises `NotFound`."""
        with self._writing():
            peer = self.peer(alias)
            if peer.quota == quota:
                return False
            self._write_peer(replace(peer, quota=quota))
        return True

    def heed(
        self,
        statement: Said,
        now_ms: int,
        *,
        by_hand: bool = False,
        prepare: Callable[[bytes], None] = lambda _: None,
    ) -> tuple[Peer, Peer]:
        """Let a statement have its effect on the peer that it is about: before, and after.

        `by_hand`: an operator gave it, so that it counts for peers that are not followed of
        themselves, too. `prepare` hears of the id of new keys before they are pinned.
        Raises `StatementInvalid` where it has no effect, `StorageError`.
        """
        with self._writing():
            about = [
                peer for peer in self._peers.entries.values() if concerns(peer.standing, statement)
            ]
            if len(about) != 1:
                raise StatementInvalid(
                    "the statement is about no peer that is pinned here"
                    if not about
                    else "the statement is about several peers here: "
                    + ", ".join(sorted(peer.alias for peer in about)),
                    hint="chunkq peer ls shows who is pinned",
                )
            before = about[0]
            after = before.at(heed(before.standing, statement, now_ms))
            if after == before:
                return before, before
            if not (by_hand or before.follow or after.trouble or after.card == before.card):
                raise StatementInvalid(
                    f"{before.alias} has other keys now, and is followed by hand only",
                    hint=f"chunkq peer follow {statement.line}",
                )
            if after.card != before.card:
                prepare(after.card.site_id)
            self._write_peer(after)
        return before, after

    def distrust_peer(self, alias: str, now_ms: int, detail: str) -> bool:
        """Let nothing of a peer count from now on; False if it was so. Raises `NotFound`."""
        with self._writing():
            peer = self.peer(alias)
            if peer.trouble is not None:
                return False
            self._write_peer(
                replace(peer, trouble=Trouble.DISTRUSTED, trouble_ms=now_ms, detail=detail)
            )
        return True

    def _write_peer(self, peer: Peer) -> None:
        write_toml(self._directories.peers / f"{peer.alias}{SUFFIX}", peer_to_table(peer))

    def remove_peer(self, alias: str) -> tuple[tuple[str, Grant], ...]:
        """Forget a peer and its grants; returns the grants. Raises `NotFound`."""
        with self._writing():
            if alias not in self._peers.problems:
                self.peer(alias)
            _unlink(self._directories.peers / f"{alias}{SUFFIX}")
            dropped = self.granted(alias)
            for name in sorted({name for name, _ in dropped}):
                share = self.share(name)
                self._store(share, tuple(g for g in share.grants if g.peer != alias))
        return dropped

    def add_share(self, share: ShareConfig) -> bool:
        """Offer a directory; False if it was offered just so before. Raises `UsageError`."""
        with self._writing():
            offered = self._shares.entries.get(share.name)
            if offered is not None and offered.path != share.path:
                raise UsageError(
                    f"the share {share.name} is already {offered.path}",
                    hint=f"choose another name, or first: chunkq share rm {share.name}",
                )
            grants = (*(offered.grants if offered else ()), *share.grants)
            for grant in grants:
                self.peer(grant.peer)
            merged = replace(share, grants=tuple(dict.fromkeys(grants)))
            if merged == offered:
                return False
            self._store(merged, merged.grants)
        return True

    def remove_share(self, name: str) -> None:
        """Offer it no more. Raises `NotFound`."""
        with self._writing():
            if name not in self._shares.problems:
                self.share(name)
            _unlink(self._directories.shares / f"{name}{SUFFIX}")

    def grant(self, share: str, grant: Grant) -> bool:
        """Let a peer see a share; False if it could before. Raises `NotFound`."""
        with self._writing():
            self.peer(grant.peer)
            offered = self.share(share)
            if grant in offered.grants:
                return False
            self._store(offered, (*offered.grants, grant))
        return True

    def revoke(self, share: str, grant: Grant) -> bool:
        """Take back exactly this grant; False if there was none. Raises `NotFound`."""
        with self._writing():
            offered = self.share(share)
            if grant not in offered.grants:
                return False
            self._store(offered, tuple(kept for kept in offered.grants if kept != grant))
        return True

    def _store(self, share: ShareConfig, grants: tuple[Grant, ...]) -> None:
        path = self._directories.shares / f"{share.name}{SUFFIX}"
        write_toml(path, share_to_table(replace(share, grants=grants)))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One command changes the files at a time, from what is on disk now."""
        try:
            self._directories.config.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._directories.config / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            place = self._directories.config
            raise StorageError(f"cannot write in {place}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refresh()
            yield
        finally:
            os.close(lock)
            self.refresh()


def _lookup(folder: _Folder[_T], name: str, what: str, how: str) -> _T:
    if name in folder.problems:
        raise folder.problems[name]
    try:
        return folder.entries[name]
    except KeyError:
        known = sorted(folder.entries)
        listed = f"known: {', '.join(known)}" if known else f"there is none yet; try: {how}"
        hint = did_you_mean(name, known) or listed
        raise NotFound(f"no {what} is called {name!r}", hint=hint) from None


def _check_decided(pinned: Peer, peer: Peer, *, replace_card: bool) -> None:
    """Only a deliberate act ends a distrust. Raises `UsageError`."""
    if not replace_card:
        raise UsageError(
            f"{pinned.alias} is not trusted: {pinned.detail}",
            hint="give --replace if its owner told you, by another way, that this card holds",
        )
    if pinned.trouble is Trouble.REVOKED and peer.card.site_id == pinned.card.site_id:
        raise UsageError(
            f"{pinned.alias}'s owner revoked this very card",
            hint="ask for the card of its new keys",
        )


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"cannot remove {path}: {error.strerror}") from error
