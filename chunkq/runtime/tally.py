"""What one run of a transfer counts, and how that is told."""

from __future__ import annotations

from chunkq.protocol.manifest import Head
from chunkq.protocol.transfer import Transfer
from chunkq.runtime.progress import FetchProgress, FetchResult


class Tally:
    """The counts of one file: what came, what was there, what came twice."""

    def __init__(self, path: str, peer: str) -> None:
        self.new_bytes = 0
        self.duplicate_chunks = 0
        self.resumed_chunks = 0
        self.read_back_bytes = 0
        self.unchanged = False
        self._path = path
        self._peer = peer

    def progress(self, transfer: Transfer) -> FetchProgress:
        geometry = transfer.head.geometry if transfer.head else None
        total = geometry.size_bytes if geometry else 0
        present = transfer.bitmap.present
        return FetchProgress(
            path=self._path,
            peer=self._peer,
            phase=transfer.phase,
            chunks_present=present,
            chunks_total=transfer.bitmap.count,
            bytes_total=total,
            bytes_present=min(present * geometry.chunk_size_bytes, total) if geometry else 0,
            new_bytes=self.new_bytes,
            in_flight=transfer.in_flight,
            waiting=transfer.waiting,
            read_back_bytes=self.read_back_bytes,
        )

    def result(self, head: Head) -> FetchResult:
        return FetchResult(
            path=self._path,
            size_bytes=head.geometry.size_bytes,
            new_bytes=self.new_bytes,
            content_digest=head.content_digest,
            resumed_chunks=self.resumed_chunks,
            chunks_total=head.geometry.chunk_count,
            duplicate_chunks=self.duplicate_chunks,
            unchanged=self.unchanged,
        )
