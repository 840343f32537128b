"""Implements `Transport` on a directory: publishing in batches, and what belongs to a transport."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar, TypeVarTuple

from chunkq.errors import BrokerRefused, ChunkqError, TransportClosed
from chunkq.ports import Buffer, Clock, LinkHealth, Mailbox, Traffic, TransportLimits
from chunkq.protocol.limits import MIB
from chunkq.protocol.priority import Priority
from chunkq.transport.spool.claims import Claims
from chunkq.transport.spool.consumer import SpoolConsumer
from chunkq.transport.spool.directories import SpoolDirectories
from chunkq.transport.spool.names import LAST_MS, PacketName, mailbox_directory
from chunkq.transport.spool.options import SpoolOptions
from chunkq.transport.spool.presence import Presence
from chunkq.transport.spool.writer import Outgoing, SpoolLost, SpoolWriter, packets_in

#: Written in one go: a hop to the thread costs nothing beside it, and nobody waits long for others.
WRITE_BATCH_BYTES: Final = 4 * MIB
WRITE_BATCH_PACKETS: Final = 64
#: How seldom a mailbox is looked at that nobody waits for: twenty looks a second, as at others,
#: would be as much again as the whole of an idle worker takes.
FLEETING_POLL_S: Final = 0.5
#: Ten digits in a file name; a process that publishes a million packets a second lasts hours.
SEQUENCE_END: Final = 10**10

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")
_Pending = tuple[Outgoing, asyncio.Future[None]]


class SpoolTransport:
    """See the package for the layout. One thread publishes; each consumer has one of its own."""

    def __init__(self, options: SpoolOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._directories = SpoolDirectories(options)
        self._writer = SpoolWriter(options, self._directories, clock)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chunkq-spool-publisher")
        self._presence = Presence(self._look, options.unavailable_poll_s)
        self._pending: deque[_Pending] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._consumers: list[SpoolConsumer] = []
        self._unique = os.urandom(8).hex()
        self._sequence = 0
        self._last_ms = 0
        self._sent_bytes = self._received_bytes = 0
        self._closed = False

    @property
    def limits(self) -> TransportLimits:
        return TransportLimits(self._options.max_message_bytes)

    @property
    def health(self) -> LinkHealth:
        return self._presence.health

    @property
    def traffic(self) -> Traffic:
        received = sum(consumer.received_bytes for consumer in self._consumers)
        return Traffic(self._sent_bytes, self._received_bytes + received)

    async def open(self) -> None:
        self._require_open()
        await self._in_thread(self._directories.prepare)

    async def publish(
        self,
        to: Mailbox,
        body: Buffer,
        *,
        lifetime_s: float | None = None,
        priority: Priority = Priority.NORMAL,  # noqa: ARG002 - a disk keeps nobody waiting
    ) -> None:
        self._require_open()
        content = memoryview(body)
        content = content.cast("B") if content.c_contiguous else memoryview(bytes(content))
        if content.nbytes > self._options.max_message_bytes:
            raise BrokerRefused(
                f"a packet of {content.nbytes} bytes for {to} is over the limit of the spool"
                f" {self._options.root}, {self._options.max_message_bytes}",
                hint="ask for a smaller chunk size",
            )
        directory = mailbox_directory(to)
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        name = self._next_name(content.nbytes, lifetime_s)
        outgoing = Outgoing(directory, name, content, fleeting=to.fleeting)
        self._pending.append((outgoing, written))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_pending())
        await written
        self._sent_bytes += content.nbytes
        content.release()  # the caller may resize what it gave us

    async def consume(self, mailbox: Mailbox, *, prefetch: int) -> SpoolConsumer:
        self._require_open()
        claims = Claims(
            self._options,
            self._directories,
            mailbox_directory(mailbox),
            self._clock,
            fleeting=mailbox.fleeting,
        )
        consumer = SpoolConsumer(
            self._options,
            claims,
            prefetch,
            self._presence,
            poll_max_s=FLEETING_POLL_S if mailbox.fleeting else None,
        )
        await consumer.start()
        if self._closed:
            await consumer.close()
        closed = [one for one in self._consumers if one.closed]
        self._received_bytes += sum(one.received_bytes for one in closed)
        self._consumers = [*(one for one in self._consumers if not one.closed), consumer]
        return consumer

    async def depth(self, mailbox: Mailbox) -> int:
        self._require_open()
        return await self._in_thread(self._count, mailbox_directory(mailbox))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for _, written in self._pending:
            if not written.done():
                written.set_exception(self._closed_error())
        self._pending.clear()
        if self._writing is not None:
            await asyncio.wait([self._writing])
        for consumer in self._consumers:
            await consumer.close()
        await self._presence.close()
        self._thread.shutdown(wait=False)

    async def _write_pending(self) -> None:
        """Runs for as long as something is pending; one hop to the thread for each batch."""
        while self._pending:
            batch = self._next_batch()
            outgoing = [packet for packet, _ in batch]
            outcomes: list[ChunkqError | None] | list[Exception]
            try:
                outcomes = await self._in_thread(self._writer.write, outgoing)
            except Exception as error:  # to the publishers, who would wait for ever otherwise
                outcomes = [error] * len(batch)
            for (_, written), outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, SpoolLost):
                    self._presence.lost(outcome.message)
                if written.done():
                    continue
                if outcome is None:
                    written.set_result(None)
                else:
                    written.set_exception(outcome)
        self._writing = None

    def _next_batch(self) -> list[_Pending]:
        batch: list[_Pending] = []
        size = 0
        while self._pending and len(batch) < WRITE_BATCH_PACKETS and size < WRITE_BATCH_BYTES:
            packet, written = self._pending.popleft()
            if not written.cancelled():
                batch.append((packet, written))
                size += packet.body.nbytes
        return batch

    def _next_name(self, size: int, lifetime_s: float | None) -> PacketName:
        """Names of one publisher rise even where the wall clock is set back."""
        now_ms = self._clock.wall_ms()
        self._last_ms = max(self._last_ms, now_ms)
        self._sequence = (self._sequence + 1) % SEQUENCE_END
        expires_ms = 0
        if lifetime_s is not None:
            expires_ms = max(1, min(LAST_MS, int(now_ms + lifetime_s * 1000)))
        return PacketName(self._last_ms, self._sequence, expires_ms, size, 0, self._unique)

    def _count(self, directory: str) -> int:
        now_ms = self._clock.wall_ms()
        try:
            with self._directories.opened(directory) as places:
                return sum(not packet.expired(now_ms) for packet in packets_in(places.new))
        except OSError:
            return 0

    async def _look(self) -> str:
        return await self._in_thread(self._directories.absence)

    async def _in_thread(self, work: Callable[[*_Ts], _T], *arguments: *_Ts) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _require_open(self) -> None:
        if self._closed:
            raise self._closed_error()

    def _closed_error(self) -> TransportClosed:
        return TransportClosed(
            f"the transport of {self._options.site} on {self._options.root} was closed"
        )
