"""A large file over RabbitMQ while everything that takes part in it is killed."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkq.ports import TransferState
from chunkq.protocol.geometry import from_ranges
from chunkq.storage.statefile import newest_slot
from tests.e2e.processes import Pair, Process, asked_after, random_file, same, wait_until
from tests.support.broker import Broker

SIZE_BYTES = 1 << 30
CHUNKS = SIZE_BYTES // (256 << 10)
KILLS = 5


@pytest.fixture
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker for this test alone, which kills it."""
    started = Broker.start(tmp_path_factory.mktemp("rabbitmq") / "node")
    yield started
    started.stop()


@pytest.fixture
def pair(own_broker: Broker, tmp_path: Path) -> Iterator[Pair]:
    url = own_broker.url()
    made = Pair.make(tmp_path, url, url)
    yield made
    made.end()


def committed(inbox: Path) -> TransferState | None:
    """What the requester has durably, read from its state file."""
    for path in (inbox / ".chunkq").glob("*.state"):
        with path.open("rb") as file:
            return newest_slot(file.fileno(), path.stem, str(path))[0]
    return None


def present(inbox: Path) -> int:
    state = committed(inbox)
    return state.bitmap.present if state else 0


def sent_to_later(workers: list[Process], moment: float) -> set[int]:
    """The chunks that any worker sent to requesters that were started after a moment."""
    return {
        index
        for worker in workers
        for event in worker.events
        if asked_after(event, moment)
        for index in from_ranges([(event["first"], event["count"])])
    }


@pytest.mark.rabbitmq
@pytest.mark.large
@pytest.mark.timeout(600)
def test_kill_requester_workers_and_broker(own_broker: Broker, pair: Pair) -> None:
    """The file is identical, and nothing that was committed is sent again."""
    seed = 20261121
    dice = random.Random(seed)
    random_file(pair.files / "big", SIZE_BYTES)
    workers = [pair.bob.serve(), pair.bob.serve()]
    everyone = list(workers)
    marks = sorted(dice.uniform(0.05, 0.9) for _ in range(KILLS))
    checks: list[tuple[float, set[int]]] = []
    for number, mark in enumerate(marks):
        getting = pair.alice.start("get", "bob:files/big", str(pair.inbox / "big"))
        floor = present(pair.inbox)
        wanted = max(int(mark * CHUNKS), floor + 1)
        wait_until(
            lambda g=getting, w=wanted: g.popen.poll() is not None or present(pair.inbox) >= w
        )
        getting.kill()
        state = committed(pair.inbox)
        assert state is not None, f"seed {seed}: finished before it was killed"
        have = set(range(CHUNKS)) - set(state.bitmap.missing())
        checks.append((time.time(), have))
        if number == 1:
            workers[0].kill()
            workers[0] = pair.bob.serve()
            everyone.append(workers[0])
        elif number == 2:
            own_broker.kill()
            own_broker.restart()
        elif number == 3:
            workers[1].kill()
            workers[1] = pair.bob.serve()
            everyone.append(workers[1])
    last = pair.alice.start("get", "bob:files/big", str(pair.inbox / "big"))
    assert 0 == last.wait(), last.log.read_text()
    assert same(pair.files / "big", pair.inbox / "big")
    assert ["big"] == [path.name for path in pair.inbox.iterdir()]
    for moment, have in checks:
        again = have & sent_to_later(everyone, moment)
        assert set() == again, f"seed {seed}: committed, and asked for and sent again"
        assert have, "nothing was committed before the kill"
    assert [0, 0] == [worker.stop() for worker in workers]
