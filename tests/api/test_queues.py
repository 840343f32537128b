"""Queues and dead letters of all links, as an operator has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from chunkq.errors import BrokerUnreachable, NotFound
from chunkq.ports.viewing import DeadLetter, QueueState
from chunkq.protocol.condition import Reason
from chunkq.settings import Registry
from tests.api.operating import NOW_MS, Operated, a_report


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Operated]:
    opened = Operated(tmp_path)
    yield opened
    opened.close()


class Shelf:
    """A link on which these letters lie; it forgets them as it is told."""

    def __init__(self, *letters: DeadLetter) -> None:
        self.letters = list(letters)
        self.instances: Sequence[str] = ()

    async def queues(self, instances: Sequence[str]) -> list[QueueState]:
        self.instances = instances
        return [QueueState(name="req.alice", depth=3, oldest_ms=NOW_MS - 5000)]

    async def dead_letters(self) -> list[DeadLetter]:
        return self.letters

    async def requeue(self, wanted: Callable[[DeadLetter], bool]) -> int:
        return await self.discard(wanted)

    async def discard(self, wanted: Callable[[DeadLetter], bool]) -> int:
        before = len(self.letters)
        self.letters = [each for each in self.letters if not wanted(each)]
        return before - len(self.letters)

    async def close(self) -> None:
        """Nothing to close."""


class Away(Shelf):
    """A link that is not there."""

    async def queues(self, instances: Sequence[str]) -> list[QueueState]:
        raise BrokerUnreachable("no connection to the broker", hint="start it")

    async def dead_letters(self) -> list[DeadLetter]:
        raise BrokerUnreachable("no connection to the broker", hint="start it")


def put(site: Operated, viewer: Shelf) -> None:
    site.operations._queues._viewers["default"] = viewer


async def test_queues_of_a_link(site: Operated) -> None:
    """Age in seconds; a broker that takes nothing is named, by what the processes say."""
    shelf = Shelf()
    put(site, shelf)
    links = [
        {
            "link": "default",
            "transport": "rabbitmq",
            "reason": Reason.BROKER_BLOCKED,
            "detail": "out of memory",
        }
    ]
    site.operations.heard(a_report(links=links))
    [queue] = await site.operations.queues()

    assert ("default", "req.alice", 3, 5.0, True, "out of memory") == (
        queue.link,
        queue.queue,
        queue.depth,
        queue.oldest_s,
        queue.blocked,
        queue.problem,
    )
    assert {"requester-1", "status"} <= set(shelf.instances)


async def test_a_link_that_is_away_says_so(site: Operated) -> None:
    """In place of its queues and letters."""
    put(site, Away())
    [queue] = await site.operations.queues()
    [letter] = await site.operations.dead_letters()

    assert "no connection to the broker (start it)" == queue.problem == letter.problem


async def test_dead_letters_are_counted_by_whom_and_why(site: Operated) -> None:
    """A peer's key is a name; what the carrier vouches for counts next; else the key's digits."""
    bob = bytes(Registry(site.settings.directories).peer("bob").card.verify_key)
    shelf = Shelf(
        DeadLetter(queue="req.alice", reason="rejected", key=bob, sender="x", at_ms=5),
        DeadLetter(queue="req.alice", reason="rejected", key=bob, at_ms=3),
        DeadLetter(queue="req.alice", reason="expired", key=b"\xab" * 32),
        DeadLetter(queue="req.alice", reason="expired", sender="mallory"),
        DeadLetter(queue="req.alice", reason="expired"),
    )
    put(site, shelf)

    found = await site.operations.dead_letters()
    assert [
        ("abababababababab", "expired", 1, 0),
        ("bob", "rejected", 2, 3),
        ("mallory", "expired", 1, 0),
        ("unknown", "expired", 1, 0),
    ] == [(each.sender, each.reason, each.count, each.oldest_ms) for each in found]

    assert 2 == await site.operations.requeue("default", "bob", "")
    assert 1 == await site.operations.discard("default", "mallory", "expired", by="page:ann@h")
    assert 0 == await site.operations.discard("default", "", "rejected")
    assert 2 == len(shelf.letters)
    with pytest.raises(NotFound):
        await site.operations.discard("nolink", "", "")
    site.operations.record()
    latest, requeued = site.operations.audit(1, 9).rows  # nothing done is nothing to tell
    assert "dead_letters_requeued" == requeued.what
    assert ("dead_letters_discarded", "default", "page:ann@h", "1 requests of mallory expired") == (
        latest.what,
        latest.subject,
        latest.by,
        latest.detail,
    )


async def test_the_default_spool(site: Operated) -> None:
    """Of a site that has just been set up: its own directory, empty."""
    from chunkq.compose import make_own_spool

    make_own_spool(site.settings)
    (site.settings.directories.spool / ".chunkq-spool").touch()

    assert [] == await site.operations.queues()
    assert [] == await site.operations.dead_letters()
