"""Manifests that origins have sent, until it is decided which one is used."""

from __future__ import annotations

from chunkq.protocol.manifest import Head
from chunkq.protocol.messages import ManifestReply
from chunkq.protocol.transfer import Transfer


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
