"""What a request is about, read from its body."""

from __future__ import annotations

from typing import Final

from chunkq.protocol import cbor
from chunkq.protocol.messages import Chunks, Open, Pages, Request
from chunkq.protocol.packet import RequestKind

_BODIES: Final[dict[int, type[Request]]] = {
    RequestKind.OPEN: Open,
    RequestKind.PAGES: Pages,
    RequestKind.CHUNKS: Chunks,
}


def path_asked_for(kind: int, body: bytes) -> str | None:
    """The path of a file that a request names; None if it is about no single one."""
    model = _BODIES.get(kind)
    decoded = None if model is None else cbor.decode(model, body)
    return decoded.path if isinstance(decoded, Open | Pages | Chunks) else None
