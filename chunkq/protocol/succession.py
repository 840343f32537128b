"""What a site says of its own keys, as lines that can be pasted: a succession, a revocation.

A *succession* is a chain of links; in each, the old keys name the new ones. Both sign: the old
one consents, the new one shows that it is held and agrees. The new card's own signature goes along,
so that whoever follows has a card to pin.

    payload  first keys 64 | links
    link     new keys 64 | issued ms u64 | until ms u64 | card 64 | accepted 64 | signature 64

`until`: how long requests of the old keys, and to them, still count. Signed by both is
`old keys 64 | new keys 64 | issued ms u64 | until ms u64 | name`, in two domains. A *consent* is a
succession whose last link the new keys have not signed yet (both their fields are zeros): what an
old machine gives to the one that replaces it.

A *revocation* is signed by the key that it kills; `successor` is the one that the key was
succeeded by, zeros if by none.

    payload  keys 64 | successor 32 | issued ms u64 | reason u16 | signature 64
"""

from __future__ import annotations

import base64
import re
import struct
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Final

from chunkq.errors import BadSignature, CardInvalid, StatementInvalid
from chunkq.protocol.identity import (
    CARD_DOMAIN,
    SiteCard,
    SiteKeys,
    card_of,
    card_signature,
    exchange,
    join_card,
    verify,
)
from chunkq.protocol.limits import (
    KEY_SIZE_BYTES,
    MAX_GRACE_MS,
    MAX_SUCCESSION_LINKS,
    SIGNATURE_SIZE_BYTES,
)

