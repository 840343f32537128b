"""A site's keys, its signatures, and its card: the public half as one pasteable line.

A site has an Ed25519 key to sign with and an X25519 key to be sealed to. Its id is the Ed25519
public key. Every signature is over `domain ‖ 0x00 ‖ message`, so that one made for a manifest is
worth nothing as a request. Domains are fixed strings without a zero byte.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from nacl import bindings
from nacl.exceptions import BadSignatureError, CryptoError

from chunkq.errors import BadSignature, CardInvalid, IdentityError
from chunkq.protocol.digest import FINGERPRINT_DOMAIN, Buffer, domain_digest
from chunkq.protocol.limits import KEY_SIZE_BYTES, SIGNATURE_SIZE_BYTES

CARD_DOMAIN: Final = b"chunkq 1 site card"
CARD_PREFIX: Final = "chunkq-card"
CARD_VERSION: Final = "1"
#: Name rules are those of a label on a link, so that a name can be a mailbox, too.
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NAME_RULE: Final = "a name is 1 to 63 of a-z, 0-9 and '-', and does not begin with '-'"
_CARD_PAYLOAD_BYTES: Final = 2 * KEY_SIZE_BYTES + SIGNATURE_SIZE_BYTES
#: 128 bytes in base64url without padding.
_CARD_PAYLOAD_CHARS: Final = -(-_CARD_PAYLOAD_BYTES * 4 // 3)
#: 160 bits in groups of four letters: as much as two people will read to each other.
_FINGERPRINT_BYTES: Final = 20
_FINGERPRINT_GROUP_CHARS: Final = 4
_COPY_HINT: Final = "copy the whole line that `chunkq id` prints on the other site"


@dataclass(frozen=True)
class SiteKeys:
    """Both secrets of a site, 32 bytes each. Raises `IdentityError` for other lengths."""

    signing_seed: bytes = field(repr=False)
    exchange_secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        for what in ("signing_seed", "exchange_secret"):
            size = len(getattr(self, what))
            if size != KEY_SIZE_BYTES:
                raise IdentityError(f"{what} has {size} bytes, not {KEY_SIZE_BYTES}")

    @classmethod
    def generate(cls, entropy: Callable[[int], bytes]) -> SiteKeys:
        """New keys from `entropy(size)`, which must be unpredictable."""
        return cls(signing_seed=entropy(KEY_SIZE_BYTES), exchange_secret=entropy(KEY_SIZE_BYTES))

    @cached_property
    def _signing_pair(self) -> tuple[bytes, bytes]:
        public, secret = bindings.crypto_sign_seed_keypair(self.signing_seed)
        return public, secret

    @property
    def verify_key(self) -> bytes:
        """The Ed25519 public key, 32 bytes."""
        return self._signing_pair[0]

    @cached_property
    def exchange_key(self) -> bytes:
        """The X25519 public key, 32 bytes."""
        return exchange_public(self.exchange_secret)

    @property
    def site_id(self) -> bytes:
        """What packets call this site: its `verify_key`."""
        return self.verify_key

    def sign(self, domain: bytes, message: Buffer) -> bytes:
        """The Ed25519 signature over `domain ‖ 0x00 ‖ message`, 64 bytes."""
        signed = bindings.crypto_sign(b"\0".join((domain, message)), self._signing_pair[1])
        return signed[:SIGNATURE_SIZE_BYTES]


def verify(verify_key: bytes, domain: bytes, message: Buffer, signature: Buffer) -> None:
    """Return if `signature` is that of `verify_key`'s owner. Raises `BadSignature`."""
    if len(signature) != SIGNATURE_SIZE_BYTES or len(verify_key) != KEY_SIZE_BYTES:
        raise BadSignature(
            f"a signature of {len(signature)} bytes under a key of {len(verify_key)}"
        )
    try:
        bindings.crypto_sign_open(b"".join((signature, domain, b"\0", message)), verify_key)
    except BadSignatureError as error:
        raise BadSignature(f"the signature ({domain.decode()}) does not hold") from error


def exchange_public(secret: bytes) -> bytes:
    """The X25519 public key of `secret`, 32 bytes each. Raises `IdentityError`."""
    _check_key_size(secret)
    public: bytes = bindings.crypto_scalarmult_base(secret)
    return public


def exchange(secret: bytes, public: bytes) -> bytes | None:
    """The X25519 shared secret, 32 bytes; None for a public key of low order, which has none.

    Raises `IdentityError` for keys of another length, which libsodium would read past.
    """
    _check_key_size(secret)
    _check_key_size(public)
    try:
        shared: bytes = bindings.crypto_scalarmult(secret, public)
    except CryptoError:
        return None
    return shared


def _check_key_size(key: bytes) -> None:
    if len(key) != KEY_SIZE_BYTES:
        raise IdentityError(f"an exchange key of {len(key)} bytes, not {KEY_SIZE_BYTES}")


