"""Processes of this site on other hosts: what they say is heard, and what a person wants is sent.

Actions run in threads and the links on the loop: `send` waits in its thread until a carrier has
taken the command.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from chunkq.api.operations import Operations
from chunkq.api.status import Status
from chunkq.api.views import TransferRow, WorkerView
from chunkq.compose import load_identity, write_log
from chunkq.errors import BrokerUnreachable, ChunkqError, IdentityError, NotFound, StorageError
from chunkq.protocol.control import DROP, Action
from chunkq.protocol.report import Report
from chunkq.runtime.listening import MAX_PROCESSES
from chunkq.runtime.ownsite import CONTROL_LIFETIME_S
from chunkq.settings import Settings
from chunkq.storage.control import Kind

#: Two looks' worth of reports of as many processes as are remembered.
MAX_WAITING: Final = 2 * MAX_PROCESSES
#: `Status.control` gives up by itself; a thread waits a little longer for it to say so.
_PATIENCE_S: Final = CONTROL_LIFETIME_S + 5.0


class Elsewhere:
    """Hears and steers other hosts within `listening`; outside of it nobody is there."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reports: deque[Report] = deque(maxlen=MAX_WAITING)

    @asynccontextmanager
    async def listening(self, settings: Settings) -> AsyncIterator[None]:
        """Raises `ConfigError`. Without keys that can be read this site has no way to know its own
        processes elsewhere; that is logged, and the page is about this host.
        """
        self._loop = asyncio.get_running_loop()
        try:
            identity = await asyncio.to_thread(load_identity, settings)
        except (IdentityError, StorageError) as error:
            write_log("status_unavailable", level="warning", detail=error.message)
            yield
            return
        async with Status.listen(settings, self._reports.append, identity=identity) as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None

    def tell(self, operations: Operations) -> None:
        """Hand on what was heard since the last time."""
        while self._reports:
            operations.heard(self._reports.popleft())

    def send(self, row: TransferRow, action: Action, word: str, drop: bool, by: str) -> None:
        """What `Operations` does with a transfer of another host. Raises `ChunkqError`."""
        if self._loop is None:
            raise _unreached(row.host)
        value = (DROP if drop else "") if action == "cancel" else word
        sending = asyncio.run_coroutine_threadsafe(
            self._control(row.host, row.instance, action, by, transfers=(row.id,), value=value),
            self._loop,
        )
        try:
            sending.result(_PATIENCE_S)
        except TimeoutError as error:
            raise BrokerUnreachable(f"{row.host} could not be told in time") from error

    async def drain(self, worker: WorkerView, by: str) -> None:
        """Raises `ChunkqError`."""
        await self._control(worker.host, worker.instance, "drain", by)

    async def freeze(
        self, operations: Operations, action: Action, kind: Kind, name: str, by: str
    ) -> list[str]:
        """Freeze or thaw on every other host that is heard of; those that could not be told."""
        one_of_each = {each.host: each for each in operations.workers() if not each.here}
        untold = []
        for host, worker in one_of_each.items():
            try:
                await self._control(host, worker.instance, action, by, value=f"{kind}:{name}")
            except ChunkqError as error:
                untold.append(f"{host}: {error.message}")
        return untold

    async def _control(
        self,
        host: str,
        instance: str,
        action: Action,
        by: str,
        *,
        transfers: tuple[str, ...] = (),
        value: str = "",
    ) -> None:
        if self._status is None:
            raise _unreached(host)
        await self._status.control(host, instance, action, transfers=transfers, value=value, by=by)


def _unreached(host: str) -> NotFound:
    return NotFound(f"{host} is not reached: nothing listens to it here")
