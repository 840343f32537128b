"""What a transfer notes down of the file that it gets, so that it can be checked later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from chunkq.errors import BadSignature
from chunkq.protocol.identity import SiteCard
from chunkq.protocol.manifest import Head, verify_head
from chunkq.protocol.messages import ManifestReply
from chunkq.runtime.asking import Place


class Record(Protocol):
    """What is noted of a file that is received. Calls block."""

    def page(self, head: Head, page: int, leaves: bytes) -> None:
        """A page of leaves came; unchecked."""
        ...

    def published(self, head: Head, manifest: ManifestReply, signer: bytes) -> None:
        """The file is at its place, durably, and its staging still there.

        May be told again after a crash. Raises `StorageError`.
        """
        ...


class Recorder:
    """Tells a record, if there is one. `places`: whose signatures count."""

    def __init__(self, record: Record | None, places: Sequence[Place]) -> None:
        self._record = record
        self._places = places

    @property
    def cards(self) -> list[tuple[SiteCard, ...]]:
        """Of each origin, those that count now: its keys may change while the file comes."""
        return [place.peer.ref.cards for place in self._places]

    def page(self, head: Head | None, page: int, leaves: bytes) -> Callable[[], None] | None:
        """A page came, unchecked; what notes it down, on a thread."""
        record = self._record
        if record is None or head is None:
            return None
        return lambda: record.page(head, page, leaves)

    def published(self, head: Head, manifest: ManifestReply | None) -> None:
        """The file is at its place, and its staging still there. Blocks. Raises `StorageError`."""
        if self._record is not None and manifest is not None:
            self._record.published(head, manifest, signer_of(manifest, self.cards))


def signer_of(manifest: ManifestReply, origins: Sequence[Sequence[SiteCard]]) -> bytes:
    """The verify key of whoever of these signed it. Raises `BadSignature`."""
    for card in (card for cards in origins for card in cards):
        with suppress(BadSignature):
            verify_head(card, manifest.head, manifest.signature)
            return card.verify_key
    raise BadSignature("the manifest was signed by none of the origins")
