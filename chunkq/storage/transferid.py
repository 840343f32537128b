"""What a transfer is called on disk: the same at each run of the same command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from blake3 import blake3

_CONTEXT: Final = "chunkq 1 transfer id"
_MENDING_CONTEXT: Final = "chunkq 1 mending id"
_SIZE_BYTES: Final = 16


def transfer_id(origin: bytes, share: str, path: str, parts: Sequence[str]) -> str:
    """32 hexadecimal digits for "this source of this site, to this name below the destination"."""
    told = _told(origin, share, path, parts)
    return blake3(told, derive_key_context=_CONTEXT).hexdigest(_SIZE_BYTES)


def mending_id(
    origin: bytes, share: str, path: str, parts: Sequence[str], content_digest: bytes
) -> str:
    """The same for the repair of one version: what a `get` of another has staged is not touched."""
    told = content_digest + _told(origin, share, path, parts)
    return blake3(told, derive_key_context=_MENDING_CONTEXT).hexdigest(_SIZE_BYTES)


def _told(origin: bytes, share: str, path: str, parts: Sequence[str]) -> bytes:
    return b"\0".join((origin, share.encode(), path.encode(), "/".join(parts).encode()))
