"""Implements `Consumer` on a spool: polls, hands out, and keeps count of what is out."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

from chunkq.errors import BrokerRefused, TransportClosed
from chunkq.ports import Delivery
from chunkq.transport.spool.claims import Claims, LetGo, Taken
from chunkq.transport.spool.names import PacketName
from chunkq.transport.spool.options import SpoolOptions
from chunkq.transport.spool.presence import Presence

#: How fast looking slows down while nothing comes: from 1 ms to 50 ms in a quarter of a second.
POLL_GROWTH: Final = 1.25


class SpoolConsumer:
    """All file work is done on one thread of its own, in order, so the loop waits for no disk."""

    def __init__(
        self,
        options: SpoolOptions,
        claims: Claims,
        prefetch: int,
        presence: Presence,
        *,
        poll_max_s: float | None = None,
    ) -> None:
        """`poll_max_s`: how seldom it may look while nothing comes, if not as the options say."""
        self._poll_max_s = poll_max_s or options.poll_max_s
        self._options = options
        self._claims = claims
        self._prefetch = prefetch
        self._presence = presence
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="chunkq-spool-consumer")
        self._held: dict[int, PacketName] = {}
        self._generation = 0
        self._next_tag = 1
        self._one_at_a_time = asyncio.Lock()
        self._wake = asyncio.Event()
        #: Survives a cancelled receive, so that what it claims goes to the next one.
        self._taking: asyncio.Future[Taken] | None = None
        self._settling = False
        self._closed = False
        self.received_bytes = 0

    @property
    def closed(self) -> bool:
        return self._closed

    async def start(self) -> None:
        """Create the mailbox and the claim directory. Raises what `Claims.attach` raises."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._claims.attach)
        except BaseException:
            self._thread.shutdown(wait=False)
            raise

    async def receive(self) -> list[Delivery]:
        async with self._one_at_a_time:
            wait_s = self._options.poll_min_s
            while True:
                self._wake.clear()
                taken = await self._take()
                if taken is not None and taken.claims:
                    return self._hand_out(taken)
                if taken is None:
                    await self._wake.wait()
                    continue
                if taken.absence:
                    wait_s = self._options.unavailable_poll_s
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await self._wake.wait()
                wait_s = min(wait_s * POLL_GROWTH, self._poll_max_s)

    async def _take(self) -> Taken | None:
        """One look at the directory; None if no more may be out."""
        if self._closed:
            raise TransportClosed("the consumer was closed")
        if self._taking is None:
            count = self._prefetch - len(self._held)
            if count <= 0:
                return None
            loop = asyncio.get_running_loop()
            self._taking = loop.run_in_executor(self._thread, self._claims.take, count)
        await asyncio.wait([self._taking])
        if self._closed:
            raise TransportClosed("the consumer was closed")
        finished, self._taking = self._taking, None
        taken = finished.result()
        if taken.absence:
            self._presence.lost(taken.absence)
        else:
            self._presence.found()
        return taken

    def _hand_out(self, taken: Taken) -> list[Delivery]:
        if taken.generation != self._generation:
            self._generation = taken.generation
            self._held.clear()
        deliveries = []
        for claim in taken.claims:
            tag = self._next_tag
            self._next_tag += 1
            self._held[tag] = claim.name
            self.received_bytes += len(claim.body)
            again = claim.name.deliveries > 0
            deliveries.append(Delivery(claim.body, tag, taken.generation, redelivered=again))
        return deliveries

    def acknowledge(self, delivery: Delivery) -> None:
        # Tags rise through all generations, and so does the order of insertion: a delivery of an
        # earlier generation is before everything that is held.
        while self._held and (tag := next(iter(self._held))) <= delivery.tag:
            self._let_go(tag, rejected=False)

    def reject(self, delivery: Delivery) -> None:
        if delivery.tag in self._held:
            self._let_go(delivery.tag, rejected=True)

    def _let_go(self, tag: int, *, rejected: bool) -> None:
        self._claims.let_go.append(LetGo(self._held.pop(tag), rejected))
        self._wake.set()
        if not self._settling and not self._closed:
            self._settling = True
            self._thread.submit(self._settle)

    def _settle(self) -> None:
        """On the thread. What is let go from now on needs another turn."""
        self._settling = False
        self._claims.settle()

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._wake.set()
        loop = asyncio.get_running_loop()
        unseen: list[PacketName] = []
        if self._taking is not None:
            await asyncio.wait([self._taking])
            with suppress(BrokerRefused):
                unseen = [claim.name for claim in self._taking.result().claims]
        await loop.run_in_executor(self._thread, self._claims.close, unseen)
        self._thread.shutdown(wait=False)
