"""pika's channel with futures in place of callbacks."""

from __future__ import annotations

import asyncio
from typing import Any, Self

import pika.channel
from pika import exceptions

from chunkq.transport.rabbitmq.wire import Wire


class Channel:
    """One open channel. Every call that waits fails with the reason when the channel ends.

    `ended` holds that reason: pika's `ChannelClosedByBroker`, `ConsumerCancelled` when the broker
    took the queue away, or what ended the connection. `closed` is done when the number is free
    again. Calls raise pika's errors (`AMQPError`).
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting: set[asyncio.Future[Any]] = set()
        self._opened: asyncio.Future[Any] = self._future()
        self.pika: pika.channel.Channel = wire.channel(on_open_callback=self._on_open)
        self.pika.add_on_close_callback(self._on_close)
        self.pika.add_on_cancel_callback(self._on_cancel)

    @classmethod
    async def open(cls, wire: Wire) -> Self:
        channel = cls(wire)
        try:
            await channel._opened
        except asyncio.CancelledError:
            channel.abandon()
            raise
        return channel

    @property
    def number(self) -> int:
        return int(self.pika.channel_number)

    @property
    def is_open(self) -> bool:
        return bool(self.pika.is_open)

    async def call(self, name: str, *args: object, **kwargs: object) -> Any:
        """Call pika's method `name` and wait for the broker's answer, which is returned."""
        answer = self._future()

        def on_answer(value: Any) -> None:
            if not answer.done():
                answer.set_result(value.method)

        getattr(self.pika, name)(*args, **kwargs, callback=on_answer)
        return await answer

    def abandon(self) -> None:
        """Close it without waiting; a channel that is closed or closing is left alone."""
        self.wire.detach(self.number)
        if not (self.pika.is_closed or self.pika.is_closing):
            self.pika.close()

    async def close(self) -> None:
        """Close it and wait until it is closed, or the connection has ended."""
        self.abandon()
        await asyncio.wait([self.closed])

    def give_up(self, reason: Exception) -> None:
        """Treat it as ended, for a reason that the broker does not know of."""
        self._end(reason)
        self.abandon()

    def _future(self) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    def _on_open(self, _channel: pika.channel.Channel) -> None:
        if not self._opened.done():
            self._opened.set_result(None)

    def _on_cancel(self, method_frame: Any) -> None:
        self._end(exceptions.ConsumerCancelled(method_frame.method.consumer_tag))

    def _on_close(self, _channel: pika.channel.Channel, reason: Exception) -> None:
        self.wire.detach(self.number)
        if not self.closed.done():
            self.closed.set_result(None)
        self._end(reason)

    def _end(self, reason: Exception) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(reason)
