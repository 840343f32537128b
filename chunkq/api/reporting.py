"""What this process says of itself while a site is open: begun when there is something to say."""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from chunkq.compose import Fetcher, SystemClock
from chunkq.errors import StorageError
from chunkq.ports import Log, Transport
from chunkq.protocol.report import Report, Role
from chunkq.runtime.origin import OriginWorker
from chunkq.runtime.peer import Requester
from chunkq.runtime.reporting import LinkEnd, Reporter, Told, Who
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
        self._served: list[Served] = []
        self._label: Instance | None = None
        self._task: asyncio.Task[None] | None = None
        self._writing: asyncio.Future[None] | None = None
        self._given_up = False

    # ------------------------------------------------------------ where it looks

    def links(self) -> Iterator[LinkEnd]:
        """As `Sources` says: transports that are being opened included."""
        for link, transport in self._fetcher.ends():
            yield LinkEnd(link.name, link.transport, transport)
        for served in self._served:
            yield LinkEnd(served.link.name, served.link.transport, served.transport)

    def workers(self) -> Iterator[OriginWorker]:
        """As `Sources` says."""
        return (served.worker for served in self._served if served.worker is not None)

    def requesters(self) -> Iterator[Requester]:
        """As `Sources` says."""
        return iter(self._fetcher.requesters)

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
            self._task = asyncio.ensure_future(self._run(self.reporter))
        return self.reporter

    def _claim(self, role: Role) -> str:
        if role != "origin":
            return self._fetcher.instance
        state = self._settings.directories.state
        self._label = claim_instance(state, directory=ORIGINS_DIRECTORY)
        return self._label.label

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

    @contextmanager
    def serving(self, link: Link, transport: Transport) -> Iterator[Served]:
        """For as long as a link is served, or tried to be."""
        served = Served(link, transport)
        self._served.append(served)
        try:
            yield served
        finally:
            self._served.remove(served)

    async def close(self) -> None:
        """The process ends, or the site is closed: its report goes."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
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

    async def _write(self, report: Report) -> None:
        """Once begun it is not cancelled, so that nothing is written when the file has gone."""
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
