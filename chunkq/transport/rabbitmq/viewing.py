"""A broker as an operator sees it: this site's queues, and what lies in `cq.dlq` for it.

Queues are looked at by passive declares, which a site may do to its own; with the management API
they are listed, and more is known of each. Sites may not read `cq.dlq`, in which all sites' dead
letters lie: that takes the login that `management` names, with the right to read that queue and to
write to `cq.req`.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from pika import exceptions, spec

from chunkq.errors import BrokerRefused, Malformed, UsageError
from chunkq.ports import Mailbox
from chunkq.ports.viewing import DeadLetter, QueueState
from chunkq.protocol.limits import MIB
from chunkq.protocol.packet import parse_request
from chunkq.transport.rabbitmq.channel import Channel
from chunkq.transport.rabbitmq.management import Management
from chunkq.transport.rabbitmq.options import RabbitMQOptions, endpoints
from chunkq.transport.rabbitmq.refusals import NOT_FOUND, set_up_failure
from chunkq.transport.rabbitmq.session import Session
from chunkq.transport.rabbitmq.topology import DEAD_LETTER_QUEUE, REQUESTS, queue_name, throwaway
from chunkq.transport.rabbitmq.wire import Wire

#: Dead letters that are taken up at once, to be looked at: requests are small, strangers' are not.
MAX_LETTERS: Final = 1000
MAX_LETTERS_BYTES: Final = 16 * MIB
#: Reply queues looked at one by one, each a round trip or two.
MAX_INSTANCES: Final = 64
#: All of one look, of some tens of round trips: a page that waits longer is no page.
LOOK_S: Final = 10.0
_KEY: Final = re.compile(r"req\.([a-z0-9-]{1,63})\.([a-z0-9-]{1,63})")
_PERSISTENT: Final = 2
NO_WAY: Final = (
    "this site may not read the dead letters of the broker",
    "set `management` of the link to the URL of its management API, with an operator's login",
)


@dataclass(frozen=True, slots=True)
class _Taken:
    """A dead letter that this connection has, unacknowledged."""

    letter: DeadLetter
    tag: int
    routing_key: str
    body: bytes


class RabbitMQViewer:
    """See `ports.viewing.QueueViewer`. Connects for each look, for operators look seldom."""

    def __init__(self, options: RabbitMQOptions, management: Management | None = None) -> None:
        self._options = options
        self._management = management
        self._one_at_a_time = asyncio.Lock()

    async def queues(self, instances: Sequence[str]) -> list[QueueState]:
        if self._management is not None:
            site = re.escape(self._options.site)
            names = rf"^cq\.(req\.{site}|rep\.{site}\.[a-z0-9-]+|dlq)$"
            vhost = endpoints(self._options)[0].vhost
            return await asyncio.to_thread(self._management.queues, vhost, names)
        site = self._options.site
        mailboxes = [Mailbox("req", site)]
        mailboxes += [Mailbox("rep", site, each) for each in instances[:MAX_INSTANCES]]
        found: list[QueueState] = []
        async with self._connected(self._options) as wire:
            for mailbox in mailboxes:
                state = await _look(wire, queue_name(mailbox))
                if state is not None:
                    found.append(state)
        problem = f"{NO_WAY[0]}: {NO_WAY[1]}"
        return [*found, QueueState(name=DEAD_LETTER_QUEUE, problem=problem)]

    async def dead_letters(self) -> list[DeadLetter]:
        async with self._letters() as (_, taken):
            return [each.letter for each in taken]

    async def requeue(self, wanted: Callable[[DeadLetter], bool]) -> int:
        """Each is acknowledged once the broker has confirmed it in its queue: none is lost."""
        count = 0
        async with self._letters() as (channel, taken):
            chosen = [each for each in taken if wanted(each.letter)]
            if not chosen:
                return 0
            publishing = await _Publishing.open(channel.wire)
            for each in chosen:
                await publishing.publish(each.routing_key, each.body)
                channel.pika.basic_ack(each.tag)
                count += 1
            await _flushed(channel)
        return count

    async def discard(self, wanted: Callable[[DeadLetter], bool]) -> int:
        async with self._letters() as (channel, taken):
            chosen = [each for each in taken if wanted(each.letter)]
            for each in chosen:
                channel.pika.basic_ack(each.tag)
            await _flushed(channel)
        return len(chosen)

    async def close(self) -> None:
        """Nothing is kept open."""

    # ------------------------------------------------------------ inside

    @asynccontextmanager
    async def _letters(self) -> AsyncIterator[tuple[Channel, list[_Taken]]]:
        """Take up this site's; what is not acknowledged in the block goes back to its place."""
        if self._management is None:
            raise UsageError(NO_WAY[0], hint=NO_WAY[1])
        options = replace(
            self._options, url=_with_login(self._options.url, *self._management.login)
        )
        async with self._one_at_a_time, self._connected(replace(options, external=False)) as wire:
            channel = await Channel.open(wire)
            try:
                yield channel, await _take_up(channel, self._options.site)
            finally:
                await channel.close()

    @asynccontextmanager
    async def _connected(self, options: RabbitMQOptions) -> AsyncIterator[Wire]:
        session = Session(options, "looking", random.random)
        where = session.endpoint
        await session.open()
        try:
            async with asyncio.timeout(LOOK_S):
                yield await session.wire()
        except (exceptions.AMQPError, TimeoutError) as error:
            raise set_up_failure(error, where) from error
        finally:
            await session.close()


