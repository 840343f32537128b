"""Transfers from several origins in a world where some are slow, silent, dying, or lie.

`World` looks after each event as in `test_transfer_world`.
"""

from __future__ import annotations

from random import Random

import pytest

from chunkq.errors import IntegrityError, NotFound, OtherVersion, PeerSilent
from chunkq.protocol.messages import RefusalReason
from chunkq.protocol.sharing import most_twice

from .world import CHUNK, Faults, Source
from .world_run import World

QUICK = (0.01, 0.02)
#: Chunks a second.
FAST, MIDDLE, SLOW = 1000.0, 300.0, 100.0
SEEDS_PER_GROUP = 8
GROUPS = 6


def world_of(chunks: int, *rates: float, faults: tuple[Faults, ...] = (), seed: int = 1) -> World:
    """One file at origins with these rates, in chunks a second."""
    its = faults or tuple(Faults(delay_s=QUICK) for _ in rates)
    first, *others = zip(its, rates, strict=True)
    world = World(
        seed,
        first[0],
        [chunks * CHUNK],
        rate=first[1] * CHUNK,
        others=[(each, rate * CHUNK) for each, rate in others],
    )
    world.keep_errors = True
    return world


def ended_well(world: World) -> None:
    assert {"0": None} == world.results
    assert world.sources["0"].current.content == world.published["0"]


def share_of_sum(world: World, *alive: tuple[float, float]) -> float:
    """The rate that was had over what `(chunks a second, until)` could have delivered."""
    chunks = world.sources["0"].current.geometry.chunk_count
    return chunks / sum(rate * min(until, world.clock.now) for rate, until in alive)


@pytest.mark.parametrize("order", [(FAST, MIDDLE, SLOW), (SLOW, MIDDLE, FAST)])
def test_rates_add_up(order: tuple[float, float, float]) -> None:
    """10:3:1, in whatever order they are named; the start is all that is lost."""
    world = world_of(3000, *order)
    world.run()
    ended_well(world)
    assert share_of_sum(world, *((rate, 1e9) for rate in order)) > 0.85


@pytest.mark.parametrize("dying", [0, 1, 2])
@pytest.mark.parametrize("at_s", [0.7, 1.7])
def test_one_that_dies_costs_its_timer(dying: int, at_s: float) -> None:
    """Early or near the end: the others take over, and are used to the full."""
    rates = (FAST, MIDDLE, SLOW)
    world = world_of(3000, *rates)
    world.clock.after(at_s, lambda: setattr(world.origins[dying], "silent", True))
    world.run()
    ended_well(world)
    alive = [(rate, at_s if lane == dying else 1e9) for lane, rate in enumerate(rates)]
    assert share_of_sum(world, *alive) > 0.85


@pytest.mark.parametrize("chunks", [1, 10, 60, 1000])
def test_a_slow_one_does_not_determine_the_end(chunks: int) -> None:
    """One chunk in two seconds beside a thousand a second: no later than without it, nearly."""
    alone = world_of(chunks, FAST)
    alone.run()
    world = world_of(chunks, FAST, 0.5)
    world.run()
    ended_well(world)
    assert world.clock.now < alone.clock.now + 0.5


@pytest.mark.parametrize("chunks", [60, 1000, 3000])
def test_at_most_two_in_a_hundred_are_asked_for_twice(chunks: int) -> None:
    """Nobody dies and nothing is lost: whatever is asked for again is the end-game's."""
    world = world_of(chunks, FAST, MIDDLE, SLOW, 2.0)
    world.run()
    ended_well(world)
    again = [index for index, times in world.drivers["0"].chunks_of.items() if times > 1]
    assert most_twice(chunks) >= len(again)
    assert set(world.drivers["0"].chunks_of.values()) <= {1, 2}


@pytest.mark.parametrize("liar", [0, 1])
def test_a_liar_costs_what_it_delivered(liar: int) -> None:
    """Out at its first bad chunk, whether it signed the manifest or not."""
    honest, lying = Faults(delay_s=QUICK), Faults(delay_s=QUICK, lie_always=True)
    world = world_of(1000, FAST, FAST, faults=(lying, honest) if liar == 0 else (honest, lying))
    world.run()
    ended_well(world)
    assert {liar: IntegrityError} == {k: type(v) for k, v in world.drivers["0"].left.items()}
    assert world.origins[liar].sent < 100
    assert world.clock.now < 2.0


def test_a_changed_copy_and_a_refusal_are_left_out() -> None:
    """Another version at one, no such file at another: the rest is enough."""
    world = world_of(1000, FAST, FAST, FAST)
    world.origins[1].sources["0"] = Source(b"other" + world.sources["0"].current.content[5:])
    world.origins[2].refuses = RefusalReason.NOT_FOUND
    world.run()
    ended_well(world)
    left = {lane: type(error) for lane, error in world.drivers["0"].left.items()}
    assert {1: OtherVersion, 2: NotFound} == left
    assert [0, 0] == [origin.sent for origin in world.origins[1:]]


