"""Taking packets from one mailbox, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from pika import exceptions

from chunkq.errors import BrokerUnreachable, ChunkqError, MailboxAway, TransportClosed
from chunkq.ports import Delivery, Mailbox
from chunkq.transport.rabbitmq.channel import Channel
from chunkq.transport.rabbitmq.refusals import broke_within, refusal
from chunkq.transport.rabbitmq.session import Session, keep, supervise
from chunkq.transport.rabbitmq.topology import queue_name, remove_if_idle, set_up_mailbox
from chunkq.transport.rabbitmq.wire import Wire

#: So often in succession the broker fails within over consuming, and its queue is made anew.
#: Other consumers of the connection fail along with it; a queue that is in use is left alone.
FAULTS_OF_A_DEAD_QUEUE: Final = 3


class Inflow:
    """The bytes that all consumers of a session have waiting; too many, and it stops reading.

    While an answer from the broker is awaited, reading goes on: the answer comes by the same way.
    What may arrive meanwhile is bounded by the prefetch.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._waiting_bytes = 0
        self._answers = 0
        #: Of all consumers together, so that a delivery of one is never taken for another's.
        self.generations = itertools.count(1)

    def change(self, waiting_bytes: int) -> None:
        """Add to what waits, or subtract from it."""
        self._waiting_bytes += waiting_bytes
        self._apply()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While this is entered, reading is not stopped."""
        self._answers += 1
        self._apply()
        try:
            yield
        finally:
            self._answers -= 1
            self._apply()

    def _apply(self) -> None:
        if (wire := self._session.current) is None:
            return
        most = self._session.options.waiting_bytes
        if self._answers or self._waiting_bytes <= most // 2:
            wire.resume_receiving()
        elif self._waiting_bytes > most:
            wire.pause_receiving()


class RabbitMQConsumer:
    """See `ports.Consumer`. A new generation begins with every channel."""

    def __init__(self, session: Session, inflow: Inflow, mailbox: Mailbox, prefetch: int) -> None:
        self._session = session
        self._inflow = inflow
        self._mailbox = mailbox
        self._prefetch = prefetch
        self._channel: Channel | None = None
        self._generation = 0
        self._waiting: list[Delivery] = []
        self._waiting_bytes = 0
        #: Tags of a channel are 1, 2, 3 ...: all up to this one are let go, and these beyond it.
        self._let_go_to = 0
        self._rejected: set[int] = set()
        self._acknowledge_to = 0
        self._failure: ChunkqError | None = None
        self._faults = 0
        #: Why nothing is delivered at the moment; empty if all is well.
        self.trouble = ""
        self._woken = asyncio.Event()
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Returns once the broker delivers.

        Raises `BrokerRefused`, `BrokerUnreachable`, `MailboxAway`, `TransportClosed`.
        """
        self.trouble = f"the queue {queue_name(self._mailbox)} is not set up yet"
        work = keep(self._session, self._set_up, self._lost, self._failing)
        self._tasks = [
            asyncio.create_task(supervise(work, self._fail)),
            asyncio.create_task(supervise(self._renew_bindings(), self._fail)),
        ]
        limit_s = self._session.options.set_up_timeout_s
        try:
            await asyncio.wait_for(self._started, limit_s)
        except TimeoutError:
            raise BrokerUnreachable(
                f"within {limit_s:.0f} s: {self.trouble}, at the broker {self._session.endpoint}",
                hint="if it is a cluster: are most of its nodes up?",
            ) from None

    async def receive(self) -> list[Delivery]:
        """As `Consumer.receive` says."""
        while not self._waiting:
            if self._failure is not None:
                raise copy.copy(self._failure)
            self._woken.clear()
            await self._woken.wait()
        batch = self._waiting
        self._drop_waiting()
        return batch

    def acknowledge(self, delivery: Delivery) -> None:
        """As `Consumer.acknowledge` says; those of one turn of the loop go out as one frame."""
        tag = delivery.tag
        if delivery.generation != self._generation or tag <= self._let_go_to:
            return
        before, self._let_go_to = self._let_go_to, tag
        # The broker ends the channel over the tag of a packet that is gone already.
        while tag in self._rejected:
            tag -= 1
        self._rejected = {other for other in self._rejected if other > delivery.tag}
        if tag <= before:
            return
        if not self._acknowledge_to:
            asyncio.get_running_loop().call_soon(self._flush)
        self._acknowledge_to = tag

    def reject(self, delivery: Delivery) -> None:
        """As `Consumer.reject` says."""
        if delivery.generation == self._generation and delivery.tag > self._let_go_to:
            self._reject(delivery.tag)

    async def close(self) -> None:
        """As `Consumer.close` says; waits until the broker has put back what was unacknowledged."""
        self._flush()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._fail(TransportClosed(f"the consumer of {self._mailbox} was closed"))
        self._drop_waiting()
        self.trouble = ""
        channel, self._channel = self._channel, None
        if channel is not None:
            with self._inflow.answering():
                await asyncio.wait(
                    [asyncio.ensure_future(channel.close())],
                    timeout=self._session.options.close_timeout_s,
                )

    # ------------------------------------------------------------ DeliverySink

    def delivered(self, tag: int, redelivered: bool, body: bytes) -> None:
        self._waiting.append(Delivery(body, tag, self._generation, redelivered))
        self._waiting_bytes += len(body)
        self._inflow.change(len(body))
        self._woken.set()

    def oversized(self, tag: int) -> None:
        """Larger than anything of ours: to the dead letters, unseen."""
        self._reject(tag)

    # ------------------------------------------------------------ inside

    async def _set_up(self, wire: Wire) -> Channel:
        with self._inflow.answering():
            if self._faults >= FAULTS_OF_A_DEAD_QUEUE:
                await self._remove_dead_queue(wire)
            await set_up_mailbox(wire, self._mailbox, self._session.options)
            channel = await Channel.open(wire)
            try:
                await self._consume(wire, channel)
            except BaseException:
                channel.abandon()
                raise
        self.trouble = ""
        if not self._started.done():
            self._started.set_result(None)
        return channel

    async def _consume(self, wire: Wire, channel: Channel) -> None:
        self._channel = channel
        self._generation = next(self._inflow.generations)
        self._forget_tags()
        wire.attach_consumer(channel.number, self)
        await channel.call("basic_qos", prefetch_count=self._prefetch)
        try:
            await channel.call("basic_consume", queue_name(self._mailbox), _delivered_by_the_wire)
        except exceptions.AMQPError as error:
            self._faults += broke_within(error)
            raise
        self._faults = 0

    async def _remove_dead_queue(self, wire: Wire) -> None:
        """A queue that has a name and nothing behind it: it can be declared, and not consumed from.

        RabbitMQ 3.10 leaves one where it was killed within half a second of making a quorum queue.
        One with packets in it, or with another consumer, is none.
        """
        self._faults = 0
        await remove_if_idle(wire, self._mailbox)

    def _failing(self, failure: ChunkqError) -> None:
        self.trouble = failure.message
        if self._faults:
            self.trouble = (
                f"the broker {self._session.endpoint} runs into a fault of its own whenever "
                f"{queue_name(self._mailbox)} is consumed from: its log says which"
            )
        if isinstance(failure, MailboxAway):
            raise failure

    async def _renew_bindings(self) -> None:
        """Nobody tells a consumer that its exchange was deleted and its bindings went with it."""
        while True:
            await asyncio.sleep(self._session.options.rebind_interval_s)
            wire = await self._session.wire()
            try:
                # There is time for the answer: reading on for it would let a whole window in.
                await set_up_mailbox(wire, self._mailbox, self._session.options)
            except exceptions.AMQPError as error:
                refused = refusal(error, self._session.endpoint)
                if refused is not None:
                    raise refused from error

    def _flush(self) -> None:
        tag, self._acknowledge_to = self._acknowledge_to, 0
        channel = self._channel
        if tag and channel is not None and channel.is_open:
            channel.pika.basic_ack(tag, multiple=True)

    def _reject(self, tag: int) -> None:
        if tag in self._rejected:
            return
        self._rejected.add(tag)
        if self._channel is not None and self._channel.is_open:
            self._channel.pika.basic_reject(tag, requeue=False)

    def _lost(self, _reason: Exception) -> None:
        """All that was held comes again in the next generation."""
        self.trouble = f"the queue {queue_name(self._mailbox)} was lost"
        self._channel = None
        self._forget_tags()
        self._generation = next(self._inflow.generations)
        self._drop_waiting()

    def _forget_tags(self) -> None:
        self._acknowledge_to = self._let_go_to = 0
        self._rejected.clear()

    def _drop_waiting(self) -> None:
        self._waiting = []
        freed, self._waiting_bytes = self._waiting_bytes, 0
        self._inflow.change(-freed)

    def _fail(self, failure: ChunkqError) -> None:
        if self._failure is None:
            self._failure = failure
        if not self._started.done():
            self._started.set_exception(copy.copy(failure))
        self._woken.set()


def _delivered_by_the_wire(*_arguments: object) -> None:
    """pika asks for a callback; the wire has taken the delivery before pika sees it."""
