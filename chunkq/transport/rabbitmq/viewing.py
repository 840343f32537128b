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
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from pika import exceptions

from chunkq.errors import UsageError
from chunkq.ports import Mailbox
from chunkq.ports.viewing import DeadLetter, QueueState
from chunkq.transport.rabbitmq.letters import Letters, Wanted
from chunkq.transport.rabbitmq.management import Management
from chunkq.transport.rabbitmq.options import RabbitMQOptions, endpoints
from chunkq.transport.rabbitmq.refusals import NOT_FOUND, set_up_failure
from chunkq.transport.rabbitmq.session import Session
from chunkq.transport.rabbitmq.topology import DEAD_LETTER_QUEUE, queue_name, throwaway
from chunkq.transport.rabbitmq.wire import Wire

#: Reply queues looked at one by one, each a round trip or two.
MAX_INSTANCES: Final = 64
#: All of one look, of some tens of round trips: a page that waits longer is no page.
LOOK_S: Final = 10.0
NO_WAY: Final = (
    "this site may not read the dead letters of the broker",
    "set `management` of the link to the URL of its management API, with an operator's login",
)


class RabbitMQViewer:
    """See `ports.viewing.QueueViewer`. Connects for each look, for operators look seldom."""

    def __init__(self, options: RabbitMQOptions, management: Management | None = None) -> None:
        self._options = options
        self._management = management

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
        async with self._connected() as wire:
            for mailbox in mailboxes:
                state = await _look(wire, queue_name(mailbox))
                if state is not None:
                    found.append(state)
        problem = f"{NO_WAY[0]}: {NO_WAY[1]}"
        return [*found, QueueState(name=DEAD_LETTER_QUEUE, problem=problem)]

    async def dead_letters(self) -> list[DeadLetter]:
        return await asyncio.to_thread(self._letters().look)

    async def requeue(self, wanted: Wanted) -> int:
        return await asyncio.to_thread(self._letters().requeue, wanted)

    async def discard(self, wanted: Wanted) -> int:
        return await asyncio.to_thread(self._letters().discard, wanted)

    async def close(self) -> None:
        """Nothing is kept open."""

    def _letters(self) -> Letters:
        """By the operator's login. Raises `UsageError` where there is none."""
        if self._management is None:
            raise UsageError(NO_WAY[0], hint=NO_WAY[1])
        url = _with_login(self._options.url, *self._management.login)
        return Letters(replace(self._options, url=url, external=False))

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Wire]:
        session = Session(self._options, "looking", random.random)
        await session.open()
        where = session.endpoint
        try:
            async with asyncio.timeout(LOOK_S):
                yield await session.wire()
        except (exceptions.AMQPError, TimeoutError) as error:
            raise set_up_failure(error, where) from error
        finally:
            await session.close()


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


def _with_login(url: str, user: str, password: str) -> str:
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    hosts = authority.rpartition("@")[2]
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{hosts}{slash}{path}"
