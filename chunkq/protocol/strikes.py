"""How often something may go wrong in a transfer before it ends: each has its count and words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from chunkq.errors import (
    ChunkqError,
    IntegrityError,
    NotFound,
    NotPermitted,
    PeerRefused,
    SourceChanging,
    SyncFailed,
)
from chunkq.protocol.limits import MAX_REPAIR_ROUNDS
from chunkq.protocol.messages import Refusal, RefusalReason

#: How often the source may change under a transfer before it says so and gives up.
MAX_VERSIONS: Final = 16


class Strikes:
    """Each method takes one strike, and raises when that was one too many."""

    def __init__(self) -> None:
        self._bad: Counter[int] = Counter()
        self._stale = 0
        self._repairs = 0
        self._sync_failures = 0

    @property
    def bad(self) -> Iterable[int]:
        """Chunks that came with other bytes than were signed, at least once."""
        return self._bad

    def bad_chunk(self, index: int) -> None:
        """A chunk under a valid seal does not match its leaf. Raises `IntegrityError`."""
        self._bad[index] += 1
        if self._bad[index] >= MAX_REPAIR_ROUNDS:
            raise IntegrityError(
                f"chunk {index} came {MAX_REPAIR_ROUNDS} times with bytes that do not match"
                " the signed manifest",
                hint="the origin's disk or memory is failing, or it lies: tell its operator",
            )

    def stale(self) -> None:
        """The source changed. Raises `SourceChanging`."""
        self._stale += 1
        if self._stale > MAX_VERSIONS:
            raise SourceChanging(
                f"the source changed {MAX_VERSIONS} times while it was read",
                hint="wait until it is no longer written to, then run the same command again",
            )

    def read_back_wrong(self) -> None:
        """The whole file does not have its digest. Raises `IntegrityError`."""
        self._repairs += 1
        if self._repairs > MAX_REPAIR_ROUNDS:
            raise IntegrityError(
                f"the file was read back wrong {self._repairs} times",
                hint="this disk loses or alters data, or the origin signed a digest that is wrong",
            )

    def sync_failed(self, detail: str) -> None:
        """An fsync failed, with these words. Raises `SyncFailed`."""
        self._sync_failures += 1
        if self._sync_failures >= MAX_REPAIR_ROUNDS:
            raise SyncFailed(
                f"the part file could not be synced {MAX_REPAIR_ROUNDS} times in a row: {detail}",
                hint="look at the kernel's log; the disk may be dying",
            )

    def synced(self) -> None:
        self._sync_failures = 0


def final_refusal(refusal: Refusal) -> ChunkqError | None:
    """The error that a refusal means, if waiting does not help."""
    detail = refusal.detail
    match refusal.reason:
        case RefusalReason.NOT_FOUND:
            return NotFound(detail or "no such file there, or this site may not see it")
        case RefusalReason.NOT_PERMITTED:
            return NotPermitted(detail or "the origin does not permit it")
        case RefusalReason.TOO_LARGE | RefusalReason.UNSUPPORTED:
            return PeerRefused(detail or f"the origin refused: {refusal.reason}")
        case _:
            return None
