"""deploy/rabbitmq/policies.json: the same limits as the arguments that sites give their queues."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from chunkq.ports import Mailbox
from chunkq.transport.rabbitmq import RabbitMQOptions
from chunkq.transport.rabbitmq.topology import queue_arguments, queue_name
from tests.support.broker import Broker
from tests.support.rabbitmq import Sites

pytestmark = pytest.mark.rabbitmq

POLICIES = Path(__file__).parents[2] / "deploy" / "rabbitmq" / "policies.json"
MAILBOXES = [Mailbox("req", "alice"), Mailbox("rep", "alice", "one")]


async def test_policies_say_what_sites_declare(broker: Broker, vhost: str, sites: Sites) -> None:
    """Imported as they are, they hold for queues that were declared without arguments."""
    text = POLICIES.read_text().replace('"vhost": "chunkq"', f'"vhost": "{vhost}"')
    await asyncio.to_thread(broker.run, "rabbitmqctl", "-q", "import_definitions", stdin=text)
    alice = await sites.open("alice", by_policy=True)
    given = {each["name"]: each["definition"] for each in json.loads(text)["policies"]}
    options = RabbitMQOptions(url="amqp://host", site="alice")
    for mailbox, policy in zip(MAILBOXES, given, strict=True):
        consumer = await alice.consume(mailbox, prefetch=1)
        await consumer.close()
        declared = queue_arguments(mailbox, options)
        limits = {key.removeprefix("x-"): value for key, value in declared.items()}
        del limits["queue-type"]  # the one thing that no policy can say
        name = broker.eval(
            f'{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<"{vhost}">>, queue, '
            f'<<"{queue_name(mailbox)}">>)), binary_to_list(rabbit_policy:name(Q)).'
        )

        assert limits == given[policy]
        assert f'"{policy}"' == name
