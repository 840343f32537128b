"""Worlds from seeds hold their promises; and a world does what its faults say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.campaign import run_share
from tests.simulation.faults import Faults
from tests.simulation.minimise import minimise
from tests.simulation.streams import stream
from tests.simulation.world import Options, Outcome, run_seed

ROOT = Path(__file__).resolve().parent.parent.parent
#: A slice of the campaign that `make simulate` runs: both workers of a test run get parts of it.
PARTS, SEEDS_PER_PART = 8, 25
QUIET = Faults()

DIGESTS = """
from tests.simulation.world import run_seed
for seed in range(40, 46):
    print(run_seed(seed).digest)
"""


def live(seed: int = 7, **faults: float) -> Outcome:
    """A world with only these faults, which must hold its promises."""
    outcome = run_seed(seed, Options(faults=Faults(**faults), keep_trace=True))
    assert "" == outcome.finding
    return outcome


@pytest.mark.parametrize("part", range(PARTS))
def test_promises_hold(part: int) -> None:
    """In each of these worlds, whatever its seed brings."""
    first = 1 + part * SEEDS_PER_PART
    tally = run_share(range(first, first + SEEDS_PER_PART))
    assert [] == [f"seed {each.seed}: {each.finding}" for each in tally.failed]
    assert SEEDS_PER_PART == tally.seeds


def test_a_seed_is_one_world() -> None:
    """To the last event, in another process, with other hashes of strings, and the second time."""
    told = []
    for hash_seed in ("1", "2"):
        ended = subprocess.run(
            [sys.executable, "-c", DIGESTS],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        told.append(ended.stdout.split())
    here = [run_seed(seed).digest for seed in range(40, 46)]
    assert told[0] == told[1] == here
    assert len(set(here)) == len(here)


def test_streams_are_independent() -> None:
    """Of the same seed, and of others; not of what was drawn from them before."""
    draws = {stream(seed, name).random() for seed in (1, 2) for name in ("network", "disk")}
    assert 4 == len(draws)
    assert stream(1, "disk").random() in draws


def test_faults_are_subsets_that_differ() -> None:
    """Each is drawn by some seed; none by all."""
    drawn = [Faults.draw(stream(seed, "faults")) for seed in range(300)]
    counts = {name: sum(name in each.enabled for each in drawn) for name in _names()}
    assert all(10 < count < 200 for count in counts.values()), counts
    assert any(not each.enabled for each in drawn)


def _names() -> list[str]:
    return list(Faults.__dataclass_fields__)


def test_a_quiet_world_wastes_nothing() -> None:
    """No fault: no error ends a run, and nothing occurs that is called one."""
    outcome = live()
    assert ({}, {}) == (outcome.occurred, outcome.ends)


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        ("lose", 0.3),
        ("duplicate", 0.5),
        ("reorder", 1.0),
        ("reset_every", 0.3),
        ("restart_every", 0.3),
        ("block_every", 0.3),
        ("delete_queue_every", 0.3),
        ("mutate", 0.3),
        ("cross_route", 0.5),
        ("replay_every", 0.1),
        ("full_every", 0.3),
        ("wall_jump_every", 0.3),
        ("stop_every", 0.3),
        ("suspend_every", 0.3),
        ("kill_every", 0.3),
        ("kill_at_call", 20.0),
        ("kill_at_sync", 2.0),
        ("power_every", 0.3),
        ("power_at_sync", 2.0),
        ("pause_every", 0.3),
        ("bad_chunk", 0.5),
        ("bad_length", 0.5),
        ("bad_page", 0.5),
        ("bad_manifest", 0.5),
        ("false_refusal", 0.5),
        ("change_every", 0.3),
        ("vanish_every", 0.3),
        ("flood_every", 0.02),
    ],
)
def test_a_fault_occurs_and_is_survived(name: str, amount: float) -> None:
    """By itself, often; a kind that never came about would prove nothing."""
    worlds = (live(seed, **{name: amount}) for seed in range(1, 20))
    assert {name} == set(next(world.occurred for world in worlds if world.occurred))


def test_what_is_wrong_is_told_with_the_faults_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The acknowledgement before the commit: found without most of what was switched on."""
    from chunkq.runtime.committing import Committer

    monkeypatch.setattr(Committer, "keep", lambda self, delivery, done: done(delivery))
    found = next(each for each in map(run_seed, range(1, 40)) if each.failed)
    assert found.broken is not None
    assert 2 == found.broken.promise
    smallest = minimise(found, Options())
    assert smallest.failed
    assert set(smallest.faults.enabled) <= set(found.faults.enabled)
    assert len(smallest.faults.enabled) <= 3
