"""Transfers from the first ask to the publishing, in a world where things go wrong.

Every seed is one world in virtual time; a failure prints it. `World` itself looks after each
event: the timers, the window, the requests, that nothing durable is asked for again, and that what
is published is one version, byte for byte.
"""

from __future__ import annotations

from random import Random

import pytest

from chunkq.errors import IntegrityError, PeerSilent, SourceChanging
from chunkq.protocol.limits import LEAVES_PER_PAGE, MAX_REPAIR_ROUNDS

from .world import CHUNK, Faults
from .world_run import World

SIZES = [0, 1, CHUNK, CHUNK + 1, 10 * CHUNK - 7, 600 * CHUNK, 1500 * CHUNK + 5]
#: A round of a few seconds per group; thousands were run by hand.
SEEDS_PER_GROUP = 10
GROUPS = 10


def any_world(seed: int) -> World:
    """A world with some of the faults, all of its numbers from the seed."""
    rng = Random(seed)

    def sometimes(how_often: float, *values: float) -> float:
        return rng.choice(values) if rng.random() < how_often else 0.0

    fastest = rng.choice((0.0005, 0.01, 0.1, 1.0, 4.0))
    faults = Faults(
        until_s=rng.choice((5.0, 30.0, 90.0)),
        delay_s=(fastest, fastest * (rng.choice((1.1, 2.0, 8.0)) if fastest < 0.5 else 1.5)),
        lose=sometimes(0.4, 0.01, 0.1, 0.4),
        duplicate=sometimes(0.4, 0.2),
        unsent=sometimes(0.3, 0.1),
        refuse=sometimes(0.3, 0.05, 0.3),
        lie=sometimes(0.2, 0.01),
        sync_fails=sometimes(0.3, 0.1),
        rot=sometimes(0.2, 0.2),
        change_every_s=sometimes(0.3, 2.0, 10.0),
        full_every_s=sometimes(0.3, 5.0),
        crash_every_s=sometimes(0.4, 0.5, 3.0, 15.0),
        state_lost=sometimes(0.3, 0.2),
        part_lost=sometimes(0.2, 0.1),
    )
    return World(
        seed,
        faults,
        [rng.choice(SIZES) for _ in range(rng.choice((1, 1, 2, 3)))],
        holes=sometimes(0.5, 0.6),
        rate=rng.choice((2e5, 2e6, 5e7)),
        max_chunks=rng.choice((2, 8, 64, 512)),
        commit_bytes=rng.choice((64 * CHUNK, 1 << 20, 64 << 20)),
    )


def budget_s(world: World) -> float:
    """What these files take on this link with the faults gone, generously."""
    chunks = sum(len(source.current.content) for source in world.sources.values()) / CHUNK
    return 300.0 + 8 * chunks * world.faults.delay_s[1] / world.max_chunks + chunks / 25


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_transfer_ends_well_once_faults_stop(group: int) -> None:
    """Loss, reordering, crashes, full disks, rot, refusals, new versions: a whole file each."""
    for seed in range(group * SEEDS_PER_GROUP, (group + 1) * SEEDS_PER_GROUP):
        world = any_world(seed)
        try:
            world.run(budget_s(world))
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
        assert dict.fromkeys(world.sources) == world.results, f"seed {seed}"


@pytest.mark.parametrize("size", SIZES)
def test_sizes_from_nothing_to_several_pages(size: int) -> None:
    """Zero bytes, one, N chunks, N and a byte: the current version, byte for byte."""
    world = World(1, Faults(), [size])
    world.run()
    assert world.sources["0"].current.content == world.published["0"]
    assert world.clock.now < 5.0


def test_a_file_of_holes_is_not_asked_for() -> None:
    """Pages that are zeros are known from the head: no request but the first."""
    world = World(1, Faults(), [4 * LEAVES_PER_PAGE * CHUNK])
    world.sources["0"].replace(bytes(4 * LEAVES_PER_PAGE * CHUNK))
    world.run()
    assert world.drivers["0"].requests == ["open"]
    assert world.sources["0"].current.content == world.published["0"]


