"""The replies to one request: sealed in order, sent with a bounded number of bytes on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from chunkq.errors import Nacked
from chunkq.ports import Buffer, Mailbox, Transport
from chunkq.protocol import cbor
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.messages import Body, Refusal, RefusalReason
from chunkq.protocol.packet import ReplyKind, RequestId
from chunkq.protocol.priority import Priority
from chunkq.protocol.quota import DEFAULT_PENDING_HASHES
from chunkq.protocol.seal import ReplySealer
from chunkq.runtime.outflow import Outflow
from chunkq.runtime.packing import Packer, pack_once
from chunkq.runtime.slots import ANYBODY

#: A full reply queue: try again after this, doubling, so often; then the requester asks again.
NACK_RETRY_S: Final = 0.1
NACK_RETRIES: Final = 6


class Replies:
    """Where one request's replies go, and what seals them.

    `outflow` counts the bytes of all replies of a worker that are on their way to the carrier.
    """

    def __init__(
        self,
        transport: Transport,
        to: Mailbox,
        sealer: ReplySealer,
        request_id: RequestId,
        outflow: Outflow,
        *,
        priority: Priority = Priority.NORMAL,
        keys: SiteKeys | None = None,
        account: bytes = ANYBODY,
        most_hashes: int = DEFAULT_PENDING_HASHES,
    ) -> None:
        """`keys`: those of ours that were asked, if ever they changed: they sign what was kept.

        `account`: who asked, so that each gets a part of what may be on its way; of its files
        `most_hashes` may wait to be hashed.
        """
        self.sealer = sealer
        self.keys = keys
        self.request_id = request_id
        #: Packs what `seal` seals, where that pays; None: the requester or this origin will not.
        self.packer: Packer | None = None
        #: Content that `seal` has sealed, as it was before it was packed.
        self.content_bytes = 0
        #: Why nothing, or nothing more, was answered.
        self.refused: RefusalReason | None = None
        self.account = account
        self.most_hashes = most_hashes
        self._transport = transport
        self._to = to
        self._outflow = outflow
        self._priority = priority
        self._sending: set[asyncio.Task[None]] = set()

    def seal(self, kind: ReplyKind, body: Buffer, index: int = 0) -> bytes:
        """A reply, packed if that pays. On one thread at a time. Raises as `ReplySealer.seal`."""
        self.content_bytes += len(body)
        if self.packer is None:
            return self.sealer.seal(kind, body, index)
        return self.packer.seal(self.sealer, kind, body, index)

    def sent(self, packets: Sequence[Buffer]) -> None:
        """These, sealed by `seal` and given to `send`, are on their way: what the link takes."""
        if self.packer is not None:
            self.packer.sent(sum(map(len, packets)))

    async def send(self, packet: Buffer, priority: Priority | None = None) -> None:
        """Give a sealed packet to the carrier; waits only while too much is on the way.

        `priority`: instead of that of the request. Raises the `TransportError` of an earlier one.
        """
        size = len(packet)
        if priority is None:
            priority = self._priority
        await self._outflow.take(priority, size, self.account)
        # The carrier knows classes and no accounts: nobody shall overtake others by what he says.
        on_its_way = Priority.NORMAL if self._outflow.shared else priority
        task = asyncio.ensure_future(self._publish(packet, on_its_way))
        task.add_done_callback(lambda _: self._outflow.give_back(priority, size, self.account))
        self._sending.add(task)
        self._collect()

    async def send_body(
        self, kind: ReplyKind, body: Body, index: int = 0, *, packed: bool = False
    ) -> None:
        """`packed`: make it smaller if it can be."""
        encoded = cbor.encode(body)
        frame = pack_once(encoded) if packed else None
        if frame is None:
            packet = self.sealer.seal(kind, encoded, index)
        else:
            packet = self.sealer.seal(kind, frame, index, packed=True)
        await self.send(packet, Priority.CONTROL)

    async def refuse(self, refusal: Refusal) -> None:
        self.refused = refusal.reason
        await self.send_body(ReplyKind.REFUSAL, refusal)

    async def finish(self) -> None:
        """Wait until the carrier has taken all. Raises the first `TransportError`."""
        while self._sending:
            await asyncio.wait(self._sending)
            self._collect()

    async def abort(self) -> None:
        """Forget what is on the way."""
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)
        self._sending.clear()

    def _collect(self) -> None:
        done = [task for task in self._sending if task.done()]
        while done:
            self._sending.discard(done[-1])
            # Nothing here may keep the task: the traceback of its error has this frame, and with it
            # packets, which would all be kept until the garbage collector comes by.
            done.pop().result()

    async def _publish(self, packet: Buffer, priority: Priority) -> None:
        delay, now = NACK_RETRY_S, asyncio.get_running_loop().time
        for _ in range(NACK_RETRIES):
            try:
                began = now()
                await self._transport.publish(self._to, packet, priority=priority)
                return self._outflow.taken_over(now() - began)
            except Nacked:
                self._outflow.set_aside(len(packet))
                try:
                    await asyncio.sleep(delay)
                finally:
                    self._outflow.set_aside(-len(packet))
                delay *= 2
        return await self._transport.publish(self._to, packet, priority=priority)


def refusal(reason: RefusalReason, detail: str = "", retry_after_ms: int = 0) -> Refusal:
    return Refusal(reason=reason, detail=detail, retry_after_ms=retry_after_ms)
