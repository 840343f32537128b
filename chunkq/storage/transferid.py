"""What a transfer is called on disk: the same at each run of the same command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from blake3 import blake3

_CONTEXT: Final = "chunkq 1 transfer id"
_SIZE_BYTES: Final = 16


def transfer_id(origin: bytes, share: str, path: str, parts: Sequence[str]) -> str:
    """32 hexadecimal digits for "this source of this site, to this name below the destination"."""
    told = b"\0".join((origin, share.encode(), path.encode(), "/".join(parts).encode()))
    return blake3(told, derive_key_context=_CONTEXT).hexdigest(_SIZE_BYTES)
