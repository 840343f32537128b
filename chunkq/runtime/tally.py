"""What one run of a transfer counts, and how that is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from chunkq.errors import ChunkqError
from chunkq.protocol.geometry import to_ranges
from chunkq.protocol.lane import Lane
from chunkq.protocol.manifest import Head
from chunkq.protocol.report import MAX_RUNS
from chunkq.protocol.transfer import Transfer
from chunkq.runtime.progress import FetchDetail, FetchProgress, FetchResult, LaneProgress

#: Chunks on the way that are told of, of each origin: a window of the usual size. Where chunks are
#: small there may be thousands, and to sort them each second is not worth it.
MAX_TOLD: Final = 256


class Tally:
    """The counts of one file: what came, what was there, what came twice."""

    def __init__(self, path: str, peers: Sequence[str]) -> None:
        self._came = [0] * len(peers)
        self.duplicate_chunks = 0
        self.resumed_chunks = 0
        self.read_back_bytes = 0
        self.unchanged = False
        self._path = path
        self._peers = peers

    @property
    def new_bytes(self) -> int:
        return sum(self._came)

    @property
    def origins(self) -> dict[str, int]:
        """New bytes by peer."""
        return dict(zip(self._peers, self._came, strict=True))

    def left(self, transfer: Transfer | None) -> dict[str, str]:
        """Peers that are asked for nothing any more, and why."""
        lanes = () if transfer is None else transfer.lanes
        reasons = ((lane.number, lane.left) for lane in lanes)
        return {self._peers[number]: error.message for number, error in reasons if error}

    def account_for(self, error: ChunkqError, transfer: Transfer | None) -> ChunkqError:
        """Where there were several origins, the error tells of each."""
        left = self.left(transfer)
        if len(left) == len(self._peers) > 1:
            told = (f"{peer}: {why}" for peer, why in left.items())
            error.message = f"no origin is left ({'; '.join(told)})"
        return error

    def on_read_back(self, done_bytes: int) -> None:
        self.read_back_bytes = done_bytes

    def came(self, lane: int, size_bytes: int) -> None:
        self._came[lane] += size_bytes

    def progress(self, transfer: Transfer) -> FetchProgress:
        geometry = transfer.head.geometry if transfer.head else None
        total = geometry.size_bytes if geometry else 0
        present = transfer.bitmap.present
        return FetchProgress(
            path=self._path,
            peer=self._peers[0],
            phase=transfer.phase,
            chunks_present=present,
            chunks_total=transfer.bitmap.count,
            bytes_total=total,
            bytes_present=min(present * geometry.chunk_size_bytes, total) if geometry else 0,
            new_bytes=self.new_bytes,
            in_flight=transfer.in_flight,
            waiting=transfer.waiting,
            read_back_bytes=self.read_back_bytes,
            origins=self.origins,
            left=self.left(transfer),
        )

    def detail(self, transfer: Transfer) -> FetchDetail:
        """What is under way. Costs as much as there is, so not for each look."""
        live = [lane for lane in transfer.lanes if lane.left is None]
        indices = (index for lane in live for index in islice(_asked(lane), MAX_TOLD))
        return FetchDetail(
            lanes=[self._lane(lane) for lane in live],
            runs=_runs(indices),
            bad=_runs(index for index in transfer.strikes.bad if index not in transfer.bitmap),
            starved=any(lane.starved for lane in live),
        )

    def _lane(self, lane: Lane) -> LaneProgress:
        return LaneProgress(
            peer=self._peers[lane.number],
            new_bytes=self._came[lane.number],
            window_chunks=lane.window.limit,
            in_flight=len(lane.chunks),
            rtt_s=lane.window.rtt_smoothed_s or 0.0,
            silent=lane.silent or lane.window.silent,
        )

    def result(self, head: Head, transfer: Transfer | None = None) -> FetchResult:
        return FetchResult(
            path=self._path,
            size_bytes=head.geometry.size_bytes,
            new_bytes=self.new_bytes,
            content_digest=head.content_digest,
            resumed_chunks=self.resumed_chunks,
            chunks_total=head.geometry.chunk_count,
            duplicate_chunks=self.duplicate_chunks,
            unchanged=self.unchanged,
            origins=self.origins,
            left=self.left(transfer),
        )


def _asked(lane: Lane) -> Iterator[int]:
    return (index for index, _ in lane.chunks.waiting_since())


def _runs(indices: Iterable[int]) -> list[tuple[int, int]]:
    """The first of them; a chunk may be asked for at two origins."""
    return list(islice(to_ranges(sorted(set(indices))), MAX_RUNS))
