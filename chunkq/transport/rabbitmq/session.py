"""A connection that is made again when it is lost, and what is run on it each time."""

from __future__ import annotations

import asyncio
import copy
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from pika import exceptions

from chunkq.errors import (
    BrokerRefused,
    BrokerUnreachable,
    ChunkqError,
    TransportClosed,
    TransportError,
)
from chunkq.ports import Traffic
from chunkq.transport.rabbitmq.channel import Channel
from chunkq.transport.rabbitmq.options import (
    Endpoint,
    RabbitMQOptions,
    endpoints,
    pika_parameters,
    tls_context,
)
from chunkq.transport.rabbitmq.refusals import connect_failure, set_up_failure
from chunkq.transport.rabbitmq.wire import Wire

#: Beyond 2^20 every base is over any cap; keeps the power from growing without end.
_MOST_DOUBLINGS: Final = 20


class Backoff:
    """Full jitter: a random delay below a bound that doubles, so that sites do not return at once.

    `rng` gives numbers from 0 to 1.
    """

    def __init__(self, base_s: float, cap_s: float, rng: Callable[[], float]) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._rng = rng
        self._failures = 0

    def next_delay_s(self) -> float:
        bound_s = self._bound_s
        self._failures += 1
        return self._rng() * bound_s

    def lasted(self, seconds: float) -> None:
        """Begin with short delays again if what was made held for longer than the next might be.

        So a link that is lost every few seconds is not away for longer than it is there.
        """
        if seconds > self._bound_s:
            self._failures = 0

    @property
    def _bound_s(self) -> float:
        doubled_s = self._base_s * float(1 << min(self._failures, _MOST_DOUBLINGS))
        return min(self._cap_s, doubled_s)