def test_a_source_that_changes_half_way_leaves_the_old_version_to_the_others() -> None:
    """What is published is the version that was begun."""
    world = world_of(3000, FAST, FAST)
    content = world.sources["0"].current.content
    copy = world.origins[1].sources["0"] = Source(content)
    world.clock.after(0.7, lambda: copy.replace(b"new" + content[3:]))
    world.run()
    ended_well(world)
    assert {1: OtherVersion} == {k: type(v) for k, v in world.drivers["0"].left.items()}
    assert world.origins[1].sent > 100


def test_the_first_one_silent_from_the_start() -> None:
    """It costs one timer of three seconds, and nothing after that."""
    world = world_of(1000, FAST, FAST)
    world.origins[0].silent = True
    world.run()
    ended_well(world)
    assert world.clock.now < 3.0 + 1.0 + 0.5


def test_all_silent_is_a_silent_peer() -> None:
    """After the patience, not before."""
    world = world_of(1000, FAST, FAST)
    for origin in world.origins:
        origin.silent = True
    world.run()
    assert [PeerSilent] == [type(error) for error in world.results.values()]
    assert 120.0 <= world.clock.now < 122.0


def test_one_that_comes_back_is_used_again() -> None:
    """Silent for ten seconds: asked now and then, and asked for chunks once it answers."""
    world = world_of(4000, SLOW, SLOW)
    origin = world.origins[1]
    world.clock.after(2.0, lambda: setattr(origin, "silent", True))
    world.clock.after(12.0, lambda: setattr(origin, "silent", False))
    world.run()
    ended_well(world)
    assert origin.sent > 900


def test_a_lossy_one_stays_in() -> None:
    """Two in a hundred of its packets are lost: it brings its part all the same."""
    lossy = Faults(delay_s=QUICK, lose=0.02, until_s=1e9)
    world = world_of(3000, FAST, FAST, faults=(Faults(delay_s=QUICK), lossy))
    world.run()
    ended_well(world)
    assert world.origins[1].sent > 700
    assert {} == world.drivers["0"].left


def test_far_and_near_origins_share() -> None:
    """Round trips of 30 ms and 2 s: the far one is used, the near one does not wait for it."""
    far = Faults(delay_s=(1.0, 1.01))
    world = world_of(4000, SLOW, FAST, faults=(Faults(delay_s=QUICK), far))
    world.run()
    ended_well(world)
    assert world.origins[1].sent > 500
    assert world.clock.now < 32.0  # alone the near one takes 40


def any_world(seed: int) -> World:
    """Two or three origins with some of the faults each, all numbers from the seed."""
    rng = Random(seed)

    def sometimes(how_often: float, *values: float) -> float:
        return rng.choice(values) if rng.random() < how_often else 0.0

    def faults(*, first: bool) -> Faults:
        fastest = rng.choice((0.0005, 0.01, 0.1, 1.0))
        return Faults(
            until_s=rng.choice((5.0, 30.0)),
            delay_s=(fastest, fastest * rng.choice((1.1, 2.0))),
            lose=sometimes(0.3, 0.01, 0.1, 0.4),
            duplicate=sometimes(0.3, 0.2),
            unsent=sometimes(0.2, 0.1),
            refuse=sometimes(0.3, 0.05, 0.3),
            lie=sometimes(0.2, 0.01),
            lie_always=not first and rng.random() < 0.2,
            sync_fails=sometimes(0.2, 0.1) if first else 0.0,
            rot=sometimes(0.2, 0.2) if first else 0.0,
            change_every_s=sometimes(0.2, 2.0, 10.0) if first else 0.0,
            full_every_s=sometimes(0.2, 5.0) if first else 0.0,
            crash_every_s=sometimes(0.4, 0.5, 3.0) if first else 0.0,
            state_lost=sometimes(0.3, 0.2) if first else 0.0,
        )

    world = World(
        seed,
        faults(first=True),
        [rng.choice((1, 10, 600, 1500)) * CHUNK for _ in range(rng.choice((1, 1, 2)))],
        holes=sometimes(0.4, 0.6),
        rate=rng.choice((2e5, 2e6, 5e7)),
        max_chunks=rng.choice((2, 8, 64, 512)),
        others=[
            (faults(first=False), rng.choice((2e4, 2e6, 5e7))) for _ in range(rng.choice((1, 2)))
        ],
    )
    for origin in world.origins[1:]:
        fate = rng.random()
        if fate < 0.2:
            origin.silent = True
        elif fate < 0.4:
            world.clock.after(rng.uniform(0, 5), lambda it=origin: setattr(it, "silent", True))
        elif fate < 0.5:
            origin.refuses = RefusalReason.NOT_FOUND
        elif fate < 0.6:
            origin.sources["0"] = Source(world.sources["0"].current.content + b"more")
    return world


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_transfer_ends_well_once_faults_stop(group: int) -> None:
    """The first origin has its faults until they stop; of the others anything may become."""
    for seed in range(group * SEEDS_PER_GROUP, (group + 1) * SEEDS_PER_GROUP):
        world = any_world(seed)
        try:
            world.run(2000.0)
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
        assert dict.fromkeys(world.sources) == world.results, f"seed {seed}"