class _Publishing:
    """A channel on which each publish waits for the broker's word."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._outcome: asyncio.Future[str] | None = None

    @classmethod
    async def open(cls, wire: Wire) -> _Publishing:
        publishing = cls(await Channel.open(wire))
        publishing._channel.pika.add_on_return_callback(publishing._on_return)
        answer = asyncio.get_running_loop().create_future()
        publishing._channel.pika.confirm_delivery(
            publishing._on_confirm, callback=lambda _: answer.set_result(None)
        )
        await answer
        return publishing

    async def publish(self, routing_key: str, body: bytes) -> None:
        """Raises `BrokerRefused` if no queue takes it, or one is full."""
        self._outcome = asyncio.get_running_loop().create_future()
        self._channel.pika.basic_publish(
            REQUESTS,
            routing_key,
            body,
            spec.BasicProperties(delivery_mode=_PERSISTENT),
            mandatory=True,
        )
        await asyncio.wait(
            (self._outcome, self._channel.ended), return_when=asyncio.FIRST_COMPLETED
        )
        if self._channel.ended.done():
            raise self._channel.ended.result()
        if self._outcome.result() != "taken":
            raise BrokerRefused(
                f"the broker did not take a request back: {self._outcome.result()}",
                hint="is an origin worker of this site running?",
            )

    def _on_confirm(self, frame: Any) -> None:
        taken = isinstance(frame.method, spec.Basic.Ack)
        self._settle("taken" if taken else "its queue is full")

    def _on_return(self, *_: Any) -> None:
        self._settle("there is no queue for it")

    def _settle(self, outcome: str) -> None:
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(outcome)


async def _look(wire: Wire, name: str) -> QueueState | None:
    """By a passive declare; None if there is no such queue."""
    try:
        async with throwaway(wire) as channel:
            answer = await channel.call("queue_declare", name, passive=True)
    except exceptions.ChannelClosedByBroker as error:
        if error.reply_code != NOT_FOUND:
            return QueueState(name=name, problem=error.reply_text)
        return None
    return QueueState(
        name=name, depth=int(answer.message_count), consumers=int(answer.consumer_count)
    )


async def _take_up(channel: Channel, site: str) -> list[_Taken]:
    """This site's dead letters, until there are no more or enough."""
    found: list[_Taken] = []
    size = 0
    for _ in range(MAX_LETTERS):
        got = await _get(channel)
        if got is None or size > MAX_LETTERS_BYTES:
            break
        method, properties, body = got
        size += len(body)
        named = _KEY.fullmatch(method.routing_key)
        if named is None or named[1] != site:
            continue
        letter = _letter(named[2], properties, body)
        found.append(_Taken(letter, method.delivery_tag, method.routing_key, body))
    return found


async def _get(channel: Channel) -> tuple[Any, Any, bytes] | None:
    """The next message; None if there is none."""
    answer: asyncio.Future[tuple[Any, Any, bytes] | None]
    answer = asyncio.get_running_loop().create_future()

    def settle(value: tuple[Any, Any, bytes] | None) -> None:
        if not answer.done():
            answer.set_result(value)

    channel.pika.add_callback(lambda _: settle(None), [spec.Basic.GetEmpty], one_shot=True)
    channel.pika.basic_get(
        DEAD_LETTER_QUEUE, lambda _, method, properties, body: settle((method, properties, body))
    )
    await asyncio.wait((answer, channel.ended), return_when=asyncio.FIRST_COMPLETED)
    if not answer.done():
        raise channel.ended.result()
    return answer.result()


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


async def _flushed(channel: Channel) -> None:
    """The broker answers in order: what was acknowledged before is, then."""
    await channel.call("basic_qos", prefetch_count=0)


def _with_login(url: str, user: str, password: str) -> str:
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    hosts = authority.rpartition("@")[2]
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{hosts}{slash}{path}"
