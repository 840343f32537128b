"""Keys, signatures and cards."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from chunkq.errors import BadSignature, CardInvalid, IdentityError
from chunkq.protocol.identity import (
    CARD_DOMAIN,
    SiteCard,
    SiteKeys,
    card_of,
    decode_card,
    encode_card,
    exchange,
    exchange_public,
    fingerprint,
    verify,
)
from tests.protocol.sites import ALICE, ALICE_CARD, BOB_CARD

DOMAIN = b"chunkq 1 test"
CARD = encode_card(ALICE, "alice")
#: Every X25519 point of low order, as in Bernstein's list (and libsodium's).
LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]


def forged_card(card: SiteCard) -> str:
    """A card with whatever keys `card` has, signed rightly by Alice."""
    message = card.verify_key + card.exchange_key + card.name.encode()
    payload = card.verify_key + card.exchange_key + ALICE.sign(CARD_DOMAIN, message)
    text = base64.urlsafe_b64encode(payload).decode().rstrip("=")
    return f"chunkq-card:1:{card.name}:{text}"


# ---------------------------------------------------------------- keys and signatures


def test_keys_come_from_the_entropy_given() -> None:
    """Both secrets are taken from the source that is passed in, 32 bytes at a time."""
    pieces = iter([b"1" * 32, b"2" * 32])
    keys = SiteKeys.generate(lambda size: next(pieces)[:size])
    assert SiteKeys(signing_seed=b"1" * 32, exchange_secret=b"2" * 32) == keys


def test_secrets_are_not_printed() -> None:
    """A traceback or a log line with keys in it shows none of their bytes."""
    assert "SiteKeys()" == repr(ALICE)


@pytest.mark.parametrize(("seed", "secret"), [(b"", b"x" * 32), (b"x" * 32, b"x" * 33)])
def test_keys_of_another_length_are_refused(seed: bytes, secret: bytes) -> None:
    """Secrets that are not 32 bytes are an identity error, not a crash in C."""
    with pytest.raises(IdentityError):
        SiteKeys(signing_seed=seed, exchange_secret=secret)


def test_exchange_of_short_keys_is_refused() -> None:
    """libsodium would read past a short key."""
    with pytest.raises(IdentityError):
        exchange_public(b"short")
    with pytest.raises(IdentityError):
        exchange(b"x" * 32, b"short")


def test_signature_is_plain_ed25519_over_domain_zero_message() -> None:
    """Another library verifies the signature from the documented layout alone."""
    signature = ALICE.sign(DOMAIN, b"message")
    key = Ed25519PublicKey.from_public_bytes(ALICE.verify_key)
    key.verify(signature, DOMAIN + b"\0" + b"message")
    assert 64 == len(signature)


def test_exchange_key_is_plain_x25519() -> None:
    """Another library derives the same public key."""
    other = X25519PrivateKey.from_private_bytes(ALICE.exchange_secret).public_key()
    assert other.public_bytes_raw() == ALICE.exchange_key


def test_signature_holds_for_views_too() -> None:
    """Signing and verifying take any buffer."""
    signature = ALICE.sign(DOMAIN, memoryview(b"message"))
    verify(ALICE.verify_key, DOMAIN, bytearray(b"message"), memoryview(signature))
    with pytest.raises(BadSignature):
        verify(ALICE.verify_key, DOMAIN, bytearray(b"massage"), memoryview(signature))


@pytest.mark.parametrize(
    ("domain", "message", "signature"),
    [
        pytest.param(b"chunkq 1 other", b"message", ALICE.sign(DOMAIN, b"message"), id="domain"),
        pytest.param(DOMAIN, b"massage", ALICE.sign(DOMAIN, b"message"), id="message"),
        pytest.param(DOMAIN, b"message", bytes(64), id="zeros"),
        pytest.param(DOMAIN, b"message", ALICE.sign(DOMAIN, b"message")[:63], id="short"),
        pytest.param(DOMAIN, b"message", ALICE.sign(DOMAIN, b"message") + b"x", id="long"),
        pytest.param(DOMAIN, b"message", b"", id="empty"),
    ],
)
def test_wrong_signature_is_refused(domain: bytes, message: bytes, signature: bytes) -> None:
    """A signature of another domain, message or length does not hold."""
    with pytest.raises(BadSignature):
        verify(ALICE.verify_key, domain, message, signature)


def test_signature_of_a_stranger_is_refused() -> None:
    """A good signature under another key does not hold."""
    with pytest.raises(BadSignature):
        verify(BOB_CARD.verify_key, DOMAIN, b"message", ALICE.sign(DOMAIN, b"message"))


@pytest.mark.parametrize("public", LOW_ORDER)
def test_low_order_exchange_has_no_shared_secret(public: bytes) -> None:
    """Points of low order, the zero key among them, give None and not a secret known to all."""
    assert exchange(ALICE.exchange_secret, public) is None


# ---------------------------------------------------------------- cards


def test_card_of_fixed_keys() -> None:
    """The format of a card is frozen: this line must be read by every later version."""
    expected = (
        "chunkq-card:1:alice:rwaj4ykXFOTzVsGcmxXNGVHsbmZiqne-B1R_KJODNB16Gk5wm_CFrElKu"
        "gRpubHtoKsfeLFqq7ef_tqQYj6FIlXG4hhKCAI0GO-Y9QhzeM_h3Es9T8"
        "1J6dm-Db5HbTUXmj8l-UWyTzbk7eCSIVPNoc5DOZiGUGbCrA2f_geAwQc"
    )
    assert expected == CARD
    assert ALICE_CARD == decode_card(expected)
    assert "TA7L-ACUE-LN6D-43NB-O2QV-XJ37-ZWLB-QSUZ" == fingerprint(ALICE_CARD)


@given(
    st.binary(min_size=32, max_size=32), st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
)
def test_card_round_trip(seed: bytes, name: str) -> None:
    """Whatever keys and name go into a card come out of it."""
    keys = SiteKeys(signing_seed=seed, exchange_secret=seed[::-1])
    card = decode_card(encode_card(keys, name))
    assert (name, keys.verify_key, keys.exchange_key) == (
        card.name,
        card.verify_key,
        card.exchange_key,
    )


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"  {CARD}\n", id="surrounded"),
        pytest.param(
            "\r\n".join(CARD[at : at + 40] for at in range(0, len(CARD), 40)), id="wrapped"
        ),
        pytest.param(CARD.replace(":", " : "), id="spaced"),
    ],
)
def test_card_survives_being_pasted(text: str) -> None:
    """White space around a card and line wraps inside it are what mail does; they do not matter."""
    assert ALICE_CARD == decode_card(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "begins with 'chunkq-card:'", id="nothing"),
        pytest.param("ssh-ed25519 AAAA", "begins with 'chunkq-card:'", id="another-format"),
        pytest.param("chunkq-card", "cut short", id="prefix-only"),
        pytest.param("chunkq-card:1:alice", "cut short", id="no-keys"),
        pytest.param(CARD[:-1], "cut short: 170 of 171", id="one-character-short"),
        pytest.param(CARD + "A", "too long: 172 of 171", id="one-character-long"),
        pytest.param(f"{CARD} {CARD}", "two were pasted", id="twice"),
        pytest.param(CARD.replace(":1:", ":2:"), "version '2', known is 1", id="version"),
        pytest.param(CARD.replace("alice", "mallory"), "signature is wrong", id="renamed"),
        pytest.param(CARD.replace("alice", "Alice"), "no name for a site", id="capital"),
        pytest.param(CARD.replace("alice", ""), "no name for a site", id="no-name"),
        pytest.param(CARD.replace("alice", "a" * 64), "no name for a site", id="long-name"),
        pytest.param(CARD.replace("alice", "-rf"), "no name for a site", id="an-option"),
        pytest.param(CARD[:-9] + "*" + CARD[-8:], "'*' does not belong", id="stray-character"),
        pytest.param(CARD[:-9] + "é" + CARD[-8:], r"'\xe9' does not belong", id="not-ascii"),
        pytest.param(CARD[:-1] + chr(ord(CARD[-1]) + 1), "last character", id="stray-bits"),
    ],
)
def test_bad_card_is_refused_with_what_is_wrong(text: str, says: str) -> None:
    """Each way to spoil a card has a message of its own."""
    with pytest.raises(CardInvalid, match=re.escape(says)):
        decode_card(text)


def test_card_with_any_character_changed_is_refused() -> None:
    """A typing error anywhere in the line does not make another valid card."""
    for at, char in enumerate(CARD):
        changed = CARD[:at] + ("b" if char != "b" else "c") + CARD[at + 1 :]
        with pytest.raises(CardInvalid):
            decode_card(changed)


@pytest.mark.parametrize("public", LOW_ORDER)
def test_card_with_low_order_exchange_key_is_refused(public: bytes) -> None:
    """A card to which nothing can be sealed is refused, though its signature holds."""
    text = forged_card(replace(ALICE_CARD, exchange_key=public))
    with pytest.raises(CardInvalid, match="low order"):
        decode_card(text)


@pytest.mark.parametrize("name", ["", "A", "a_b", "a b", "a\n", "é", "a" * 64, "-a", "a:b"])
def test_bad_name_makes_no_card(name: str) -> None:
    """A name that cannot be a mailbox is refused when the card is made."""
    with pytest.raises(CardInvalid):
        encode_card(ALICE, name)


@pytest.mark.parametrize("keys", [(b"", b"x" * 32), (b"x" * 32, b"x" * 31)])
def test_card_with_keys_of_another_length_is_refused(keys: tuple[bytes, bytes]) -> None:
    """A short key would be padded on the wire in silence."""
    with pytest.raises(CardInvalid):
        SiteCard("alice", *keys)


def test_fingerprint_stands_for_the_keys_alone() -> None:
    """It has eight groups of four, changes with either key, and not with the name."""
    mark = fingerprint(ALICE_CARD)
    assert re.fullmatch(r"[A-Z2-7]{4}(-[A-Z2-7]{4}){7}", mark)
    assert mark == fingerprint(card_of(ALICE, "another"))
    assert mark != fingerprint(replace(ALICE_CARD, exchange_key=BOB_CARD.exchange_key))
    assert mark != fingerprint(replace(ALICE_CARD, verify_key=BOB_CARD.verify_key))
