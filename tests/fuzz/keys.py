"""Targets: what sites say of their keys, and the file that they keep them in."""

from __future__ import annotations

from chunkq.protocol.identity import SiteKeys, card_of
from chunkq.protocol.keyring import KeyRing
from chunkq.protocol.succession import Reason, decode_consent, decode_statement
from tests.fuzz.target import Target
from tests.protocol.sites import ALICE, BOB

NOW_MS = 1_700_000_000_000


def _entropy(size: int) -> bytes:
    return b"n" * size


def _rotated() -> KeyRing:
    return KeyRing(keys=ALICE).rotate("alice", _entropy, NOW_MS)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _statement_seeds() -> list[bytes]:
    ring = _rotated()
    revoked = ring.revoke("alice", Reason.COMPROMISED, NOW_MS)
    said = (ring.succession, revoked.revocation)
    return [each.line.encode() for each in said if each is not None]


def _consented() -> KeyRing:
    return _rotated().consent_to(card_of(BOB, "alice"), NOW_MS + 1)


def _consent_seeds() -> list[bytes]:
    consented = _consented().consented
    return [consented.consent_line.encode()] if consented is not None else []


def _rings() -> list[bytes]:
    rings = (KeyRing(keys=ALICE), _consented(), _rotated().revoke("alice", Reason(0), NOW_MS))
    return [ring.encode().encode() for ring in rings]


def _ring(data: bytes) -> SiteKeys:
    text = _text(data)
    ring = KeyRing.decode(text)
    assert ring.encode().split() == text.split()
    return ring.keys


TARGETS = [
    Target("statement", lambda data: decode_statement(_text(data)), _statement_seeds),
    Target("consent", lambda data: decode_consent(_text(data)), _consent_seeds),
    Target("key-ring", _ring, _rings),
]