# ---------------------------------------------------------------- cards


@dataclass(frozen=True)
class SiteCard:
    """Who a site says it is: its name and public keys, 32 bytes each. Raises `CardInvalid`."""

    name: str
    verify_key: bytes
    exchange_key: bytes

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise CardInvalid(f"{self.name[:80]!a} is no name for a site", hint=_NAME_RULE)
        for key in (self.verify_key, self.exchange_key):
            if len(key) != KEY_SIZE_BYTES:
                raise CardInvalid(f"a key of {len(key)} bytes, not {KEY_SIZE_BYTES}")

    @property
    def site_id(self) -> bytes:
        return self.verify_key


def card_of(keys: SiteKeys, name: str) -> SiteCard:
    """The card of the owner of `keys`. Raises `CardInvalid` for a bad name."""
    return SiteCard(name, keys.verify_key, keys.exchange_key)


def encode_card(keys: SiteKeys, name: str) -> str:
    """The card as one line, `chunkq-card:1:<name>:<keys and signature>`.

    Raises `CardInvalid` for a bad name.
    """
    return join_card(card_of(keys, name), card_signature(keys, name))


def card_signature(keys: SiteKeys, name: str) -> bytes:
    """What makes a card of the keys and the name, 64 bytes. Raises `CardInvalid`."""
    return keys.sign(CARD_DOMAIN, _card_message(card_of(keys, name)))


def join_card(card: SiteCard, signature: bytes) -> str:
    """The line of a card whose signature came apart from it; it is not checked here."""
    payload = _to_text(card.verify_key + card.exchange_key + signature)
    return f"{CARD_PREFIX}:{CARD_VERSION}:{card.name}:{payload}"


def decode_card(text: str) -> SiteCard:
    """Read a card; white space and line wraps anywhere in it do not matter.

    Raises `CardInvalid`, saying what is wrong with it.
    """
    fields = "".join(text.split()).split(":")
    if fields[0] != CARD_PREFIX:
        raise CardInvalid(
            f"a site card begins with '{CARD_PREFIX}:', this with {fields[0][:20]!a}",
            hint=_COPY_HINT,
        )
    if len(fields) > 1 and fields[1] and fields[1] != CARD_VERSION:
        raise CardInvalid(
            f"this card has version {fields[1][:20]!a}, known is {CARD_VERSION}",
            hint="one of both sites needs an update of chunkq",
        )
    if len(fields) < 4:
        raise CardInvalid("the card is cut short: its keys are missing", hint=_COPY_HINT)
    if len(fields) > 4:
        raise CardInvalid("something follows the card, or two were pasted", hint=_COPY_HINT)
    name, payload = fields[2], _from_text(fields[3])
    card = SiteCard(name, payload[:KEY_SIZE_BYTES], payload[KEY_SIZE_BYTES : 2 * KEY_SIZE_BYTES])
    try:
        verify(card.verify_key, CARD_DOMAIN, _card_message(card), payload[2 * KEY_SIZE_BYTES :])
    except BadSignature as error:
        raise CardInvalid(
            "the card's signature is wrong: it was changed on its way, or mistyped",
            hint=_COPY_HINT,
        ) from error
    if exchange(card.verify_key, card.exchange_key) is None:
        raise CardInvalid("the card's exchange key is of low order: nothing can be sealed to it")
    return card


def fingerprint(card: SiteCard) -> str:
    """Eight groups of four letters that stand for both keys, to be compared by people."""
    keys = card.verify_key + card.exchange_key
    short = domain_digest(FINGERPRINT_DOMAIN, keys)[:_FINGERPRINT_BYTES]
    text = base64.b32encode(short).decode()
    step = _FINGERPRINT_GROUP_CHARS
    return "-".join(text[at : at + step] for at in range(0, len(text), step))


def _card_message(card: SiteCard) -> bytes:
    return card.verify_key + card.exchange_key + card.name.encode()


def _to_text(payload: bytes) -> str:
    return base64.urlsafe_b64encode(payload).decode().rstrip("=")


def _from_text(text: str) -> bytes:
    """The card's 128 bytes. One text for one card: stray bits at the end are refused."""
    stray = re.search(r"[^A-Za-z0-9_-]", text)
    if stray:
        raise CardInvalid(f"{stray[0]!a} does not belong into a card's keys", hint=_COPY_HINT)
    if len(text) != _CARD_PAYLOAD_CHARS:
        change = "cut short" if len(text) < _CARD_PAYLOAD_CHARS else "too long"
        raise CardInvalid(
            f"the card is {change}: {len(text)} of {_CARD_PAYLOAD_CHARS} characters of keys",
            hint=_COPY_HINT,
        )
    payload = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _to_text(payload) != text:
        raise CardInvalid("the card's last character is wrong", hint=_COPY_HINT)
    return payload
