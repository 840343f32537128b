"""What this process says of itself while a site is open: begun when there is something to say."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from chunkq.api.commanding import commander
from chunkq.compose import Fetcher, SystemClock
from chunkq.errors import BrokerUnreachable, ChunkqError, StorageError, TransportClosed
from chunkq.ports import ORIGIN_PREFIX, Log, Mailbox, Transport
from chunkq.protocol.report import Report, Role
from chunkq.runtime.origin import OriginWorker
from chunkq.runtime.ownsite import ControlDesk, OwnSealer, StatusSender, listen_for_control
from chunkq.runtime.peer import Requester
from chunkq.runtime.reporting import IDLE_S, LinkEnd, Reporter, Told, Who
from chunkq.runtime.tracking import Watched
from chunkq.settings import Link, Settings
from chunkq.storage.instances import Instance, claim_instance
from chunkq.storage.reports import Reports
from chunkq.telemetry.process import open_descriptors, resident_bytes

#: Labels of processes that only serve. Those of requesters outlive them, as they name mailboxes
#: with replies in them, and are not to be taken by a process that has no use for these.
ORIGINS_DIRECTORY: Final = "origins"


@dataclass(eq=False, slots=True)
class Served:
    """One link on which this process serves. `worker`: None until it is open."""

    link: Link
    transport: Transport
    worker: OriginWorker | None = None
    listening: asyncio.Task[None] | None = None


class Reporting:
    """The reports of one process. All that is wrong with them is logged, and stops nothing."""

    def __init__(self, settings: Settings, fetcher: Fetcher, log: Log) -> None:
        self.reporter: Reporter | None = None
        #: Hears of transfers that stall; set before `begin`.
        self.told: Told | None = None
        self._settings = settings
        self._fetcher = fetcher
        self._log = log
        self._store = Reports(settings.directories.state)
        #: Links that are served now.
        self.served: list[Served] = []
        self._label: Instance | None = None
        self._desk: ControlDesk | None = None
        self._status: StatusSender | None = None
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._given_up = False

    # ------------------------------------------------------------ where it looks

    def links(self) -> Iterator[LinkEnd]:
        """As `Sources` says: transports that are being opened included."""
        for link, transport in self._fetcher.ends():
            yield LinkEnd(link.name, link.transport, transport)
        for served in self.served:
            yield LinkEnd(served.link.name, served.link.transport, served.transport)

    def workers(self) -> Iterator[OriginWorker]:
        """As `Sources` says."""
        return (served.worker for served in self.served if served.worker is not None)

    def requesters(self) -> Iterator[Requester]:
        """As `Sources` says."""
        return iter(self._fetcher.requesters)

    def desks(self) -> Iterator[ControlDesk]:
        """As `Sources` says."""
        return iter((self._desk,) if self._desk is not None else ())

    # ------------------------------------------------------------ life

    def begin(self, role: Role) -> Reporter | None:
        """Report from now on; a second time it changes nothing. None where that cannot be."""
        if self.reporter is None and not self._given_up:
            try:
                label = self._claim(role)
            except StorageError as error:
                self._given_up = True
                self._log("report_failed", level="warning", detail=error.message)
                return None
            clock = SystemClock()
            who = Who(
                site=self._settings.site_name,
                host=socket.gethostname(),
                role=role,
                instance=label,
                incarnation=secrets.token_hex(16),
                software=software(),
                started_ms=clock.wall_ms(),
            )
            self.reporter = Reporter(who, self, clock, machine=_machine, told=self.told)
            self.reporter.ready = role != "origin"
            self._speak(who, clock)
            self._task = asyncio.ensure_future(self._run(self.reporter))
            self._task.add_done_callback(self._ended)
        return self.reporter

    def _speak(self, who: Who, clock: SystemClock) -> None:
        """To this site's processes on other hosts, and hear them."""
        identity, links = self._fetcher.identity, self._settings.links
        sealer = OwnSealer(identity, who.site, clock, secrets.token_bytes)
        self._status = StatusSender(sealer, clock, lambda link: links[link].send_rate_bytes_per_s)
        self._desk = ControlDesk(
            identity,
            who.incarnation,
            clock,
            apply=commander(self._settings.directories, who.instance, self._log),
            log=self._log,
        )
        self._fetcher.commanded = self._desk.take
        for requester in self._fetcher.requesters:
            requester.commanded = self._desk.take

    def _claim(self, role: Role) -> str:
        if role != "origin":
            return self._fetcher.instance
        state = self._settings.directories.state
        self._label = claim_instance(state, directory=ORIGINS_DIRECTORY)
        return ORIGIN_PREFIX + self._label.label

    def drain(self) -> None:
        """This process takes nothing new."""
        if self.reporter is not None:
            self.reporter.draining = True

    def watch(self, watched: Watched) -> None:
        """A transfer begins."""
        if self.reporter is not None:
            self.reporter.watch(watched)

    def unwatch(self, watched: Watched) -> None:
        """It has ended."""
        if self.reporter is not None:
            self.reporter.unwatch(watched)

    @asynccontextmanager
    async def serving(self, link: Link, transport: Transport) -> AsyncIterator[Served]:
        """For as long as a link is served, or tried to be."""
        served = Served(link, transport)
        self.served.append(served)
        try:
            yield served
        finally:
            self.served.remove(served)
            if served.listening is not None:
                served.listening.cancel()
                await asyncio.wait((served.listening,))

    def listen(self, served: Served) -> None:
        """A link is served: take commands there, too, unless they come to a mailbox for replies."""
        if self.reporter is None or self._desk is None or self._label is None or served.listening:
            return
        who = self.reporter.who
        mailbox = Mailbox("rep", who.site, who.instance)
        served.listening = asyncio.ensure_future(
            self._listen(served.transport, mailbox, self._desk)
        )

    async def _listen(self, transport: Transport, mailbox: Mailbox, desk: ControlDesk) -> None:
        """Who cannot be steered from afar serves all the same."""
        while True:
            try:
                await listen_for_control(transport, mailbox, desk)
            except TransportClosed:
                return
            except BrokerUnreachable:
                await asyncio.sleep(IDLE_S)
            except ChunkqError as error:
                self._log("control_unavailable", level="warning", detail=error.message)
                return

    async def close(self) -> None:
        """The process ends, or the site is closed: its report goes."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        if self._status is not None:
            await self._status.close()
        if self._desk is not None:
            await self._desk.close()
        if self._writing is not None:
            await asyncio.wait((self._writing,))
        if self.reporter is not None:
            try:
                await asyncio.to_thread(self._store.remove, self.reporter.who.instance)
            except StorageError as error:
                self._log("report_failed", level="warning", detail=error.message)
        if self._label is not None:
            self._label.close()

    # ------------------------------------------------------------ telling

    async def _run(self, reporter: Reporter) -> None:
        try:
            await asyncio.to_thread(self._store.sweep)
        except StorageError as error:
            self._log("report_failed", level="warning", detail=error.message)
        await reporter.run(self._write, self._log)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A defect in telling is no reason to stop what is told of, but has to be seen."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log("report_failed", level="error", detail=f"{type(error).__name__}: {error}")

    async def _write(self, report: Report) -> None:
        """To who listens, and into its file.

        Once begun that is not cancelled, so that nothing is written when the file has gone.
        """
        if self._status is not None:
            self._status.send(report, ((end.link, end.transport) for end in self.links()))
        loop = asyncio.get_running_loop()
        self._writing = loop.run_in_executor(None, self._store.write, report)
        await asyncio.shield(self._writing)


def software() -> str:
    """The version of chunkq that runs."""
    try:
        return version("chunkq")
    except PackageNotFoundError:
        return ""


def _machine() -> tuple[int, int]:
    return resident_bytes(), open_descriptors()