SUCCESSION_PREFIX: Final = "chunkq-succession"
CONSENT_PREFIX: Final = "chunkq-consent"
REVOCATION_PREFIX: Final = "chunkq-revocation"
STATEMENT_VERSION: Final = "1"
SUCCESSION_DOMAIN: Final = b"chunkq 1 succession"
ACCEPTED_DOMAIN: Final = b"chunkq 1 succession accepted"
REVOCATION_DOMAIN: Final = b"chunkq 1 revocation"
NO_SUCCESSOR: Final = bytes(KEY_SIZE_BYTES)
_UNSIGNED: Final = bytes(SIGNATURE_SIZE_BYTES)
_KEYS_BYTES: Final = 2 * KEY_SIZE_BYTES
_LINK: Final = struct.Struct(">64sQQ64s64s64s")
_TIMES: Final = struct.Struct(">QQ")
_REVOCATION: Final = struct.Struct(">64s32sQH64s")
_REVOCATION_SAID: Final = struct.Struct(">64s32sQH")
_LARGEST_PAYLOAD: Final = _KEYS_BYTES + MAX_SUCCESSION_LINKS * _LINK.size
#: Prefix, version, name and the longest payload: what need be read of a file with a line in it.
MAX_STATEMENT_LENGTH: Final = 128 + -(-_LARGEST_PAYLOAD * 4 // 3)
_COPY_HINT: Final = "copy the whole line that `chunkq rotate` or `chunkq revoke` printed"


class Reason(IntEnum):
    """Why a key is revoked: a word for people, without effect."""

    UNSPECIFIED = 0
    COMPROMISED = 1
    RETIRED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One change of keys. `until_ms`: the old ones count before it."""

    old: SiteCard
    new: SiteCard
    issued_ms: int
    until_ms: int
    card: bytes = _UNSIGNED
    accepted: bytes = _UNSIGNED
    signature: bytes = _UNSIGNED

    @property
    def card_line(self) -> str:
        """The new card, to be pinned."""
        return join_card(self.new, self.card)

    @property
    def said(self) -> bytes:
        """What both keys sign."""
        times = _TIMES.pack(self.issued_ms, self.until_ms)
        return b"".join((_keys(self.old), _keys(self.new), times, self.new.name.encode()))


@dataclass(frozen=True, slots=True)
class Succession:
    """A chain of changes, the oldest first. One that was decoded holds in every link."""

    links: tuple[Link, ...]

    @property
    def name(self) -> str:
        return self.links[0].old.name

    @property
    def newest(self) -> SiteCard:
        return self.links[-1].new

    @property
    def newest_line(self) -> str:
        """The newest card, as a line."""
        return self.links[-1].card_line

    @property
    def site_ids(self) -> frozenset[bytes]:
        """Every key in it."""
        return frozenset((self.links[0].old.site_id, *(link.new.site_id for link in self.links)))

    @property
    def line(self) -> str:
        return self._line(SUCCESSION_PREFIX)

    @property
    def consent_line(self) -> str:
        """As long as the newest keys have not signed."""
        return self._line(CONSENT_PREFIX)

    def _line(self, prefix: str) -> str:
        payload = [_keys(self.links[0].old)]
        payload += [
            _LINK.pack(
                _keys(link.new),
                link.issued_ms,
                link.until_ms,
                link.card,
                link.accepted,
                link.signature,
            )
            for link in self.links
        ]
        return _line(prefix, self.name, b"".join(payload))


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """A key's own word that it counts no more. One that was decoded holds."""

    card: SiteCard
    successor: bytes
    issued_ms: int
    reason: Reason
    signature: bytes = _UNSIGNED

    @property
    def said(self) -> bytes:
        fields = (_keys(self.card), self.successor, self.issued_ms, self.reason)
        return _REVOCATION_SAID.pack(*fields) + self.card.name.encode()

    @property
    def line(self) -> str:
        fields = (_keys(self.card), self.successor, self.issued_ms, self.reason, self.signature)
        return _line(REVOCATION_PREFIX, self.card.name, _REVOCATION.pack(*fields))


Said = Succession | Revocation


# ---------------------------------------------------------------- making


def consent(
    keys: SiteKeys,
    to: SiteCard,
    *,
    earlier: Succession | None = None,
    issued_ms: int,
    until_ms: int,
) -> Succession:
    """The old keys' part of a change to `to`, behind the changes before it.

    The oldest link makes way where the chain would be too long. Raises `StatementInvalid`.
    """
    link = Link(
        old=card_of(keys, to.name),
        new=to,
        issued_ms=max(issued_ms, earlier.links[-1].issued_ms if earlier else 0),
        until_ms=until_ms,
    )
    link = replace(link, signature=keys.sign(SUCCESSION_DOMAIN, link.said))
    links = (*(earlier.links if earlier else ()), link)
    chain = Succession(links[-MAX_SUCCESSION_LINKS:])
    _check(chain, complete=False)
    return chain


def accept(consented: Succession, keys: SiteKeys) -> Succession:
    """The new keys' part. Raises `StatementInvalid` if the consent is to other keys."""
    last = consented.links[-1]
    if card_of(keys, consented.name) != last.new:
        raise StatementInvalid(
            "the consent is to the keys of another site",
            hint="give the card that `chunkq id` prints here to `chunkq rotate --consent-to`",
        )
    signed = replace(
        last,
        card=card_signature(keys, consented.name),
        accepted=keys.sign(ACCEPTED_DOMAIN, last.said),
    )
    return Succession((*consented.links[:-1], signed))


def revoke(
    keys: SiteKeys, name: str, *, successor: bytes = NO_SUCCESSOR, issued_ms: int, reason: Reason
) -> Revocation:
    """The end of `keys`, said by themselves."""
    said = Revocation(
        card=card_of(keys, name), successor=successor, issued_ms=issued_ms, reason=reason
    )
    return replace(said, signature=keys.sign(REVOCATION_DOMAIN, said.said))


# ---------------------------------------------------------------- reading


def decode_statement(text: str) -> Said:
    """A succession or a revocation, all its signatures checked; white space does not matter.

    Raises `StatementInvalid`, saying what is wrong with it.
    """
    prefix, name, payload = _cut(text)
    if prefix == SUCCESSION_PREFIX:
        return _decode_chain(name, payload, complete=True)
    if prefix == REVOCATION_PREFIX:
        return _decode_revocation(name, payload)
    raise StatementInvalid(
        f"a statement begins with '{SUCCESSION_PREFIX}:' or '{REVOCATION_PREFIX}:', "
        f"this with {prefix[:20]!a}",
        hint=_COPY_HINT,
    )


def decode_consent(text: str) -> Succession:
    """What the old machine said, checked; to be given to `accept`. Raises `StatementInvalid`."""
    prefix, name, payload = _cut(text)
    if prefix != CONSENT_PREFIX:
        raise StatementInvalid(
            f"a consent begins with '{CONSENT_PREFIX}:', this with {prefix[:20]!a}",
            hint="copy the whole line that `chunkq rotate --consent-to` printed",
        )
    return _decode_chain(name, payload, complete=False)


def is_statement(text: str) -> bool:
    """Whether it looks like a line of a succession or revocation."""
    return text.lstrip().startswith((f"{SUCCESSION_PREFIX}:", f"{REVOCATION_PREFIX}:"))


def _decode_chain(name: str, payload: bytes, *, complete: bool) -> Succession:
    rest = len(payload) - _KEYS_BYTES
    if rest < _LINK.size or rest % _LINK.size:
        raise StatementInvalid("the succession is cut short, or too long", hint=_COPY_HINT)
    if rest // _LINK.size > MAX_SUCCESSION_LINKS:
        raise StatementInvalid(f"more than {MAX_SUCCESSION_LINKS} changes of keys in one line")
    old = _card(name, payload[:_KEYS_BYTES])
    links = []
    for fields in _LINK.iter_unpack(payload[_KEYS_BYTES:]):
        new = _card(name, fields[0])
        link = Link(
            old=old,
            new=new,
            issued_ms=fields[1],
            until_ms=fields[2],
            card=fields[3],
            accepted=fields[4],
            signature=fields[5],
        )
        links.append(link)
        old = new
    chain = Succession(tuple(links))
    _check(chain, complete=complete)
    return chain


def _check(chain: Succession, *, complete: bool) -> None:
    """Every rule that needs nothing but the chain. Raises `StatementInvalid`."""
    if len(chain.site_ids) != len(chain.links) + 1:
        raise StatementInvalid("the succession comes back to a key that it left")
    issued_ms = 0
    for link in chain.links:
        if link.issued_ms < issued_ms:
            raise StatementInvalid("the succession's changes are not in the order of their times")
        issued_ms = link.issued_ms
        if not 0 <= link.until_ms - link.issued_ms <= MAX_GRACE_MS:
            raise StatementInvalid(
                f"old keys would count for {link.until_ms - link.issued_ms} ms; "
                f"the most is {MAX_GRACE_MS}"
            )
        if exchange(link.new.verify_key, link.new.exchange_key) is None:
            raise StatementInvalid("the new exchange key is of low order")
        signed = complete or link is not chain.links[-1]
        _check_signatures(link, by_both=signed)


def _check_signatures(link: Link, *, by_both: bool) -> None:
    try:
        verify(link.old.verify_key, SUCCESSION_DOMAIN, link.said, link.signature)
        if by_both:
            verify(link.new.verify_key, ACCEPTED_DOMAIN, link.said, link.accepted)
            card = _keys(link.new) + link.new.name.encode()
            verify(link.new.verify_key, CARD_DOMAIN, card, link.card)
    except BadSignature as error:
        raise StatementInvalid(
            "a signature of the succession is wrong: it was changed on its way, or forged",
            hint=_COPY_HINT,
        ) from error


def _decode_revocation(name: str, payload: bytes) -> Revocation:
    if len(payload) != _REVOCATION.size:
        raise StatementInvalid("the revocation is cut short, or too long", hint=_COPY_HINT)
    keys, successor, issued_ms, reason, signature = _REVOCATION.unpack(payload)
    try:
        word = Reason(reason)
    except ValueError:
        raise StatementInvalid(f"reason {reason} of the revocation is not known") from None
    said = Revocation(
        card=_card(name, keys),
        successor=successor,
        issued_ms=issued_ms,
        reason=word,
        signature=signature,
    )
    try:
        verify(said.card.verify_key, REVOCATION_DOMAIN, said.said, signature)
    except BadSignature as error:
        raise StatementInvalid(
            "the revocation's signature is wrong: it was changed on its way, or forged",
            hint=_COPY_HINT,
        ) from error
    return said


# ---------------------------------------------------------------- lines


def _keys(card: SiteCard) -> bytes:
    return card.verify_key + card.exchange_key


def _card(name: str, keys: bytes) -> SiteCard:
    try:
        return SiteCard(name, keys[:KEY_SIZE_BYTES], keys[KEY_SIZE_BYTES:])
    except CardInvalid as error:
        raise StatementInvalid(error.message, hint=error.hint) from error


def _line(prefix: str, name: str, payload: bytes) -> str:
    text = base64.urlsafe_b64encode(payload).decode().rstrip("=")
    return f"{prefix}:{STATEMENT_VERSION}:{name}:{text}"


def _cut(text: str) -> tuple[str, str, bytes]:
    """Prefix, name and payload; one text for one payload. Raises `StatementInvalid`."""
    if len(text) > 2 * MAX_STATEMENT_LENGTH:
        raise StatementInvalid(f"a line of {len(text)} characters is no statement")
    fields = "".join(text.split()).split(":")
    if len(fields) > 1 and fields[1] not in ("", STATEMENT_VERSION):
        raise StatementInvalid(
            f"this statement has version {fields[1][:20]!a}, known is {STATEMENT_VERSION}",
            hint="one of both sites needs an update of chunkq",
        )
    if len(fields) != 4:
        raise StatementInvalid("the line is cut short, or two were pasted", hint=_COPY_HINT)
    prefix, _, name, encoded = fields
    if re.search(r"[^A-Za-z0-9_-]", encoded) or len(encoded) % 4 == 1:
        raise StatementInvalid("the line is cut short or mistyped", hint=_COPY_HINT)
    payload = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    if base64.urlsafe_b64encode(payload).decode().rstrip("=") != encoded:
        raise StatementInvalid("the line's last character is wrong", hint=_COPY_HINT)
    return prefix, name, payload
