"""How a pinned peer stands: its keys now, those it had, and whether it is trusted at all.

    succession of the keys now        followed: the new ones are pinned, the old count for a while
    known already                     nothing
    of keys now or earlier, to others than were followed
                                      conflict: nothing of this peer counts until a person decides
    to keys that it had before        refused
    revocation of the keys now        revoked: nothing of this peer counts any more
    of earlier keys, naming what was followed
                                      these count no longer
    of earlier keys, naming others or none
                                      conflict

The time in a statement is not believed, because whoever holds a key writes what he likes: what
was heard first was followed, and whatever contradicts it stops all. Nothing has an effect on a peer
that is revoked or in conflict.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from chunkq.errors import StatementInvalid
from chunkq.protocol.identity import SiteCard
from chunkq.protocol.limits import (
    CONFLICT_MEMORY_MS,
    MAX_CLOCK_SKEW_MS,
    MAX_GRACE_MS,
    MAX_SUCCESSION_LINKS,
)
from chunkq.protocol.succession import NO_SUCCESSOR, Link, Revocation, Said, Succession

#: The first keys are kept whatever happens: staging on disk is named after them.
MAX_EARLIER: Final = MAX_SUCCESSION_LINKS


class Trouble(StrEnum):
    """Why nothing of a peer counts."""

    #: By its own word.
    REVOKED = "revoked"
    #: Its keys said two things that cannot both be true.
    CONFLICT = "conflict"
    #: By the word of this site's operator.
    DISTRUSTED = "distrusted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """Keys that a peer had. They count before `until_ms`; 0: they were revoked."""

    card: SiteCard
    card_line: str
    left_ms: int
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """`earlier`: the newest first. `detail` says in words what led to the trouble."""

    card: SiteCard
    card_line: str
    earlier: tuple[Earlier, ...] = ()
    trouble: Trouble | None = None
    trouble_ms: int = 0
    detail: str = ""

    @property
    def site_ids(self) -> frozenset[bytes]:
        """Every key that this peer has or had here."""
        return frozenset((self.card.site_id, *(each.card.site_id for each in self.earlier)))


def concerns(standing: Standing, statement: Said) -> bool:
    """Whether the statement names a key of this peer."""
    if isinstance(statement, Revocation):
        return statement.card.site_id in standing.site_ids
    return not standing.site_ids.isdisjoint(statement.site_ids)


def heed(standing: Standing, statement: Said, now_ms: int) -> Standing:
    """How the peer stands after a statement that holds; the same object if nothing changes.

    Raises `StatementInvalid` where it has no effect, saying why.
    """
    if standing.trouble is not None:
        raise StatementInvalid(
            f"nothing has an effect on this peer any more: it is {standing.trouble}",
            hint="a person has to decide: chunkq peer add CARD --replace, or chunkq peer rm",
        )
    if not concerns(standing, statement):
        raise StatementInvalid("the statement is about no key of this peer")
    if isinstance(statement, Revocation):
        _check_said(standing, statement.card.name, statement.issued_ms, now_ms)
        return _heed_revocation(standing, statement, now_ms)
    for link in statement.links:
        _check_said(standing, link.old.name, link.issued_ms, now_ms)
    return _heed_succession(standing, statement, now_ms)


def _check_said(standing: Standing, name: str, issued_ms: int, now_ms: int) -> None:
    if name != standing.card.name:
        raise StatementInvalid(
            f"the statement is of a site called {name}, this peer is {standing.card.name}",
            hint="a new name is a new site: pin its card with `chunkq peer add`",
        )
    if issued_ms > now_ms + MAX_CLOCK_SKEW_MS:
        raise StatementInvalid(
            f"the statement is {(issued_ms - now_ms) // 1000} s ahead of this machine's clock",
            hint="check both clocks",
        )


def _heed_succession(standing: Standing, chain: Succession, now_ms: int) -> Standing:
    """Link by link, from what is known to what is new."""
    for link in chain.links:
        if link.old.site_id == standing.card.site_id:
            standing = _follow(standing, link, now_ms)
        elif (left := _left(standing, link.old.site_id)) is not None:
            earlier, successor = left
            if link.new.site_id != successor:
                return _conflict(standing, earlier, "a second succession of the same keys", now_ms)
        elif link.new.site_id == standing.card.site_id and link.new != standing.card:
            raise StatementInvalid("the statement gives this peer another exchange key")
    return standing


def _follow(standing: Standing, link: Link, now_ms: int) -> Standing:
    if link.old != standing.card:
        raise StatementInvalid("the statement gives this peer another exchange key")
    if link.new.site_id in standing.site_ids:
        raise StatementInvalid("the succession leads back to keys that this peer left")
    left = Earlier(
        card=standing.card,
        card_line=standing.card_line,
        left_ms=now_ms,
        until_ms=min(link.until_ms, now_ms + MAX_GRACE_MS),
    )
    earlier = (left, *standing.earlier)
    if len(earlier) > MAX_EARLIER:
        earlier = (*earlier[: MAX_EARLIER - 1], earlier[-1])
    return replace(standing, card=link.new, card_line=link.card_line, earlier=earlier)


def _heed_revocation(standing: Standing, said: Revocation, now_ms: int) -> Standing:
    if said.card.site_id == standing.card.site_id:
        if said.successor != NO_SUCCESSOR:
            raise StatementInvalid(
                "the revoked keys were succeeded by others that are not known here",
                hint="first the succession: chunkq peer follow LINE",
            )
        detail = f"revoked by its owner ({said.reason.name.lower()})"
        return _in_trouble(standing, Trouble.REVOKED, detail, now_ms)
    left = _left(standing, said.card.site_id)
    assert left is not None  # `concerns` found it
    earlier, successor = left
    if said.successor != successor:
        what = "a revocation that does not know the keys that followed"
        return _conflict(standing, earlier, what, now_ms)
    if earlier.until_ms == 0:
        return standing
    ended = replace(earlier, until_ms=0)
    kept = tuple(ended if each is earlier else each for each in standing.earlier)
    return replace(standing, earlier=kept)


def _left(standing: Standing, site_id: bytes) -> tuple[Earlier, bytes] | None:
    """Earlier keys, and the id of those that were followed from them."""
    successor = standing.card.site_id
    for each in standing.earlier:
        if each.card.site_id == site_id:
            return each, successor
        successor = each.card.site_id
    return None


def _conflict(standing: Standing, earlier: Earlier, what: str, now_ms: int) -> Standing:
    if now_ms - earlier.left_ms > CONFLICT_MEMORY_MS:
        raise StatementInvalid("the statement is of keys that this peer left long ago")
    return _in_trouble(standing, Trouble.CONFLICT, what, now_ms)


def _in_trouble(standing: Standing, trouble: Trouble, detail: str, now_ms: int) -> Standing:
    return replace(standing, trouble=trouble, trouble_ms=now_ms, detail=detail)
