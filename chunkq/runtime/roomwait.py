"""A transfer that found no room on the disk: looks again, ever later, and tells when there is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from chunkq.ports import Log
from chunkq.protocol.limits import MIB
from chunkq.protocol.transfer import Transfer
from chunkq.runtime.tasks import Tasks

#: How often a full disk is looked at again, and how much room ends the wait (or all that lacks).
SPACE_POLL_S: Final = 1.0
MAX_SPACE_POLL_S: Final = 15.0
SPACE_ENOUGH_BYTES: Final = 16 * MIB


class RoomWait:
    """`free()`: the room above what stays free. `back()` hears of it."""

    def __init__(
        self,
        free: Callable[[], Awaitable[int]],
        back: Callable[[], None],
        steps: Tasks,
        log: Log,
    ) -> None:
        self._free = free
        self._back = back
        self._steps = steps
        self._log = log
        self._poll: asyncio.Task[None] | None = None
        self._poll_s = SPACE_POLL_S
        #: It waits for others to leave as much as shall stay free, and needs nothing itself.
        self.below_floor = False

    def begin(self, detail: str, transfer: Transfer) -> None:
        """There is none now."""
        if self._poll is None or self._poll.done():
            self._log("disk_full", level="warning", detail=detail)
            self._poll = self._steps.spawn(self._run(transfer))

    def written(self) -> None:
        """There was some: the next wait begins anew."""
        self._poll_s = SPACE_POLL_S

    def end(self) -> None:
        if self._poll is not None:
            self._poll.cancel()

    async def _run(self, transfer: Transfer) -> None:
        """Look for room, ever later where there seems to be some and no write succeeds (quota)."""
        while True:
            await asyncio.sleep(self._poll_s)
            self._poll_s = min(2 * self._poll_s, MAX_SPACE_POLL_S)
            if await self._free() >= self._needed_bytes(transfer):
                self.below_floor = False
                self._back()
                return

    def _needed_bytes(self, transfer: Transfer) -> int:
        if self.below_floor:
            return 0
        if transfer.head is None:
            return SPACE_ENOUGH_BYTES
        missing = transfer.bitmap.count - transfer.bitmap.present
        return min(SPACE_ENOUGH_BYTES, missing * transfer.head.geometry.chunk_size_bytes)
