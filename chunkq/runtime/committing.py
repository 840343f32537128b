"""The commit: data synced, then the bitmap, then the deliveries acknowledged. In no other order.

A chunk's bit is set only after its write has returned, and a commit takes the bitmap as it is
before the sync begins; so a bit on disk is never ahead of its data.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol

from chunkq.errors import DiskFull, StorageError, SyncFailed
from chunkq.ports import Delivery, Log, Staging, TransferState
from chunkq.protocol import transfer_events as ev
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.manifest import Head
from chunkq.protocol.transfer_events import Phase
from chunkq.runtime.inbox import without_body

#: Gives deliveries back to the link that they came over.
Done = Callable[..., None]


class Committable(Protocol):
    """A transfer, as far as a commit looks at it."""

    @property
    def head(self) -> Head | None: ...

    @property
    def bitmap(self) -> Bitmap: ...


class Committer:
    """The commits of one transfer."""

    def __init__(
        self,
        staging: Staging,
        in_thread: Callable[[Callable[[], None]], Awaitable[None]],
        log: Log,
    ) -> None:
        self._staging = staging
        self._in_thread = in_thread
        self._log = log
        self._generation = 0
        #: Above what stays free on the disk, after the last commit.
        self.room_bytes = 0
        #: As of the newest slot on disk.
        self.durable = Bitmap(0)
        self._written: list[tuple[Done, Delivery]] = []

    def begin(self, generation: int, durable: Bitmap) -> None:
        """What is on disk: the newest slot, or nothing of a new version."""
        self._generation = generation
        self.durable = durable

    async def restart(self, head: Head) -> None:
        """Another version begins; generations go on.

        What is on disk of the one before is taken back first: its bits must not be ahead of the
        data once that is written over. Raises `DiskFull`, `SyncFailed`.
        """
        self.durable = Bitmap(head.geometry.chunk_count)
        if not self._generation:
            return
        state = self._state(head, Phase.RECOVERING, self.durable)
        await self._in_thread(lambda: self._store_blocking(state))
        self._generation += 1

    def keep(self, delivery: Delivery, done: Done) -> None:
        """Its chunk is in the part file; the next commit gives it back to its link by `done`."""
        self._written.append((done, without_body(delivery)))

    def release(self) -> None:
        """Give everything back: published, or to be asked for again."""
        written, self._written = self._written, []
        _give_back(written)

    async def commit(self, transfer: Committable, phase: Phase) -> ev.Event:
        """Commit what is written; returns what became of it."""
        assert transfer.head is not None
        written, self._written = self._written, []
        snapshot = transfer.bitmap.copy()
        state = self._state(transfer.head, phase, snapshot)
        try:
            await self._in_thread(lambda: self._commit_blocking(state))
        except DiskFull as error:
            self._written = written + self._written
            return ev.SpaceGone(error.message, step=True)
        except SyncFailed as error:
            self._log("sync_failed", level="error", detail=error.message)
            _give_back(written)
            return ev.SyncLost(self.durable, error.message)
        except BaseException:  # it ends; `release` gives back what would keep later ones out
            self._written = written + self._written
            raise
        self._generation += 1
        self.durable = snapshot
        _give_back(written)
        return ev.Committed(phase)

    def _state(self, head: Head, phase: Phase, bitmap: Bitmap) -> TransferState:
        """The next slot."""
        return TransferState(
            generation=self._generation + 1,
            phase=phase,
            root=head.root,
            size_bytes=head.geometry.size_bytes,
            chunk_size_bytes=head.geometry.chunk_size_bytes,
            bitmap=bitmap,
        )

    def _commit_blocking(self, state: TransferState) -> None:
        self._staging.part.sync()
        self._store_blocking(state)

    def _store_blocking(self, state: TransferState) -> None:
        self._staging.settle()
        self._staging.state.store(state)
        self.room_bytes = 0
        with suppress(StorageError):  # it is committed, whatever is to be known of the disk
            self.room_bytes = self._staging.free_bytes()


def _give_back(written: list[tuple[Done, Delivery]]) -> None:
    """To each link its own."""
    deliveries: dict[Done, list[Delivery]] = {}
    for done, delivery in written:
        deliveries.setdefault(done, []).append(delivery)
    for done, its in deliveries.items():
        done(*its)
