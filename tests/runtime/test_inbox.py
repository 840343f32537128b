"""Deliveries that are dealt with in any order, and what the carrier hears of it."""

from __future__ import annotations

from typing import cast

from chunkq.ports import Consumer, Delivery
from chunkq.runtime.inbox import Inbox


class Carrier:
    """A consumer whose deliveries are given; `acknowledged` are the tags that it heard."""

    def __init__(self, *rounds: list[Delivery]) -> None:
        self._rounds = list(rounds)
        self.acknowledged: list[tuple[int, int]] = []

    async def receive(self) -> list[Delivery]:
        return self._rounds.pop(0)

    def acknowledge(self, delivery: Delivery) -> None:
        self.acknowledged.append((delivery.generation, delivery.tag))


def deliveries(generation: int, *tags: int) -> list[Delivery]:
    return [Delivery(b"body", tag, generation) for tag in tags]


async def test_the_longest_finished_run_is_acknowledged() -> None:
    """An acknowledgement means "this and all before it"."""
    carrier = Carrier(first := deliveries(1, 1, 2, 3))
    inbox = Inbox(cast("Consumer", carrier))
    await inbox.receive()
    inbox.done(first[1])
    assert [] == carrier.acknowledged
    inbox.done(first[0])
    assert [(1, 2)] == carrier.acknowledged
    inbox.done(first[2])

    assert [(1, 2), (1, 3)] == carrier.acknowledged


async def test_a_stale_ack_after_reconnect_lets_go_of_nothing() -> None:
    """Tags begin anew with each connection: an old one is the tag of another packet now."""
    carrier = Carrier(old := deliveries(1, 1, 2), new := deliveries(2, 1, 2))
    inbox = Inbox(cast("Consumer", carrier))
    await inbox.receive()
    await inbox.receive()
    inbox.done(*old)
    assert [] == carrier.acknowledged
    inbox.done(new[0])

    assert [(2, 1)] == carrier.acknowledged
