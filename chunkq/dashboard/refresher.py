"""Looks at the site once a second, in a thread, and tells the open streams that it did."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from chunkq.api.operations import Operations
from chunkq.dashboard.elsewhere import Elsewhere
from chunkq.errors import ChunkqError
from chunkq.telemetry.logs import write as write_log

#: The state directory's processes report once a second; looking more often shows nothing new.
INTERVAL_S: Final = 1.0


class Refresher:
    """`generation` rises with each look; `trouble` is why the last one failed, or empty."""

    def __init__(self, board: Operations, elsewhere: Elsewhere, now_ms: Callable[[], int]) -> None:
        self._board = board
        self._elsewhere = elsewhere
        self._now_ms = now_ms
        self._looked = asyncio.Condition()
        self._wanted = asyncio.Event()
        self.generation = 0
        self.trouble = ""
        self.refreshed_ms = 0

    async def run(self) -> None:
        """Ends by cancellation only."""
        while True:
            await self.look()
            try:
                await asyncio.wait_for(self._wanted.wait(), INTERVAL_S)
            except TimeoutError:
                continue
            self._wanted.clear()

    def soon(self) -> None:
        """Something was done: look now."""
        self._wanted.set()

    async def look(self) -> None:
        try:
            await asyncio.to_thread(self._refresh)
        except ChunkqError as error:
            self._fail(error.message)
        except Exception as error:
            # a page that stands still and says so is better than one that only stands still
            self._fail(" ".join(f"internal error: {type(error).__name__}: {error}".split()))
        else:
            self.trouble = ""
            self.refreshed_ms = self._now_ms()
        self.generation += 1
        async with self._looked:
            self._looked.notify_all()

    def _fail(self, trouble: str) -> None:
        if trouble != self.trouble:
            write_log("refresh_failed", level="warning", detail=trouble)
        self.trouble = trouble

    def _refresh(self) -> None:
        """History first: what was done with shows there before it goes from the list."""
        self._elsewhere.tell(self._board)
        self._board.record()
        self._board.refresh()

    async def after(self, generation: int, limit_s: float) -> None:
        """Wait for a look later than that one, or for so long."""
        try:
            async with asyncio.timeout(limit_s), self._looked:
                await self._looked.wait_for(lambda: self.generation > generation)
        except TimeoutError:
            return
