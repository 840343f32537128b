"""A site's keys as they changed: those now, those before while they still count, and what was said.

`encode` and `decode` are the one text of it, which is the file on disk. It holds secrets.

    chunkq-keys 2
    signing    <base64 of 32 bytes>
    exchange   <base64 of 32 bytes>
    retired    <signing> <exchange> <until, ms>      (any number, the newest first)
    succession <line>                                (if the keys were ever changed)
    consent    <line>                                (if another machine may take over)
    revocation <line>                                (if these keys are revoked)
    check      <16 hexadecimal digits: BLAKE3 of all lines before>

Keys that never changed are written as version 1: signing, exchange, and a check of both.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from blake3 import blake3

from chunkq.errors import IdentityError, StatementInvalid
from chunkq.protocol.identity import SiteCard, SiteKeys
from chunkq.protocol.limits import DEFAULT_GRACE_MS
from chunkq.protocol.succession import (
    Reason,
    Revocation,
    Said,
    Succession,
    accept,
    consent,
    decode_consent,
    decode_statement,
    revoke,
)

_FIRST_LINE: Final = "chunkq-keys 1"
_FIRST_LINE_2: Final = "chunkq-keys 2"
_CONTEXT: Final = "chunkq 1 key file"
_CONTEXT_2: Final = "chunkq 2 key file"
_CHECK_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Retired:
    """Keys that were succeeded; they count before `until_ms`."""

    keys: SiteKeys
    until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRing:
    """`retired`: the newest first. `consented`: the keys agreed to be succeeded by others."""

    keys: SiteKeys
    retired: tuple[Retired, ...] = ()
    succession: Succession | None = None
    consented: Succession | None = None
    revocation: Revocation | None = None

    @property
    def site_id(self) -> bytes:
        return self.keys.site_id

    @property
    def changed_ms(self) -> int:
        """When these keys took over; 0 for the first."""
        return self.succession.links[-1].issued_ms if self.succession else 0

    @property
    def until_ms(self) -> int:
        """When those before cease to count at the latest; 0 if there were none."""
        return self.succession.links[-1].until_ms if self.succession else 0

    @property
    def statement(self) -> Said | None:
        """What a peer that knows other keys than these, or does not know their end, is told."""
        return self.revocation or self.succession

    def counting(self, now_ms: int) -> tuple[SiteKeys, ...]:
        """The keys that still count, the newest first."""
        return (self.keys, *(each.keys for each in self.retired if now_ms < each.until_ms))

    def holder(self, site_id: bytes, now_ms: int) -> SiteKeys | None:
        """The keys behind an id, if they count."""
        if site_id == self.keys.site_id:
            return self.keys
        return next((keys for keys in self.counting(now_ms) if keys.site_id == site_id), None)

    # ------------------------------------------------------------ changes

    def rotate(
        self,
        name: str,
        entropy: Callable[[int], bytes],
        now_ms: int,
        grace_ms: int = DEFAULT_GRACE_MS,
    ) -> KeyRing:
        """New keys, from `entropy(size)`, under a succession that the present ones sign.

        These count for `grace_ms` more. Raises `IdentityError` if they may not be succeeded.
        """
        self._check_free("changed")
        new = SiteKeys.generate(entropy)
        to = SiteCard(name, new.verify_key, new.exchange_key)
        consented = consent(
            self.keys,
            to,
            earlier=self.succession,
            issued_ms=now_ms,
            until_ms=max(now_ms, self.changed_ms) + grace_ms,
        )
        chain = accept(consented, new)
        retired = Retired(self.keys, chain.links[-1].until_ms)
        kept = tuple(each for each in self.retired if now_ms < each.until_ms)
        return KeyRing(keys=new, retired=(retired, *kept), succession=chain)

    def consent_to(self, to: SiteCard, now_ms: int, grace_ms: int = DEFAULT_GRACE_MS) -> KeyRing:
        """Agree that the keys behind `to`, made elsewhere, succeed these.

        A second time it gives the same. Raises `IdentityError` for another card than before: two
        successions of the same keys would freeze this site at every peer.
        """
        if self.consented is not None and self.consented.newest == to:
            return self
        self._check_free("given to another machine")
        consented = consent(
            self.keys,
            to,
            earlier=self.succession,
            issued_ms=now_ms,
            until_ms=max(now_ms, self.changed_ms) + grace_ms,
        )
        return replace(self, consented=consented)

    def take_over(self, consented: Succession) -> KeyRing:
        """Succeed the keys of another machine. Raises `IdentityError`, `StatementInvalid`."""
        if self.succession is not None or self.consented is not None or self.revocation is not None:
            raise IdentityError(
                "these keys have a history of their own, so they cannot succeed others",
                hint="a machine that takes over begins with new keys: chunkq init",
            )
        return replace(self, succession=accept(consented, self.keys))

    def revoke(self, name: str, reason: Reason, now_ms: int) -> KeyRing:
        """The end of this identity, for good."""
        if self.revocation is not None:
            return self
        said = revoke(self.keys, name, issued_ms=now_ms, reason=reason)
        return replace(self, revocation=said)

    def revoke_retired(
        self, name: str, reason: Reason, now_ms: int
    ) -> tuple[KeyRing, tuple[Revocation, ...]]:
        """End the time of all retired keys now; each says so itself, naming what followed."""
        said = []
        successor = self.keys.site_id
        for each in self.retired:
            said.append(
                revoke(each.keys, name, successor=successor, issued_ms=now_ms, reason=reason)
            )
            successor = each.keys.site_id
        return replace(self, retired=()), tuple(said)

    def pruned(self, now_ms: int) -> KeyRing:
        """Without secrets that count no more; the same object if there are none."""
        kept = tuple(each for each in self.retired if now_ms < each.until_ms)
        return self if len(kept) == len(self.retired) else replace(self, retired=kept)

    def _check_free(self, what: str) -> None:
        if self.revocation is not None:
            raise IdentityError(
                f"these keys are revoked, so they cannot be {what}",
                hint="begin a new identity: move site.keys away, then `chunkq init`",
            )
        if self.consented is not None:
            raise IdentityError(
                f"these keys agreed to be succeeded by others, so they cannot be {what} any more",
                hint="a second succession would stop this site at every peer; go on with the "
                "machine that took over, or revoke: chunkq revoke",
            )

    # ------------------------------------------------------------ the file

    def encode(self) -> str:
        """The whole, secrets and all, as text."""
        lines = [f"signing  {_text(self.keys.signing_seed)}"]
        lines.append(f"exchange {_text(self.keys.exchange_secret)}")
        if self == KeyRing(keys=self.keys):
            material = self.keys.signing_seed + self.keys.exchange_secret
            return _file(_FIRST_LINE, lines, _check(material, _CONTEXT))
        lines += [
            f"retired {_text(each.keys.signing_seed)} {_text(each.keys.exchange_secret)} "
            f"{each.until_ms}"
            for each in self.retired
        ]
        if self.succession:
            lines.append(f"succession {self.succession.line}")
        if self.consented:
            lines.append(f"consent {self.consented.consent_line}")
        if self.revocation:
            lines.append(f"revocation {self.revocation.line}")
        return _file(_FIRST_LINE_2, lines, _check("\n".join(lines).encode(), _CONTEXT_2))

    @classmethod
    def decode(cls, text: str) -> KeyRing:
        """Read `encode`'s text. Raises `IdentityError` if a character of it is not as it was."""
        try:
            ring = _parse(text.splitlines()[1:-1])
        except (ValueError, IndexError, binascii.Error, IdentityError, StatementInvalid):
            raise IdentityError("the keys are damaged, or these are no keys") from None
        # One text for one ring; only white space is of no account.
        if text.split() != ring.encode().split():
            raise IdentityError("the keys are damaged, or these are no keys")
        return ring


