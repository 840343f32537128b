"""What libsodium's curves gave is remembered while a world lives: a tenth of its time.

Both ends of a packet live in one process. The secret that one end derives, the other derives too;
and a signature that was made with a key holds under it. Nothing else is taken as known: whatever an
adversary changed, or made with other keys, goes to libsodium.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from unittest.mock import patch

from nacl import bindings

from chunkq.protocol.limits import KEY_SIZE_BYTES, SIGNATURE_SIZE_BYTES


class Curves:
    """The four functions of `nacl.bindings` that cost tens of microseconds a call."""

    def __init__(self) -> None:
        self._scalarmult = bindings.crypto_scalarmult
        self._base = bindings.crypto_scalarmult_base
        self._sign = bindings.crypto_sign
        self._open = bindings.crypto_sign_open
        self._publics: dict[bytes, bytes] = {}
        #: By the two public keys, in order.
        self._shared: dict[tuple[bytes, bytes], bytes] = {}
        #: What was signed here, and by whom.
        self._signed: set[tuple[bytes, bytes]] = set()

    def base(self, secret: bytes) -> bytes:
        public = self._publics.get(secret)
        if public is None:
            public = self._publics[secret] = self._base(secret)
        return public

    def scalarmult(self, secret: bytes, other: bytes) -> bytes:
        own = self.base(secret)
        pair = (own, other) if own < other else (other, own)
        shared = self._shared.get(pair)
        if shared is None:
            shared = self._shared[pair] = self._scalarmult(secret, other)
        return shared

    def sign(self, message: bytes, secret: bytes) -> bytes:
        signed = self._sign(message, secret)
        self._signed.add((signed, secret[KEY_SIZE_BYTES:]))
        return signed

    def open(self, signed: bytes, public: bytes) -> bytes:
        if (signed, public) in self._signed:
            return signed[SIGNATURE_SIZE_BYTES:]
        return self._open(signed, public)


def remembered_curves() -> AbstractContextManager[object]:
    """Until the end of the block; what was in place before is put back."""
    curves = Curves()
    return patch.multiple(
        bindings,
        crypto_scalarmult=curves.scalarmult,
        crypto_scalarmult_base=curves.base,
        crypto_sign=curves.sign,
        crypto_sign_open=curves.open,
    )
