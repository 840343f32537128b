"""BLAKE3: plain for content, with a domain of its own for everything else that is hashed."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from blake3 import blake3

from chunkq.protocol.limits import KIB

Buffer = bytes | bytearray | memoryview

#: What zeros are hashed from, a piece at a time: small enough to stay in a core's cache.
ZEROS: Final = bytes(256 * KIB)

PAGE_DOMAIN: Final = "chunkq 1 manifest page"
ROOT_DOMAIN: Final = "chunkq 1 manifest root"
FINGERPRINT_DOMAIN: Final = "chunkq 1 site fingerprint"


def digest(data: Buffer) -> bytes:
    """The plain BLAKE3 of `data`, 32 bytes: what `b3sum` prints."""
    return blake3(data).digest()


def domain_digest(domain: str, data: Buffer) -> bytes:
    """BLAKE3 of `data` in a domain of its own (derive-key mode), 32 bytes.

    It never equals `digest` of anything, nor that of another domain.
    """
    return blake3(data, derive_key_context=domain).digest()


def add_zeros(hasher: blake3, length: int) -> None:
    """Feed `length` zero bytes to `hasher` without allocating them."""
    whole, rest = divmod(length, len(ZEROS))
    for _ in range(whole):
        hasher.update(ZEROS)
    if rest:
        hasher.update(memoryview(ZEROS)[:rest])


@lru_cache(maxsize=64)
def zero_digest(length: int) -> bytes:
    """`digest` of `length` zero bytes; remembered, as a sparse file asks for the same two."""
    hasher = blake3()
    add_zeros(hasher, length)
    return hasher.digest()