def _parse(lines: list[str]) -> KeyRing:
    """Raises `ValueError` and what is in it; `decode` compares the rest."""
    words: dict[str, str] = {}
    retired = []
    for line in lines:
        word, rest = line.split(maxsplit=1)
        if word == "retired":
            signing, exchange, until = rest.split()
            retired.append(Retired(SiteKeys(_bytes(signing), _bytes(exchange)), int(until)))
        elif word in words:
            raise ValueError("a line comes twice")
        else:
            words[word] = rest.strip()
    keys = SiteKeys(_bytes(words.pop("signing", "")), _bytes(words.pop("exchange", "")))
    succession, revocation = words.pop("succession", ""), words.pop("revocation", "")
    consented = words.pop("consent", "")
    chain = decode_statement(succession) if succession else None
    end = decode_statement(revocation) if revocation else None
    if words or isinstance(chain, Revocation) or isinstance(end, Succession):
        raise ValueError("an unknown line")
    return KeyRing(
        keys=keys,
        retired=tuple(retired),
        succession=chain,
        consented=decode_consent(consented) if consented else None,
        revocation=end,
    )


def _file(first: str, lines: list[str], check: str) -> str:
    return "".join(f"{line}\n" for line in (first, *lines, f"check    {check}"))


def _text(secret: bytes) -> str:
    return base64.b64encode(secret).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _check(material: bytes, context: str) -> str:
    return blake3(material, derive_key_context=context).digest(length=_CHECK_BYTES).hex()