class Session:
    """One connection, to one of the broker's nodes: `endpoint`, which is another after each loss.

    `wire()` waits for it; `on_change` is called when it comes and goes.
    """

    def __init__(self, options: RabbitMQOptions, purpose: str, rng: Callable[[], float]) -> None:
        self.options = options
        self.endpoints = deque(endpoints(options))
        self.on_change: Callable[[], None] = lambda: None
        self.failure: ChunkqError | None = None
        self.trouble = "not connected yet"
        self._purpose = purpose
        self._rng = rng
        self._wire: Wire | None = None
        self._before = Traffic()
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> Endpoint:
        """The node that is, or was last, connected or tried."""
        return self.endpoints[0]

    @property
    def current(self) -> Wire | None:
        """The open connection, if there is one now."""
        wire = self._wire
        return wire if wire is not None and not wire.ended.done() else None

    @property
    def traffic(self) -> Traffic:
        """Of this connection and those before it."""
        return self._before if self._wire is None else self._before + _traffic(self._wire)

    def backoff(self) -> Backoff:
        options = self.options
        return Backoff(options.reconnect_base_s, options.reconnect_cap_s, self._rng)

    async def open(self) -> None:
        """Connect once. Raises `BrokerUnreachable`, `BrokerRefused`, `ConfigError`.

        May be called again after it has failed, or was closed as another one had failed.
        """
        wire = await self._connect()
        self.failure = None
        self._use(wire)
        self._task = asyncio.create_task(supervise(self._run(wire), self._fail))

    async def wire(self) -> Wire:
        """Wait for an open connection. Raises what ended the session for good."""
        while True:
            await self._settled.wait()
            if self.failure is not None:
                raise copy.copy(self.failure)
            if (wire := self.current) is not None:
                return wire
            await asyncio.sleep(0)  # it ended this moment, and `_run` has not been woken yet

    async def close(self) -> None:
        """Say goodbye to the broker, for a bounded time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._fail(TransportClosed("the transport was closed"))
        if (wire := self.current) is None:
            return
        wire.resume_receiving()
        if wire.is_open:
            wire.close()
        await asyncio.wait([wire.ended], timeout=self.options.close_timeout_s)
        if not wire.ended.done():
            wire.abort("closed by this side")
            await asyncio.wait([wire.ended])

    async def _run(self, wire: Wire) -> None:
        backoff = self.backoff()
        loop = asyncio.get_running_loop()
        while True:
            since = loop.time()
            # Shielded: when this task is cancelled, the future is still others' to wait for.
            reason = await asyncio.shield(wire.ended)
            backoff.lasted(loop.time() - since)
            self._before += _traffic(wire)
            self._wire = None
            self._settled.clear()
            self.trouble = connect_failure(reason, self.endpoint).message
            self.endpoints.rotate(-1)
            self.on_change()
            wire = await self._reconnect(backoff)
            self._use(wire)

    async def _reconnect(self, backoff: Backoff) -> Wire:
        while True:
            await asyncio.sleep(backoff.next_delay_s())
            try:
                return await self._connect()
            except BrokerRefused:
                raise
            except ChunkqError as error:
                if not error.retry:
                    raise
                self.trouble = error.message

    async def _connect(self) -> Wire:
        """To the first node that takes us. Raises a refusal only if none does."""
        failures: list[BrokerRefused | BrokerUnreachable] = []
        for _ in range(len(self.endpoints)):
            try:
                return await self._connect_to(self.endpoint)
            except (BrokerRefused, BrokerUnreachable) as error:
                failures.append(error)
                self.endpoints.rotate(-1)
        refusals = [error for error in failures if isinstance(error, BrokerRefused)]
        if refusals or len(failures) == 1:
            raise (refusals or failures)[0]
        raise BrokerUnreachable(
            "no node of the broker can be reached: " + "; ".join(each.message for each in failures)
        )

    async def _connect_to(self, where: Endpoint) -> Wire:
        silence_pika()
        options = self.options
        loop = asyncio.get_running_loop()
        context = tls_context(options, where)
        parameters = pika_parameters(options, where, self._purpose)
        wire: Wire | None = None
        try:
            async with asyncio.timeout(options.connect_timeout_s):
                _, wire = await loop.create_connection(
                    lambda: Wire(parameters, body_max=options.max_message_bytes),
                    where.host,
                    where.port,
                    ssl=context,
                )
                await wire.ready
        except (OSError, exceptions.AMQPError) as error:
            if wire is not None:
                wire.abort("not opened in time")
            raise connect_failure(error, where) from error
        except asyncio.CancelledError:
            if wire is not None:
                wire.abort("closed by this side")
            raise
        return wire

    def _use(self, wire: Wire) -> None:
        self._wire = wire
        wire.on_change = self._changed
        self.trouble = ""
        self._settled.set()
        self.on_change()

    def _changed(self) -> None:
        self.on_change()

    def _fail(self, failure: ChunkqError) -> None:
        if self.failure is None:
            self.failure = failure
            self.trouble = failure.message
        self._settled.set()
        self.on_change()


async def keep(
    session: Session,
    set_up: Callable[[Wire], Awaitable[Channel]],
    lost: Callable[[Exception], None],
    failing: Callable[[ChunkqError], None],
) -> None:
    """Run `set_up` on each connection, and again when its channel ends; then `lost` is told why.

    `failing` hears why it could not be set up, before it is tried again. Returns only by raising:
    `BrokerRefused` if the set-up is refused, and what ends the session.
    """
    backoff = session.backoff()
    loop = asyncio.get_running_loop()
    while True:
        wire = await session.wire()
        since = loop.time()
        try:
            async with asyncio.timeout(session.options.set_up_timeout_s):
                channel = await set_up(wire)
        except (exceptions.AMQPError, TimeoutError) as error:
            failure = set_up_failure(error, session.endpoint)
            if isinstance(failure, BrokerRefused):
                raise failure from error
            failing(failure)
        else:
            lost(await asyncio.shield(channel.ended))
            channel.abandon()
        backoff.lasted(loop.time() - since)
        if not wire.ended.done():
            await asyncio.sleep(backoff.next_delay_s())


async def supervise(work: Awaitable[None], failed: Callable[[ChunkqError], None]) -> None:
    """Run a background task so that its failure always reaches those who wait for it."""
    try:
        await work
    except ChunkqError as error:
        failed(error)
    except Exception as error:
        failure = TransportError(f"the RabbitMQ transport failed within: {error!r}")
        failure.__cause__ = error
        failed(failure)


def _traffic(wire: Wire) -> Traffic:
    return Traffic(wire.emitted_bytes, wire.taken_bytes)


def silence_pika() -> None:
    """pika logs with tracebacks what we report as errors; a level that somebody set is kept."""
    logger = logging.getLogger("pika")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)
        logger.addHandler(logging.NullHandler())
