"""The peer: stock pika's AsyncioConnection moving bare bytes, a process to each side.

    python -m tests.bench.stock_pika consume|publish URL QUEUE COUNT BODY_BYTES

The consumer prints `ready` once it consumes, and ends after COUNT bodies; the publisher prints it
once its channel is open, and begins when it reads a line. No digest, no seal, no
file: random bytes from memory on one side, counted and dropped on the other. The publisher bounds
what is unconfirmed, as ours does: pika's own write buffer has no bound.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.asyncio_connection import AsyncioConnection

#: As chunkq's own publisher: 16 MiB on the way to the broker.
UNCONFIRMED_BYTES = 16 << 20
#: Deliveries that the consumer may hold, and how many one acknowledgement covers.
PREFETCH = 256
ACKNOWLEDGE_EVERY = 32


def connect(url: str, begin: Callable[[Any], object]) -> None:
    """Run a loop with one open channel until something stops it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)

    def failed(_connection: object, error: Exception) -> None:
        raise SystemExit(f"stock pika: {error!r}")

    AsyncioConnection(
        pika.URLParameters(url),
        on_open_callback=lambda connection: connection.channel(on_open_callback=begin),
        on_open_error_callback=failed,
        custom_ioloop=loop,
    )
    loop.run_forever()


class Publisher:
    """Publishes `count` bodies, each once there is room for it."""

    def __init__(self, queue: str, count: int, body: bytes, channel: Any) -> None:
        self._queue, self._left, self._body, self._channel = queue, count, body, channel
        self._room = max(1, UNCONFIRMED_BYTES // len(body))
        self._sent = self._confirmed = 0
        self._properties = pika.BasicProperties(delivery_mode=1)
        channel.confirm_delivery(self._on_confirm, callback=self._begin)

    def _begin(self, frame: object) -> None:
        _say_ready(frame)
        sys.stdin.readline()
        self._fill()

    def _on_confirm(self, value: Any) -> None:
        if not isinstance(value.method, pika.spec.Basic.Ack):
            raise SystemExit("stock pika: the broker did not take a body")
        tag = value.method.delivery_tag
        self._confirmed = max(self._confirmed, tag)
        self._fill()
        if not self._left and self._confirmed == self._sent:
            asyncio.get_event_loop().stop()

    def _fill(self) -> None:
        while self._left and self._sent - self._confirmed < self._room:
            self._left -= 1
            self._sent += 1
            self._channel.basic_publish("", self._queue, self._body, self._properties)


class Consumer:
    """Counts `count` bodies."""

    def __init__(self, queue: str, count: int, size: int, channel: Any) -> None:
        self._queue, self._left, self._size = queue, count, size
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.queue_declare(queue, durable=True, callback=lambda _frame: self._consume(channel))

    def _consume(self, channel: Any) -> None:
        channel.basic_consume(self._queue, self._on_body, callback=_say_ready)

    def _on_body(self, channel: Any, deliver: Any, _properties: object, body: bytes) -> None:
        assert len(body) == self._size
        self._left -= 1
        if not self._left or deliver.delivery_tag % ACKNOWLEDGE_EVERY == 0:
            channel.basic_ack(deliver.delivery_tag, multiple=True)
        if not self._left:
            asyncio.get_event_loop().stop()


def _say_ready(_frame: object) -> None:
    print("ready", flush=True)


def main() -> None:
    what, url, queue, count, size = sys.argv[1:]
    if what == "publish":
        body = os.urandom(int(size))
        connect(url, functools.partial(Publisher, queue, int(count), body))
    else:
        connect(url, functools.partial(Consumer, queue, int(count), int(size)))


if __name__ == "__main__":
    main()
