"""A file's requests: what each asks for, and why one could not be sent."""

from __future__ import annotations

from dataclasses import dataclass

from chunkq.errors import Nacked, TransportError, Unroutable
from chunkq.ports import LinkHealth
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.limits import COMMIT_BYTES, COMMIT_INTERVAL_MS
from chunkq.protocol.manifest import Head
from chunkq.protocol.messages import Chunks, Open, Pages, Receipt
from chunkq.protocol.packet import RequestKind
from chunkq.protocol.priority import PriorityWord
from chunkq.protocol.transfer_events import Waiting
from chunkq.runtime.peer import PeerLink


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is to be had: from whom, and what it is called there."""

    peer: PeerLink
    share: str
    path: str

    def __str__(self) -> str:
        return f"{self.peer.ref.alias}:{self.share}/{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to fetch, as it is called at the origin that was named first, and how."""

    share: str
    path: str
    overwrite: bool = False
    patience_s: float = 120.0
    commit_bytes: int = COMMIT_BYTES
    commit_interval_s: float = COMMIT_INTERVAL_MS / 1000
    priority: PriorityWord = "normal"
    #: Where only one version will do: its content digest.
    content_digest: bytes | None = None


def request_body(
    effect: ev.AskOpen | ev.AskPages | ev.AskChunks,
    priority: PriorityWord,
    place: Place,
    head: Head | None,
    largest_chunk_bytes: int,
) -> tuple[RequestKind, Open | Pages | Chunks]:
    """The request that an effect means."""
    instance = place.peer.requester.instance
    if isinstance(effect, ev.AskOpen):
        return RequestKind.OPEN, Open(
            instance=instance,
            priority=priority,
            share=place.share,
            path=place.path,
            largest_chunk=largest_chunk_bytes,
        )
    assert head is not None
    pages = isinstance(effect, ev.AskPages)
    return RequestKind.PAGES if pages else RequestKind.CHUNKS, (Pages if pages else Chunks)(
        instance=instance,
        priority=priority,
        share=place.share,
        path=place.path,
        root=head.root,
        chunk_size=head.geometry.chunk_size_bytes,
        runs=list(effect.runs),
    )


def receipt(place: Place, head: Head) -> Receipt:
    """What tells an origin that its file is published here."""
    return Receipt(
        instance=place.peer.requester.instance,
        share=place.share,
        path=place.path,
        root=head.root,
    )


def waiting_for(error: TransportError, health: LinkHealth) -> Waiting:
    """What a person is told while a request cannot be sent."""
    if not health.ok:
        return Waiting(health.reason, health.detail)
    if isinstance(error, Unroutable):
        return Waiting("peer_silent", error.message)
    return Waiting("busy" if isinstance(error, Nacked) else "broker_unreachable", error.message)
