"""Manifests that origins have sent, until it is decided which one is used."""

from __future__ import annotations

from chunkq.errors import OtherVersion, PeerRefused
from chunkq.protocol.identity import SiteCard
from chunkq.protocol.manifest import Head, verify_head
from chunkq.protocol.messages import ManifestReply
from chunkq.protocol.transfer import Transfer


def acceptable(
    manifest: ManifestReply, origin: SiteCard, largest_chunk_bytes: int, digest: bytes | None
) -> Head:
    """The head that an origin offers. `digest`: where only that content will do.

    Raises `PacketError`, `PeerRefused`, `OtherVersion`.
    """
    head = verify_head(origin, manifest.head, manifest.signature)
    if head.geometry.chunk_size_bytes > largest_chunk_bytes:
        raise PeerRefused("the origin cut the file into larger chunks than were allowed")
    if digest not in (None, head.content_digest):
        raise OtherVersion("it has another version by now")
    return head


class Offers:
    """By lane and version. Which one is used is the machine's decision."""

    def __init__(self) -> None:
        self._offered: dict[tuple[int, bytes, bytes], ManifestReply] = {}

    def add(self, lane: int, head: Head, manifest: ManifestReply) -> None:
        self._offered[lane, head.root, head.content_digest] = manifest

    def keep_only(self, transfer: Transfer) -> None:
        """Keep what the machine has not turned down: a head may have a MiB, and come any often."""
        heads = [(lane.number, lane.offer) for lane in transfer.lanes]
        heads.append((transfer.signer.number, transfer.head))
        kept = {(lane, head.root, head.content_digest) for lane, head in heads if head is not None}
        for offer in self._offered.keys() - kept:
            del self._offered[offer]

    def choose(self, lane: int, head: Head) -> ManifestReply | None:
        """The one with that head; none is kept any longer."""
        offered, self._offered = self._offered, {}
        return offered.get((lane, head.root, head.content_digest))