def test_an_origin_that_always_lies_is_found_out() -> None:
    """After three rounds it ends as an integrity error; nothing is published."""
    world = World(1, Faults(lie_always=True), [600 * CHUNK])
    world.run()
    assert isinstance(world.results["0"], IntegrityError)
    assert {} == world.published
    assert f"came {MAX_REPAIR_ROUNDS} times" in str(world.results["0"])


def test_a_silent_origin_ends_it_after_the_patience_and_the_window_is_free() -> None:
    """Not before, not much later; the ticks until then are few."""
    world = World(1, Faults(until_s=0.0), [600 * CHUNK, 4], patience_s=50.0)
    world.origin.silent = True
    world.keep_errors = True
    world.run()
    assert [PeerSilent] * 2 == [type(world.results[name]) for name in ("0", "1")]
    assert 50.0 <= world.clock.now < 52.0


def test_a_source_that_changes_all_the_time_ends_with_its_reason() -> None:
    """No version can be had of a log that is written to ten times a second."""
    faults = Faults(change_every_s=0.05, until_s=1000.0)
    world = World(1, faults, [600 * CHUNK], rate=2e6, max_chunks=8)
    world.keep_errors = True
    world.run()
    assert isinstance(world.results["0"], SourceChanging)


def test_unchanged_chunks_of_an_older_version_are_kept() -> None:
    """After `stale`, what is in the part file already is compared, not asked for."""
    world = World(1, Faults(), [1000 * CHUNK], rate=2e6)
    source = world.sources["0"]

    def change() -> None:
        content = source.current.content
        source.replace(b"new" + content[3:])

    world.clock.after(1.0, change)
    world.run()
    assert source.current.content == world.published["0"]
    assert world.drivers["0"].chunks_asked < 1000 + 200


def test_a_kill_costs_at_most_what_was_not_committed() -> None:
    """Nothing durable is asked for again by the next process (`World` looks at each request)."""
    world = World(3, Faults(crash_every_s=1.0, power_cut=1.0), [1500 * CHUNK], rate=5e5)
    world.run()
    assert world.runs > 3
    assert world.sources["0"].current.content == world.published["0"]


@pytest.mark.parametrize("max_chunks", [2, 4, 7, 64])
def test_two_transfers_share_a_window_and_both_end(max_chunks: int) -> None:
    """The one that finds no room waits without losing patience with its peer."""
    world = World(
        1, Faults(), [1500 * CHUNK, 600 * CHUNK], rate=3e4, max_chunks=max_chunks, patience_s=30.0
    )
    world.keep_errors = True
    world.run(600.0)
    assert {"0": None, "1": None} == world.results


@pytest.mark.parametrize("delay_s", [2.0, 5.0, 15.0, 30.0])
def test_round_trips_longer_than_the_first_timer(delay_s: float) -> None:
    """Answers that come after their timer are of use, and the timer learns from them."""
    world = World(1, Faults(delay_s=(delay_s, delay_s)), [600 * CHUNK])
    world.keep_errors = True
    world.run(100 * delay_s)
    assert {"0": None} == world.results
    assert world.drivers["0"].chunks_asked < 2 * 600


def test_every_origin_says_busy() -> None:
    """It waits with the reason, asks seldom, and ends well when they have time again."""
    world = World(1, Faults(refuse=1.0, until_s=600.0), [10 * CHUNK])
    world.run()
    assert {"0": None} == world.results
    assert world.drivers["0"].requests.count("open") < 600


def test_a_full_disk_is_waited_out() -> None:
    """It pauses, says so, asks for nothing meanwhile, and goes on unaided."""
    world = World(1, Faults(), [600 * CHUNK], rate=1e6)
    disk, seen = world.disks["0"], []

    def free() -> None:
        waiting = world.drivers["0"].transfer.waiting
        seen.append((waiting and waiting.reason, world.process.window.outstanding))
        disk.full = False

    world.clock.after(1.0, lambda: setattr(disk, "full", True))
    world.clock.after(100.0, free)
    world.run()
    assert [("disk_full", 0)] == [(reason, 0) for reason, _ in seen]
    assert 100.0 <= world.clock.now < 110.0
    assert {"0": None} == world.results
