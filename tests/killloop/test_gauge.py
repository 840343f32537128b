"""The gauge finds what is kept, and takes what the allocator holds free for nothing."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.killloop.gauge import LEAST_ROUNDS, WARM_UP_ROUNDS, Gauge
from tests.killloop.world import GAUGED, Failure
from tests.support.pair import Running, until

ROUNDS = WARM_UP_ROUNDS + 4 * LEAST_ROUNDS

#: A worker that does its work when it gets SIGUSR1, and says so.
WORKER = """
import os, signal, sys
kept = []
def work(*_):
    {work}
    print("done", flush=True)
signal.signal(signal.SIGUSR1, work)
print("ready", flush=True)
while True:
    signal.pause()
"""
#: One chunk of 256 KiB a round.
CHUNK = "kept.append(os.urandom(1 << 18))"
OBJECTS = "kept.append([(each, each) for each in range(2000)])"
#: 6 MiB come and go once, late; a small block behind each keeps the allocator from giving it back.
HOLES = """
    kept.append(None)
    if len(kept) == 24:
        large = [(os.urandom(1 << 16), kept.append(os.urandom(1024))) for _ in range(96)]
        del large
"""


@pytest.fixture
def figures(tmp_path: Path) -> Path:
    return tmp_path / "figures"


@pytest.fixture
def worker(request: pytest.FixtureRequest, tmp_path: Path, figures: Path) -> Iterator[Running]:
    program = tmp_path / "worker.py"
    program.write_text(WORKER.format(work=request.param))
    command = [sys.executable, GAUGED, str(figures), str(program)]
    running = Running(command, tmp_path / "logs", {})
    running.until_said("ready")
    yield running
    running.end()


def watch(worker: Running, figures: Path) -> Gauge:
    gauge = Gauge()
    for number in range(1, ROUNDS + 1):
        worker.send(signal.SIGUSR1)
        until(lambda number=number: worker.out.count("done") == number)  # type: ignore[misc]
        gauge.look_at("worker", worker, figures)
    return gauge


@pytest.mark.parametrize(
    ("worker", "told"),
    [
        pytest.param(CHUNK, "KiB more after", id="a chunk"),
        pytest.param(OBJECTS, "small objects more after", id="objects"),
    ],
    indirect=["worker"],
)
def test_what_is_kept_in_each_round_is_found(worker: Running, figures: Path, told: str) -> None:
    """One chunk, or 2,000 small objects, are enough."""
    (trend,) = watch(worker, figures).trends()
    with pytest.raises(Failure, match=told):
        trend.check()


@pytest.mark.parametrize("worker", [HOLES.strip()], indirect=True)
def test_memory_that_is_free_is_not_in_use(worker: Running, figures: Path) -> None:
    """What was large and is gone counts as nothing, though the process keeps its size."""
    (trend,) = watch(worker, figures).trends()
    assert trend.last.anonymous - trend.first.anonymous > 5 * 1024
    assert trend.last.in_use - trend.first.in_use < 1024
    trend.check()


@pytest.mark.parametrize("worker", ["pass"], indirect=True)
def test_whoever_does_nothing_stays_as_it_is(worker: Running, figures: Path) -> None:
    """Being looked at costs nothing; a process that has ended has no more of a life."""
    gauge = watch(worker, figures)
    worker.end()
    gauge.look_at("worker", worker, figures)
    (trend,) = gauge.trends()
    assert trend.first.in_use == pytest.approx(trend.last.in_use, abs=64)
    assert ROUNDS - WARM_UP_ROUNDS == trend.rounds
