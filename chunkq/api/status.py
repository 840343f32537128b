"""How this site's processes are on all hosts, and telling them what to do: for the dashboard."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from chunkq.compose import SystemClock, close_link, load_identity, make_transport, write_log
from chunkq.errors import BrokerUnreachable, ChunkqError, NotFound, UsageError
from chunkq.ports import Clock, Identity, Log, Mailbox, Transport
from chunkq.protocol import cbor
from chunkq.protocol.control import MAX_TRANSFERS, Action, Command
from chunkq.protocol.packet import RequestKind
from chunkq.protocol.report import Report
from chunkq.runtime.listening import MAX_PROCESSES, StatusListener
from chunkq.runtime.ownsite import CONTROL_LIFETIME_S, OwnSealer
from chunkq.settings import Link, Settings

#: A broker that is away is tried again after this.
RETRY_S: Final = 5.0

Heard = Callable[[Report], None]


@dataclass(slots=True)
class _Process:
    report: Report
    links: dict[str, None]


class Status:
    """Reports as they come, and control. `heard` is called on the loop. Use `listen`."""

    def __init__(self, settings: Settings, identity: Identity, heard: Heard, log: Log) -> None:
        self._settings = settings
        self._heard = heard
        self._log = log
        self._clock: Clock = SystemClock()
        self._listener = StatusListener(
            identity, settings.site_name, self._clock, heard=self._take, log=log
        )
        self._sealer = OwnSealer(identity, settings.site_name, self._clock, secrets.token_bytes)
        self._transports: dict[str, Transport] = {}
        #: By host and instance, and by which links their reports came.
        self._processes: dict[tuple[str, str], _Process] = {}

    @classmethod
    @asynccontextmanager
    async def listen(
        cls,
        settings: Settings,
        heard: Heard,
        *,
        identity: Identity | None = None,
        log: Log = write_log,
    ) -> AsyncIterator[Status]:
        """Listen on every link for the time of an `async with`; what is away is waited for.

        Raises `IdentityError`, `ConfigError`.
        """
        status = cls(settings, identity or load_identity(settings), heard, log)
        tasks = [asyncio.ensure_future(status._link(link)) for link in settings.links.values()]
        try:
            yield status
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def control(
        self,
        host: str,
        instance: str,
        action: Action,
        *,
        transfers: Sequence[str] = (),
        value: str = "",
        by: str,
    ) -> None:
        """Have a process do it on its host; returns once a carrier has taken it.

        What comes of it shows in the next reports, and in the journal there. Raises `NotFound` for
        a process that nothing was heard of, `UsageError`, `TransportError`, `BrokerUnreachable`.
        """
        process = self._processes.get((host, instance))
        if process is None:
            raise NotFound(f"nothing was heard of a process {instance} on {host}")
        for first in range(0, max(1, len(transfers)), MAX_TRANSFERS):
            try:
                command = Command(
                    incarnation=process.report.incarnation,
                    action=action,
                    transfers=list(transfers[first : first + MAX_TRANSFERS]),
                    value=value,
                    by=by,
                )
            except ValueError as error:
                raise UsageError(f"cannot {action} {value!a}") from error
            await self._send(process, Mailbox("rep", process.report.site, instance), command)

    async def _send(self, process: _Process, to: Mailbox, command: Command) -> None:
        """By the first link that takes it, that of the last report first."""
        packet = self._sealer.seal(RequestKind.CONTROL, cbor.encode(command), CONTROL_LIFETIME_S)
        trouble: ChunkqError | None = None
        for link in reversed(process.links):
            transport = self._transports.get(link)
            if transport is None:
                continue
            try:
                async with asyncio.timeout(CONTROL_LIFETIME_S):
                    return await transport.publish(to, packet, lifetime_s=CONTROL_LIFETIME_S)
            except ChunkqError as error:
                trouble = error
            except TimeoutError:
                trouble = BrokerUnreachable(f"the link {link} takes nothing")
        raise trouble or BrokerUnreachable("no link to it is open")

    def _take(self, report: Report, link: str) -> None:
        known = self._processes.pop((report.host, report.instance), None)
        links = known.links if known is not None else {}
        links.pop(link, None)
        links[link] = None
        self._processes[report.host, report.instance] = _Process(report, links)
        while len(self._processes) > MAX_PROCESSES:
            del self._processes[next(iter(self._processes))]
        self._heard(report)

    async def _link(self, link: Link) -> None:
        """One link, for as long as it takes to open, and then until cancelled."""
        async with AsyncExitStack() as stack:
            transport = make_transport(link, self._settings.site_name, self._clock)
            stack.push_async_callback(close_link, link, transport, self._log)
            while True:
                try:
                    await transport.open()
                    break
                except BrokerUnreachable:
                    await asyncio.sleep(RETRY_S)
                except ChunkqError as error:
                    fields = {"link": link.name, "detail": error.message}
                    self._log("status_refused", level="warning", **fields)
                    return
            self._transports[link.name] = transport
            stack.callback(self._transports.pop, link.name)
            await self._listener.listen(link.name, transport)
