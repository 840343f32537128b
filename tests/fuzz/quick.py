"""Cheaper keys for campaigns, where curves took most of the time and have nothing to parse.

A keyed hash stands for Ed25519: whoever has the keys signs and verifies, nobody else does. One in
sixteen signatures that do not hold is refused by the real thing. X25519 stays as it is, but what it
gave is remembered: targets agree on few keys. `make test`'s slice has neither.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

from nacl import bindings
from nacl.exceptions import BadSignatureError

from chunkq.protocol.limits import KEY_SIZE_BYTES, SIGNATURE_SIZE_BYTES

#: Of signatures that do not hold, by the last byte of what should stand there.
_REAL_EVERY = 16
#: Pairs of keys: those of the targets, and some that the input chose.
_REMEMBERED = 256

_real_open = bindings.crypto_sign_open


def use_quick_keys() -> None:
    """For the rest of this process."""
    bindings.crypto_sign = _sign
    bindings.crypto_sign_open = _open
    bindings.crypto_scalarmult = lru_cache(_REMEMBERED)(bindings.crypto_scalarmult)
    bindings.crypto_scalarmult_base = lru_cache(_REMEMBERED)(bindings.crypto_scalarmult_base)


def _sign(message: bytes, secret_key: bytes) -> bytes:
    """As libsodium has it: a secret ends with its public key, and the signature comes first."""
    return _signature(message, secret_key[KEY_SIZE_BYTES:]) + message


def _open(signed: bytes, public_key: bytes) -> bytes:
    message = signed[SIGNATURE_SIZE_BYTES:]
    expected = _signature(message, public_key)
    if signed[:SIGNATURE_SIZE_BYTES] == expected:
        return message
    if expected[-1] % _REAL_EVERY == 0:
        return _real_open(signed, public_key)
    raise BadSignatureError("Signature was forged or corrupt")


def _signature(message: bytes, public_key: bytes) -> bytes:
    return blake2b(message, key=public_key, digest_size=SIGNATURE_SIZE_BYTES).digest()
