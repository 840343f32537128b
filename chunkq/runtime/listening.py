"""Hears what this site's processes say of themselves on a link, wherever they run."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

from chunkq.errors import BrokerUnreachable, ChunkqError, PacketError, TransportClosed
from chunkq.ports import STATUS_INSTANCE, Clock, Identity, Log, Mailbox, Transport
from chunkq.protocol.ownsite import OwnGate
from chunkq.protocol.packet import RequestKind
from chunkq.protocol.report import VERSION, Report

#: Reports taken at once: those of as many processes in one second.
PREFETCH: Final = 64
#: A broker that is away at the start is looked for again after this.
RETRY_S: Final = 5.0

#: Processes whose last report is remembered: ten times those that one host leaves files of.
MAX_PROCESSES: Final = 2560

#: Hears of a report, and the link it came by.
Heard = Callable[[Report, str], None]


class StatusListener:
    """Listens on any number of links of one site; every report was signed by it.

    A report that is older than the last of the same process is let go: a carrier may reorder.
    """

    def __init__(
        self, identity: Identity, site: str, clock: Clock, *, heard: Heard, log: Log
    ) -> None:
        self.site = site
        #: Packets that were no report of this site's, by code.
        self.drops: Counter[str] = Counter()
        self._identity = identity
        self._clock = clock
        self._heard = heard
        self._log = log
        self._gate: OwnGate[Report] = OwnGate(
            RequestKind.REPORT,
            Report,
            lambda site_id: identity.ring.holder(site_id, clock.wall_ms()),
        )
        #: When the last report of a process was made, by host and instance; of its present start.
        self._latest: dict[tuple[str, str], tuple[str, int]] = {}

    async def listen(self, link: str, transport: Transport) -> None:
        """Take reports until cancelled or the transport is closed; what is refused is logged."""
        mailbox = Mailbox("rep", self.site, STATUS_INSTANCE)
        while True:
            try:
                await self._consume(link, transport, mailbox)
            except TransportClosed:
                return
            except BrokerUnreachable as error:
                self._log("status_unreachable", level="info", link=link, detail=error.message)
            except ChunkqError as error:
                self._log("status_refused", level="warning", link=link, detail=error.message)
                return
            await asyncio.sleep(RETRY_S)

    async def _consume(self, link: str, transport: Transport, mailbox: Mailbox) -> None:
        consumer = await transport.consume(mailbox, prefetch=PREFETCH)
        try:
            while True:
                deliveries = await consumer.receive()
                for delivery in deliveries:
                    self.take(delivery.body, link)
                consumer.acknowledge(deliveries[-1])
        finally:
            await consumer.close()

    def take(self, packet: bytes, link: str) -> None:
        """One packet. Raises nothing that a packet can cause."""
        try:
            report = self._gate.admit(packet, self._clock.monotonic_s(), self._clock.wall_ms())
        except PacketError as error:
            self.drops[error.code] += 1
            return
        process = report.host, report.instance
        incarnation, at_ms = self._latest.get(process, ("", 0))
        if report.incarnation == incarnation and report.at_ms < at_ms:
            self.drops["late"] += 1
            return
        if report.site != self.site or report.version > VERSION:
            self.drops["unsupported"] += 1
            return
        self._latest[process] = report.incarnation, report.at_ms
        while len(self._latest) > MAX_PROCESSES:
            del self._latest[next(iter(self._latest))]
        self._heard(report, link)
