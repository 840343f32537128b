"""Serving on the links of a site: a worker on each, until cancelled or drained."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from chunkq.api.reporting import Reporting
from chunkq.compose import (
    OfferedShares,
    RegistryDirectory,
    SystemClock,
    close_link,
    make_transport,
    origin_worker,
)
from chunkq.errors import BrokerUnreachable
from chunkq.ports import Identity, Log
from chunkq.settings import Link, Settings

#: A worker whose broker is away tries again after this, doubling up to the cap.
RETRY_S: Final = 1.0
RETRY_CAP_S: Final = 30.0


class Serving:
    """One run of workers. `frozen(alias, link)`: why a peer is asked to come back later, if so."""

    def __init__(
        self,
        settings: Settings,
        identity: Identity,
        directory: RegistryDirectory | OfferedShares,
        log: Log,
    ) -> None:
        self.frozen: Callable[[str, str], str] = lambda _alias, _link: ""
        self._settings = settings
        self._identity = identity
        self._directory = directory
        self._log = log

    async def run(
        self,
        links: Sequence[Link],
        reporting: Reporting,
        draining: asyncio.Event,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        """Serve until cancelled, or until `draining`: then finish what was taken. Raises
        `BrokerRefused`.
        """
        waiting = len(links)
        reporter = reporting.reporter
        if reporter is not None:
            reporter.ready = False

        def ready() -> None:
            nonlocal waiting
            waiting -= 1
            if waiting == 0 and reporter is not None:
                reporter.ready = True
            if waiting == 0 and on_ready is not None:
                on_ready()

        async with asyncio.TaskGroup() as group:
            serving = [group.create_task(self._serve(link, reporting, ready)) for link in links]
            group.create_task(_cancel_when(draining, serving))

    async def _serve(self, link: Link, reporting: Reporting, ready: Callable[[], None]) -> None:
        transport = make_transport(link, self._settings.site_name, SystemClock())

        def began() -> None:
            ready()
            reporting.listen(served)

        async def serve() -> None:
            worker = origin_worker(
                self._settings,
                self._identity,
                link,
                transport,
                directory=self._directory,
                frozen=lambda alias: self.frozen(alias, link.name),
                log=self._log,
            )
            async with worker as serving:
                served.worker = serving
                await serving.run(began)

        async with reporting.serving(link, transport) as served:
            try:
                await self._patiently(transport.open)
                await self._patiently(serve)
            finally:
                await close_link(link, transport, self._log)

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it again and again while the broker is away or not all there."""
        delay = RETRY_S
        while True:
            try:
                return await work()
            except BrokerUnreachable as error:
                self._log("broker_unreachable", level="warning", detail=error.message)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_CAP_S)


async def _cancel_when(event: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    await event.wait()
    for task in tasks:
        task.cancel()
