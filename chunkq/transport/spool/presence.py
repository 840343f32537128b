"""Whether the spool is there, as the transport's health; looks for it by itself while it is not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from chunkq.ports import LinkHealth


class Presence:
    """`look` returns why the spool is absent, or an empty string.

    A publisher waits for good health before it tries again, so somebody else has to notice that the
    medium is back.
    """

    def __init__(self, look: Callable[[], Awaitable[str]], interval_s: float) -> None:
        self._look = look
        self._interval_s = interval_s
        self._absence = ""
        self._looking: asyncio.Task[None] | None = None

    @property
    def health(self) -> LinkHealth:
        if not self._absence:
            return LinkHealth(ok=True)
        return LinkHealth(ok=False, reason="spool_unavailable", detail=self._absence)

    def lost(self, absence: str) -> None:
        self._absence = absence
        if self._looking is None:
            self._looking = asyncio.create_task(self._look_for_it())

    def found(self) -> None:
        self._absence = ""

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look_for_it(self) -> None:
        while self._absence:
            await asyncio.sleep(self._interval_s)
            self._absence = await self._look()
        self._looking = None
