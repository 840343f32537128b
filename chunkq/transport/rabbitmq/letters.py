"""This site's part of `cq.dlq`, as an operator's login reaches it. Blocks.

An operator does this seldom and with few packets, so stock pika does it: what is taken up and not
acknowledged goes back to its place when the connection ends, however that comes about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pika
from pika import exceptions, spec
from pika.adapters.blocking_connection import BlockingChannel

from chunkq.errors import BrokerRefused, Malformed
from chunkq.ports.viewing import DeadLetter
from chunkq.protocol.limits import MIB
from chunkq.protocol.packet import parse_request
from chunkq.transport.rabbitmq.options import (
    Endpoint,
    RabbitMQOptions,
    endpoints,
    pika_parameters,
    tls_context,
)
from chunkq.transport.rabbitmq.refusals import set_up_failure
from chunkq.transport.rabbitmq.session import silence_pika
from chunkq.transport.rabbitmq.topology import DEAD_LETTER_QUEUE, REQUESTS

#: Dead letters that are taken up at once, to be looked at: requests are small, strangers' are not.
MAX_LETTERS: Final = 1000
MAX_LETTERS_BYTES: Final = 16 * MIB
#: For each step towards the broker: a page that waits longer is no page.
STEP_S: Final = 5.0
_KEY: Final = re.compile(r"req\.([a-z0-9-]{1,63})\.([a-z0-9-]{1,63})")
_PERSISTENT: Final = 2

Wanted = Callable[[DeadLetter], bool]


@dataclass(frozen=True, slots=True)
class _Taken:
    """A dead letter that this connection has, unacknowledged."""

    letter: DeadLetter
    tag: int
    routing_key: str
    body: bytes


class Letters:
    """`options` name the operator. Raises `BrokerUnreachable`, `BrokerRefused`."""

    def __init__(self, options: RabbitMQOptions) -> None:
        self._options = options

    def look(self) -> list[DeadLetter]:
        """The oldest of them; they stay."""
        with self._channel() as channel:
            return [each.letter for each in self._take_up(channel)]

    def discard(self, wanted: Wanted) -> int:
        """Remove those; how many."""
        with self._channel() as channel:
            chosen = [each for each in self._take_up(channel) if wanted(each.letter)]
            for each in chosen:
                channel.basic_ack(each.tag)
        return len(chosen)

    def requeue(self, wanted: Wanted) -> int:
        """Put those back where they came from; how many.

        Each is let go of once the broker has confirmed that it is in its queue: none is lost, and
        of what a crash leaves twice the origin sees one as a replay.
        """
        count = 0
        with self._channel() as channel:
            chosen = [each for each in self._take_up(channel) if wanted(each.letter)]
            channel.confirm_delivery()
            for each in chosen:
                try:
                    channel.basic_publish(
                        REQUESTS,
                        each.routing_key,
                        each.body,
                        spec.BasicProperties(delivery_mode=_PERSISTENT),
                        mandatory=True,
                    )
                except (exceptions.UnroutableError, exceptions.NackError) as error:
                    unroutable = isinstance(error, exceptions.UnroutableError)
                    why = "there is no queue for it" if unroutable else "its queue is full"
                    raise BrokerRefused(
                        f"the broker did not take a request back: {why}",
                        hint="is an origin worker of this site running?",
                    ) from error
                channel.basic_ack(each.tag)
                count += 1
        return count

    # ------------------------------------------------------------ inside

    @contextmanager
    def _channel(self) -> Iterator[BlockingChannel]:
        silence_pika()
        where = endpoints(self._options)[0]
        try:
            connection = pika.BlockingConnection(
                [self._parameters(each) for each in endpoints(self._options)]
            )
            try:
                yield connection.channel()
            finally:
                if connection.is_open:
                    connection.close()
        except (exceptions.AMQPError, OSError) as error:
            raise set_up_failure(_first(error), where) from error

    def _parameters(self, where: Endpoint) -> pika.ConnectionParameters:
        found = pika_parameters(self._options, where, "dead letters")
        found.socket_timeout = found.stack_timeout = found.blocked_connection_timeout = STEP_S
        context = tls_context(self._options, where)
        if context is not None:
            found.ssl_options = pika.SSLOptions(context, where.host)
        return found

    def _take_up(self, channel: BlockingChannel) -> list[_Taken]:
        """This site's, until there are no more or enough."""
        found: list[_Taken] = []
        size = 0
        for _ in range(MAX_LETTERS):
            method, properties, body = channel.basic_get(DEAD_LETTER_QUEUE)
            if method is None:
                break
            size += len(body)
            named = _KEY.fullmatch(method.routing_key)
            if named is not None and named[1] == self._options.site:
                letter = _letter(named[2], properties, body)
                found.append(_Taken(letter, method.delivery_tag, method.routing_key, body))
            if size > MAX_LETTERS_BYTES:
                break
        return found


def _letter(sender: str, properties: Any, body: bytes) -> DeadLetter:
    try:
        key = bytes(parse_request(body).header.sender)
    except Malformed:
        key = b""
    deaths = (properties.headers or {}).get("x-death") or [{}]
    first = deaths[0] if isinstance(deaths[0], dict) else {}
    time = first.get("time")
    return DeadLetter(
        queue=str(first.get("queue") or DEAD_LETTER_QUEUE),
        reason=str(first.get("reason") or "rejected"),
        key=key,
        sender=sender,
        at_ms=int(time.replace(tzinfo=UTC).timestamp() * 1000) if isinstance(time, datetime) else 0,
    )


def _first(error: BaseException) -> BaseException:
    """What pika wraps once for each address that it tried."""
    while isinstance(error, exceptions.AMQPConnectionError) and error.args:
        inner = error.args[0]
        inner = getattr(inner, "exception", inner)
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error
