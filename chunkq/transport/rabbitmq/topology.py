"""Names on the broker, and the idempotent set-up of exchanges and queues.

```
cq.req  topic   req.<origin>.<from>                    -> cq.req.<origin>          quorum
cq.rep  topic   rep.<from>.<requester>.<instance>      -> cq.rep.<site>.<instance> classic
cq.dlx  fanout                                         -> cq.dlq                   classic
```

The default exchange is never used: it cannot be permitted per site. The sender's own name stands
in each routing key, so that topic permissions can hold everybody to their own. What exists is
looked up passively first, which needs no permission: a site may live without the right to create
the exchanges if an administrator has done so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final

from pika import exceptions

from chunkq.errors import UsageError
from chunkq.ports import Mailbox
from chunkq.transport.rabbitmq.channel import Channel
from chunkq.transport.rabbitmq.options import NAME, RabbitMQOptions
from chunkq.transport.rabbitmq.refusals import NOT_FOUND, queue_away
from chunkq.transport.rabbitmq.wire import Wire

REQUESTS: Final = "cq.req"
REPLIES: Final = "cq.rep"
DEAD_LETTERS: Final = "cq.dlx"
DEAD_LETTER_QUEUE: Final = "cq.dlq"
#: A request that was delivered so often and never acknowledged crashes workers.
DELIVERY_LIMIT: Final = 20
#: Dead letters are for a person to look at: the newest 64 MiB.
DEAD_LETTER_BYTES: Final = 64 << 20

#: A fleeting mailbox goes with its last consumer, or after so long if none ever came; what is in it
#: is of use for so long, and is no more than ten seconds of a hundred processes' reports.
FLEETING_EXPIRES_S: Final = 60
FLEETING_TTL_S: Final = 10
FLEETING_BYTES: Final = 8 << 20

Arguments = dict[str, str | int]


def address(to: Mailbox, own_site: str) -> tuple[str, str]:
    """(exchange, routing key) for a packet to `to`."""
    _check(to)
    if to.kind == "req":
        return REQUESTS, f"req.{to.site}.{own_site}"
    return REPLIES, f"rep.{own_site}.{to.site}.{to.instance}"


def queue_name(mailbox: Mailbox) -> str:
    _check(mailbox)
    return f"cq.{mailbox}"


def binding(mailbox: Mailbox) -> tuple[str, str]:
    """(exchange, pattern) that brings the mailbox its packets, from every sender."""
    if mailbox.kind == "req":
        return REQUESTS, f"req.{mailbox.site}.*"
    return REPLIES, f"rep.*.{mailbox.site}.{mailbox.instance}"


def queue_arguments(mailbox: Mailbox, options: RabbitMQOptions) -> Arguments:
    """The same on every declaration; limits only where no policy gives them."""
    if mailbox.fleeting:  # no policy needs to know of it
        return {
            "x-queue-type": "classic",
            "x-expires": FLEETING_EXPIRES_S * 1000,
            "x-message-ttl": FLEETING_TTL_S * 1000,
            "x-max-length-bytes": FLEETING_BYTES,
            "x-overflow": "drop-head",
        }
    if mailbox.kind == "req":
        arguments: Arguments = {"x-queue-type": "quorum"}
        if not options.by_policy:
            arguments |= {
                "x-delivery-limit": DELIVERY_LIMIT,
                "x-dead-letter-exchange": DEAD_LETTERS,
                "x-max-length-bytes": options.request_queue_bytes,
                "x-overflow": "reject-publish",
            }
        return arguments
    if options.by_policy:
        return {"x-queue-type": "classic"}
    return {
        "x-queue-type": "classic",
        "x-expires": options.reply_queue_expires_s * 1000,
        "x-max-length-bytes": options.reply_queue_bytes,
        "x-overflow": "reject-publish",
    }


async def set_up_exchanges(wire: Wire) -> None:
    """What a publisher needs."""
    await _together(
        _ensure_exchange(wire, REQUESTS, "topic"), _ensure_exchange(wire, REPLIES, "topic")
    )


async def set_up_mailbox(wire: Wire, mailbox: Mailbox, options: RabbitMQOptions) -> None:
    """What a consumer needs: its exchange, its queue with the binding, and the dead letters."""
    exchange, pattern = binding(mailbox)
    exchanges = [_ensure_exchange(wire, exchange, "topic")]
    if mailbox.kind == "req":
        exchanges.append(_ensure_exchange(wire, DEAD_LETTERS, "fanout"))
    await _together(*exchanges)
    if mailbox.kind == "req":
        await _ensure_dead_letter_queue(wire)
    async with throwaway(wire) as channel:
        name = queue_name(mailbox)
        await channel.call(
            "queue_declare",
            name,
            durable=True,
            auto_delete=mailbox.fleeting,
            arguments=queue_arguments(mailbox, options),
        )
        await channel.call("queue_bind", name, exchange, pattern)


async def queue_depth(wire: Wire, mailbox: Mailbox) -> int:
    """Packets that wait there and are with no consumer; 0 if there is no such queue."""
    try:
        async with throwaway(wire) as channel:
            answer = await channel.call("queue_declare", queue_name(mailbox), passive=True)
    except exceptions.ChannelClosedByBroker as error:
        if error.reply_code != NOT_FOUND:
            raise
        return 0
    return int(answer.message_count)


async def remove_if_idle(wire: Wire, mailbox: Mailbox) -> bool:
    """Delete the queue if, as the broker counts, nothing is in it and nobody consumes from it."""
    async with throwaway(wire) as channel:
        # A quorum queue cannot be deleted `if-empty` or `if-unused`.
        found = await channel.call("queue_declare", queue_name(mailbox), passive=True)
        if found.message_count or found.consumer_count:
            return False
        await channel.call("queue_delete", queue_name(mailbox))
    return True


@asynccontextmanager
async def throwaway(wire: Wire) -> AsyncIterator[Channel]:
    """A channel for calls that the broker may answer by closing it."""
    channel = await Channel.open(wire)
    try:
        yield channel
    finally:
        channel.abandon()


async def _together(*steps: Awaitable[None]) -> None:
    """One behind the other would take a round trip to the broker each. None is left behind."""
    for outcome in await asyncio.gather(*steps, return_exceptions=True):
        if outcome is not None:
            raise outcome


async def _ensure_exchange(wire: Wire, name: str, kind: str) -> None:
    try:
        async with throwaway(wire) as channel:
            await channel.call("exchange_declare", name, passive=True)
    except exceptions.ChannelClosedByBroker as error:
        if error.reply_code != NOT_FOUND:
            raise
        async with throwaway(wire) as channel:
            await channel.call("exchange_declare", name, kind, durable=True)


async def _ensure_dead_letter_queue(wire: Wire) -> None:
    try:
        async with throwaway(wire) as channel:
            await channel.call("queue_declare", DEAD_LETTER_QUEUE, passive=True)
    except exceptions.ChannelClosedByBroker as error:
        if error.reply_code != NOT_FOUND:
            raise
        if queue_away(error) is not None:
            return  # it exists: requests are served without it, too
        async with throwaway(wire) as channel:
            await channel.call(
                "queue_declare",
                DEAD_LETTER_QUEUE,
                durable=True,
                arguments={
                    "x-queue-type": "classic",
                    "x-max-length-bytes": DEAD_LETTER_BYTES,
                },
            )
            await channel.call("queue_bind", DEAD_LETTER_QUEUE, DEAD_LETTERS, "")


def _check(mailbox: Mailbox) -> None:
    """Such names become routing keys and patterns; a `*` in one would match others' packets."""
    names = [mailbox.site] if mailbox.kind == "req" else [mailbox.site, mailbox.instance]
    if not all(NAME.fullmatch(name) for name in names):
        raise UsageError(
            f"{mailbox} cannot be an address on a broker",
            hint="sites and instances have 1 to 63 of the characters a-z, 0-9 and -",
        )
