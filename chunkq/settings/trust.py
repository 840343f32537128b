"""Who is pinned and what is offered: peers, shares and grants, and their files.

`peers/<alias>.toml` holds a card and how the peer is reached; `shares/<name>.toml` holds a
directory and who may see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chunkq.errors import CardInvalid, ConfigError, PeerDistrusted, UnsafeName, UsageError
from chunkq.protocol.identity import SiteCard, decode_card
from chunkq.protocol.limits import (
    DEFAULT_CHUNK_SIZE_BYTES,
    MAX_CHUNK_SIZE_BYTES,
    MAX_PATH_SIZE_BYTES,
    MIN_CHUNK_SIZE_BYTES,
)
from chunkq.protocol.names import check_path
from chunkq.protocol.quota import PeerQuota
from chunkq.protocol.standing import MAX_EARLIER, Earlier, Standing, Trouble
from chunkq.settings.files import find_line
from chunkq.settings.model import DEFAULT_LINK, LABEL, LABEL_RULE, Label
from chunkq.settings.nearest import did_you_mean
from chunkq.settings.quantity import SizeBytes, show_size

#: A card is one line of a few hundred characters.
MAX_CARD_LENGTH: Final = 4096
#: Nothing is said of it in particular.
AS_ALL: Final = PeerQuota()
_EPOCH: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A pinned site. `alias` is what it is called here, `address` its name on the link.

    `card_line` is the card as it was given, or as a succession gave it. `follow`: a succession is
    followed when it is heard of, not only by `chunkq peer follow`. `quota`: what it may have, where
    that is not what all may.
    """

    alias: str
    card: SiteCard
    card_line: str
    link: str
    address: str
    added_at: datetime
    follow: bool = True
    earlier: tuple[Earlier, ...] = ()
    trouble: Trouble | None = None
    trouble_ms: int = 0
    detail: str = ""
    quota: PeerQuota = AS_ALL

    @property
    def standing(self) -> Standing:
        """Its keys, and whether they count."""
        return Standing(**{each.name: getattr(self, each.name) for each in fields(Standing)})

    def at(self, standing: Standing) -> Peer:
        """The same peer with another standing."""
        return replace(
            self, **{each.name: getattr(standing, each.name) for each in fields(Standing)}
        )

    def check_trusted(self) -> Peer:
        """The peer itself. Raises `PeerDistrusted` where nothing may be asked of it."""
        if self.trouble is None:
            return self
        since = moment(self.trouble_ms).strftime("%Y-%m-%d %H:%M UTC")
        raise PeerDistrusted(
            f"{self.alias} is not trusted since {since}: {self.detail}",
            hint="ask its owner which card holds, by another way than this link, then: "
            f"chunkq peer add CARD --as {self.alias} --replace",
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """`peer` (an alias) may see what lies at and under `prefix`; empty: the whole share."""

    peer: str
    prefix: str = ""

    def covers(self, path: str) -> bool:
        """Whether the `/`-separated `path` is the prefix or below it."""
        return not self.prefix or path == self.prefix or path.startswith(f"{self.prefix}/")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareConfig:
    """A directory offered under a name. `chunk_size_bytes` is what the origin would rather use.

    `follow_links`: symbolic links that stay inside the share are offered as what they lead to, not
    as links. `hidden`: names that begin with a dot are offered.
    """

    name: str
    path: Path
    chunk_size_bytes: int = DEFAULT_CHUNK_SIZE_BYTES
    follow_links: bool = False
    hidden: bool = True
    grants: tuple[Grant, ...] = ()

    def allows(self, alias: str, path: str) -> bool:
        """Whether the peer may see the `/`-separated `path`."""
        return any(grant.peer == alias and grant.covers(path) for grant in self.grants)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class _EarlierTable(_File):
    card: str = Field(max_length=MAX_CARD_LENGTH)
    left_at: datetime
    until: datetime


class _TroubleTable(_File):
    what: Trouble
    since: datetime
    detail: str = ""


class QuotaTable(_File):
    """The keys are those of `[origin]` and `[requester]`; `disk` is `disk_per_peer`."""

    requests_per_second: float | None = Field(default=None, gt=0)
    bytes_in_flight: SizeBytes | None = Field(default=None, ge=1)
    bytes_per_day: SizeBytes | None = None
    pending_requests: int | None = Field(default=None, ge=1)
    pending_hashes: int | None = Field(default=None, ge=1)
    pending_transfers: int | None = Field(default=None, ge=1)
    disk: SizeBytes | None = None

    @property
    def quota(self) -> PeerQuota:
        given = self.model_dump()
        return PeerQuota(**{QUOTA_KEYS[key]: value for key, value in given.items()})


#: What a key of the table is called in `PeerQuota`.
QUOTA_KEYS: Final = {
    "requests_per_second": "requests_per_s",
    "bytes_in_flight": "bytes_in_flight",
    "bytes_per_day": "bytes_per_day",
    "pending_requests": "pending_requests",
    "pending_hashes": "pending_hashes",
    "pending_transfers": "pending_transfers",
    "disk": "disk_bytes",
}
#: Which of them are sizes.
SIZE_KEYS: Final = frozenset({"bytes_in_flight", "bytes_per_day", "disk"})


def quota_to_table(quota: PeerQuota) -> dict[str, Any]:
    """What differs from the defaults, as one would write it."""
    values = {key: getattr(quota, name) for key, name in QUOTA_KEYS.items()}
    return {
        key: show_size(value) if key in SIZE_KEYS else value
        for key, value in values.items()
        if value is not None
    }


class _PeerFile(_File):
    card: str = Field(max_length=MAX_CARD_LENGTH)
    link: Label = DEFAULT_LINK
    address: Label | None = None
    added_at: datetime = _EPOCH
    follow: bool = True
    trouble: _TroubleTable | None = None
    earlier: list[_EarlierTable] = Field(default_factory=list, max_length=MAX_EARLIER)
    quota: QuotaTable = Field(default_factory=QuotaTable)


class _GrantTable(_File):
    peer: Label
    prefix: str = Field(default="", max_length=MAX_PATH_SIZE_BYTES)


class _ShareFile(_File):
    path: Path
    chunk_size_bytes: SizeBytes = Field(default=DEFAULT_CHUNK_SIZE_BYTES, alias="chunk_size")
    follow_links: bool = False
    hidden: bool = True
    grants: list[_GrantTable] = Field(default_factory=list)


def check_label(word: str, what: str) -> str:
    """`word` if it may name a site, a peer, a link or a share. Raises `UsageError`."""
    if LABEL.fullmatch(word) is None:
        raise UsageError(
            f"{word!r} cannot be the name of a {what}",
            hint=f"use {LABEL_RULE}",
        )
    return word


def check_prefix(prefix: str) -> str:
    """A grant's prefix without its outer slashes. Raises `UsageError`."""
    bare = prefix.strip("/")
    try:
        check_path(bare)
    except UnsafeName as error:
        raise UsageError(f"no path inside a share: {error.message}", hint=error.hint) from None
    return bare


def peer_from_table(alias: str, table: Mapping[str, Any], path: Path, text: str) -> Peer:
    """Raises `ConfigError` naming file and key, also for a card that does not hold."""
    parsed = _parse(_PeerFile, table, path, text)
    try:
        card = decode_card(parsed.card)
        earlier = tuple(
            Earlier(
                card=decode_card(each.card),
                card_line=each.card,
                left_ms=millis(each.left_at),
                until_ms=millis(each.until),
            )
            for each in parsed.earlier
        )
    except CardInvalid as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from error
    trouble = parsed.trouble
    return Peer(
        alias=alias,
        card=card,
        card_line=parsed.card,
        link=parsed.link,
        address=parsed.address or card.name,
        added_at=parsed.added_at,
        follow=parsed.follow,
        earlier=earlier,
        trouble=trouble.what if trouble else None,
        trouble_ms=millis(trouble.since) if trouble else 0,
        detail=trouble.detail if trouble else "",
        quota=parsed.quota.quota,
    )


def peer_to_table(peer: Peer) -> dict[str, Any]:
    table: dict[str, Any] = {
        "card": peer.card_line,
        "link": peer.link,
        "address": peer.address,
        "added_at": peer.added_at,
    }
    if not peer.follow:
        table["follow"] = False
    if quota := quota_to_table(peer.quota):
        table["quota"] = quota
    if peer.trouble is not None:
        since = moment(peer.trouble_ms)
        table["trouble"] = {"what": str(peer.trouble), "since": since, "detail": peer.detail}
    if peer.earlier:
        table["earlier"] = [
            {
                "card": each.card_line,
                "left_at": moment(each.left_ms),
                "until": moment(each.until_ms),
            }
            for each in peer.earlier
        ]
    return table


def moment(at_ms: int) -> datetime:
    """Milliseconds since 1970 as a time for people."""
    return _EPOCH + timedelta(milliseconds=at_ms)


def millis(at: datetime) -> int:
    """A time as milliseconds since 1970."""
    return (at.replace(tzinfo=at.tzinfo or UTC) - _EPOCH) // timedelta(milliseconds=1)


def share_from_table(name: str, table: Mapping[str, Any], path: Path, text: str) -> ShareConfig:
    """Raises `ConfigError` naming file and key."""
    parsed = _parse(_ShareFile, table, path, text)
    size = parsed.chunk_size_bytes
    try:
        return make_share(
            name,
            parsed.path,
            chunk_size_bytes=size,
            follow_links=parsed.follow_links,
            hidden=parsed.hidden,
            grants=tuple(Grant(grant.peer, check_prefix(grant.prefix)) for grant in parsed.grants),
        )
    except UsageError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from error


def make_share(
    name: str,
    path: Path,
    *,
    chunk_size_bytes: int = DEFAULT_CHUNK_SIZE_BYTES,
    follow_links: bool = False,
    hidden: bool = True,
    grants: tuple[Grant, ...] = (),
) -> ShareConfig:
    """A share whose name, path and chunk size hold. Raises `UsageError`."""
    check_label(name, "share")
    size = chunk_size_bytes
    if not MIN_CHUNK_SIZE_BYTES <= size <= MAX_CHUNK_SIZE_BYTES or size & (size - 1):
        raise UsageError(
            f"chunk_size {size} cannot be used", hint="give a power of two from 4KiB to 4MiB"
        )
    if not path.is_absolute():
        raise UsageError(f"{path} is not an absolute path", hint="write the whole path")
    return ShareConfig(
        name=name,
        path=path,
        chunk_size_bytes=size,
        follow_links=follow_links,
        hidden=hidden,
        grants=grants,
    )


def share_to_table(share: ShareConfig) -> dict[str, Any]:
    return {
        "path": str(share.path),
        "chunk_size": show_size(share.chunk_size_bytes),
        "follow_links": share.follow_links,
        "hidden": share.hidden,
        "grants": [{"peer": grant.peer, "prefix": grant.prefix} for grant in share.grants],
    }


_F = TypeVar("_F", bound=_File)


def _parse(model: type[_F], table: Mapping[str, Any], path: Path, text: str) -> _F:
    try:
        return model.model_validate(dict(table))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    line = find_line(text, key)
    place = f"{path}:{line}" if line else str(path)
    if first["type"] == "extra_forbidden":
        known = [shape.alias or name for name, shape in model.model_fields.items()]
        raise ConfigError(
            f"{place}: unknown key {key!r}",
            hint=did_you_mean(key, known) or f"known keys: {', '.join(known)}",
        )
    raise ConfigError(f"{place}: {key}: {first['msg'].removeprefix('Value error, ')}")
