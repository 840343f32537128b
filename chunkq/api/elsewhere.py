"""This site's processes on other hosts, for who looks at the site and steers it from this one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from chunkq.api.acting import Action
from chunkq.api.status import Status
from chunkq.api.views import TransferRow
from chunkq.compose import load_identity
from chunkq.errors import BrokerUnreachable, IdentityError, StorageError
from chunkq.ports import Log
from chunkq.protocol.control import DROP
from chunkq.protocol.report import Report
from chunkq.settings import Settings
from chunkq.telemetry.logs import write as write_log

#: How long somebody who pressed a button waits for a carrier to take what he wants.
WAIT_S: Final = 10.0


class Elsewhere:
    """Use `listening`; until then, and after it, nothing can be sent."""

    def __init__(self, settings: Settings, *, log: Log = write_log) -> None:
        self._settings = settings
        self._log = log
        self._status: Status | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def listening(self, heard: Callable[[Report], None]) -> AsyncIterator[None]:
        """Hear reports for the time of an `async with`; `heard` may block: it is called on threads.

        Without keys that can be read this site has no way to know its own; that is logged.
        """
        self._loop = loop = asyncio.get_running_loop()
        try:
            identity = await asyncio.to_thread(load_identity, self._settings)
        except (IdentityError, StorageError) as error:
            self._log("status_unavailable", level="warning", detail=error.message)
            yield
            return

        def take(report: Report) -> None:
            loop.run_in_executor(None, heard, report)

        async with Status.listen(self._settings, take, identity=identity, log=self._log) as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None

    def send(self, row: TransferRow, action: Action, word: str, drop: bool, by: str) -> None:
        """Have the process that has this transfer do it. Blocks, so not on the loop.

        Raises `ChunkqError` if it cannot be told; what comes of it shows in its next reports.
        """
        if self._status is None or self._loop is None:
            raise BrokerUnreachable(f"{row.host} is not reached: nothing listens to it here")
        value = word if action == "priority" else DROP if drop else ""
        asked = asyncio.run_coroutine_threadsafe(
            self._status.control(
                row.host, row.instance, action, transfers=[row.id], value=value, by=by
            ),
            self._loop,
        )
        try:
            asked.result(WAIT_S)
        except TimeoutError:
            asked.cancel()
            raise BrokerUnreachable(f"{row.host} is not reached: its link takes nothing") from None
