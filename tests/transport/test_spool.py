"""The spool transport: the conformance suite, and what only a directory can do to one."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chunkq.errors import (
    BrokerRefused,
    BrokerUnreachable,
    ConfigError,
    Nacked,
    TransportClosed,
    Unroutable,
)
from chunkq.ports import Mailbox, Transport
from chunkq.protocol.limits import KIB, MIB
from chunkq.transport.spool import SpoolOptions, SpoolTransport
from chunkq.transport.spool.directories import translate
from chunkq.transport.spool.sweeping import DELIVERY_LIMIT, MOST_DEAD_LETTERS

from .conformance import (
    DeadLetters,
    Elapse,
    Make,
    TransportConformance,
    bodies,
    create,
    eventually,
    take,
)

BOB = Mailbox("req", "bob")
LONG_AGO = "001000000000000"


class ShiftedClock:
    """The real clock, moved forward by hand."""

    def __init__(self) -> None:
        self.shift_s = 0.0

    def monotonic_s(self) -> float:
        return time.monotonic() + self.shift_s

    def wall_ms(self) -> int:
        return int((time.time() + self.shift_s) * 1000)


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "spool"
    root.mkdir()
    return root


@pytest.fixture
async def make(root: Path, clock: ShiftedClock) -> AsyncIterator[Make]:
    made: list[Transport] = []

    async def make(site: str) -> Transport:
        options = SpoolOptions(root=root, site=site, unavailable_poll_s=0.02)
        transport = SpoolTransport(options, clock)
        await transport.open()
        made.append(transport)
        return transport

    yield make
    for transport in made:
        await transport.close()


class TestSpoolTransport(TransportConformance):
    """The spool keeps every rule of a transport."""

    @pytest.fixture
    def elapse(self, clock: ShiftedClock) -> Elapse:
        def elapse(seconds: float) -> None:
            clock.shift_s += seconds

        return elapse

    @pytest.fixture
    def dead_letters(self, root: Path) -> DeadLetters:
        async def dead_letters(mailbox: Mailbox) -> int:
            return len(os.listdir(root / str(mailbox) / "dead"))

        return dead_letters


def packet_name(size: int, *, created: str = LONG_AGO, sequence: int = 1, expires: int = 0) -> str:
    """A well-formed file name, as the format's own test: a change of it breaks shared spools."""
    return f"{created}-{sequence:010d}-{expires:015d}-{size:010d}-00-{'ab' * 8}"


async def wait_for_files(directory: Path, names: set[str]) -> None:
    async def are_there() -> bool:
        return names == set(os.listdir(directory))

    await eventually(are_there)


# ---------------------------------------------------------------- layout


async def test_layout_and_modes_on_disk(make: Make, root: Path) -> None:
    """The directories are as documented; nobody but the owner may look; acknowledged is gone."""
    bob = await make("bob")
    consumer = await bob.consume(BOB, prefetch=10)
    await bob.publish(BOB, b"hello", lifetime_s=60)
    box = root / "req.bob"
    assert {"tmp", "new", "cur", "dead", "free"} == set(os.listdir(box))
    (name,) = os.listdir(box / "new")
    assert "0000000005" == name.split("-")[3]
    assert 0o600 == stat.S_IMODE((box / "new" / name).stat().st_mode)
    assert 0o700 == stat.S_IMODE((box / "new").stat().st_mode)

    (delivery,) = await take(consumer, 1)
    (claims,) = (box / "cur").iterdir()
    assert {name, ".lock"} == set(os.listdir(claims))
    assert [] == os.listdir(box / "new")
    consumer.acknowledge(delivery)
    await wait_for_files(claims, {".lock"})
    await consumer.close()
    assert [[], [], [], []] == [os.listdir(box / part) for part in ("tmp", "new", "cur", "dead")]


async def test_shared_group_modes_do_not_depend_on_the_umask(
    root: Path, clock: ShiftedClock
) -> None:
    """With dir_mode 0o2770 the group may take packets, whatever the umask is."""
    old = os.umask(0o077)
    try:
        spool = SpoolTransport(SpoolOptions(root=root, site="bob", dir_mode=0o2770), clock)
        await spool.open()
        consumer = await spool.consume(BOB, prefetch=1)
        await spool.publish(BOB, b"hello")
        (packet,) = (root / "req.bob" / "new").iterdir()
        (claims,) = (root / "req.bob" / "cur").iterdir()
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (packet, claims, claims / ".lock")]
        assert [0o660, 0o2770, 0o660] == modes
        await consumer.close()
        await spool.close()
    finally:
        os.umask(old)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_message_bytes": 1 * MIB},
        {"max_message_bytes": 2048 * MIB},
        {"queue_bytes": 8 * MIB},
        {"poll_min_s": 0.0},
        {"poll_min_s": 1.0},
        {"unavailable_poll_s": 0.0},
        {"dir_mode": 0o070},
        {"dir_mode": 0o4700},
    ],
)
def test_options_that_cannot_be_meant_are_refused(root: Path, wrong: dict[str, float]) -> None:
    """Numbers out of range fail when the options are made, naming the spool."""
    with pytest.raises(ConfigError, match="spool"):
        SpoolOptions(root=root, site="bob", **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "mailbox",
    [
        Mailbox("req", ""),
        Mailbox("req", ".."),
        Mailbox("req", "a/b"),
        Mailbox("req", "UPPER"),
        Mailbox("rep", "bob"),
        Mailbox("rep", "bob", "../../x"),
        Mailbox("req", "x" * 64),
    ],
)
async def test_names_that_leave_the_root_are_refused(make: Make, mailbox: Mailbox) -> None:
    """A mailbox whose parts are not plain labels is refused, and nothing is created."""
    bob = await make("bob")
    with pytest.raises(BrokerRefused, match="mailbox"):
        await bob.publish(mailbox, b"x")
    with pytest.raises(BrokerRefused, match="mailbox"):
        await bob.consume(mailbox, prefetch=1)


# ---------------------------------------------------------------- claims and dead consumers


async def test_a_live_consumer_keeps_its_claims(make: Make, clock: ShiftedClock) -> None:
    """Another consumer's sweep leaves claims alone for as long as their owner lives."""
    bob, other = await make("bob"), await make("bob")
    first = await bob.consume(BOB, prefetch=10)
    await bob.publish(BOB, b"held")
    await take(first, 1)
    clock.shift_s += 10_000
    second = await other.consume(BOB, prefetch=10)
    await bob.publish(BOB, b"next")
    assert [b"next"] == bodies(await take(second, 1))
    assert 0 == await bob.depth(BOB)


async def test_claim_directory_without_a_lock_is_swept(make: Make, root: Path) -> None:
    """What a sweeper that was killed half-way left is finished by the next one."""
    bob = await make("bob")
    await create(bob, BOB)
    left = root / "req.bob" / "cur" / f"{LONG_AGO}-{'cd' * 8}"
    left.mkdir()
    (left / packet_name(5)).write_bytes(b"hello")
    consumer = await bob.consume(BOB, prefetch=10)
    (delivery,) = await take(consumer, 1)
    assert (b"hello", True) == (delivery.body, delivery.redelivered)
    assert not left.exists()


async def test_poison_request_that_crashes_workers_dead_letters_after_20(
    make: Make, root: Path
) -> None:
    """A packet whose consumers end again and again is put aside; one never seen is not."""
    bob = await make("bob")
    await create(bob, BOB)
    await bob.publish(BOB, b"poison")
    for attempt in range(DELIVERY_LIMIT):
        consumer = await bob.consume(BOB, prefetch=1)
        (delivery,) = await take(consumer, 1)
        assert (attempt > 0) == delivery.redelivered
        await consumer.close()
    await bob.publish(BOB, b"good")
    consumer = await bob.consume(BOB, prefetch=10)
    assert [b"good"] == bodies(await take(consumer, 1))
    (letter,) = (root / "req.bob" / "dead").iterdir()
    assert b"poison" == letter.read_bytes()


async def test_claimed_but_never_handed_out_is_not_a_delivery(make: Make) -> None:
    """What a cancelled receive had claimed goes back on close without counting."""
    bob = await make("bob")
    consumer = await bob.consume(BOB, prefetch=10)
    await bob.publish(BOB, b"unseen")
    waiting = asyncio.ensure_future(consumer.receive())
    await asyncio.sleep(0)  # it has begun, and its thread claims the packet
    waiting.cancel()
    await asyncio.wait([waiting])

    async def claimed() -> bool:
        return await bob.depth(BOB) == 0

    await eventually(claimed)
    await consumer.close()
    again = await bob.consume(BOB, prefetch=10)
    (delivery,) = await take(again, 1)
    assert (b"unseen", False) == (delivery.body, delivery.redelivered)


async def test_stale_debris_is_removed_and_fresh_is_not(
    make: Make, root: Path, clock: ShiftedClock
) -> None:
    """Files and claim directories left in tmp/ go after an hour; younger and foreign ones stay."""
    bob = await make("bob")
    await create(bob, BOB)
    tmp = root / "req.bob" / "tmp"
    fresh = packet_name(1, created=f"{clock.wall_ms() - 60_000:015d}")
    for name in (packet_name(1), fresh, "foreign"):
        (tmp / name).write_bytes(b"x")
    (tmp / f"{LONG_AGO}-{'ef' * 8}").mkdir()
    (tmp / f"{LONG_AGO}-{'ef' * 8}" / ".lock").touch()
    consumer = await bob.consume(BOB, prefetch=1)
    await bob.publish(BOB, b"x")
    await take(consumer, 1)
    assert {fresh, "foreign"} == set(os.listdir(tmp))


async def test_dead_letters_are_bounded(make: Make, root: Path) -> None:
    """Only the newest thousand dead letters are kept."""
    bob = await make("bob")
    await create(bob, BOB)
    dead = root / "req.bob" / "dead"
    for number in range(MOST_DEAD_LETTERS + 3):
        (dead / packet_name(0, sequence=number)).touch()
    await bob.publish(BOB, b"x")
    await take(await bob.consume(BOB, prefetch=1), 1)
    kept = sorted(os.listdir(dead))
    assert MOST_DEAD_LETTERS == len(kept)
    assert packet_name(0, sequence=3) == kept[0]


# ---------------------------------------------------------------- hostile and torn files


async def test_hostile_files_are_neither_followed_nor_delivered(
    make: Make, root: Path, tmp_path: Path
) -> None:
    """Links, FIFOs, directories, giants, torn and foreign files do not reach the application."""
    bob = await make("bob")
    await create(bob, BOB)
    new = root / "req.bob" / "new"
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    hostile = {number: packet_name(6, sequence=number) for number in range(5)}
    (new / hostile[0]).symlink_to(secret)
    os.mkfifo(new / hostile[1])
    (new / hostile[2]).mkdir()
    (new / hostile[3]).write_bytes(b"torn")
    (new / hostile[4]).write_bytes(b"longer than its name says")
    giant = packet_name(16 * MIB + 1, sequence=5)
    with (new / giant).open("wb") as file:
        file.truncate(16 * MIB + 1)
    (new / packet_name(0, expires=1)).mkdir()
    foreign = {"notes.txt", ".hidden", packet_name(6) + "x", packet_name(6).replace("00", "0٣", 1)}
    for name in foreign:
        (new / name).write_bytes(b"foreign")
    (new / packet_name(4, sequence=9)).write_bytes(b"good")

    consumer = await bob.consume(BOB, prefetch=100)
    assert [b"good"] == bodies(await take(consumer, 1))
    assert b"secret" == secret.read_bytes()
    assert foreign | {packet_name(0, expires=1)} == set(os.listdir(new))
    put_aside = set(os.listdir(root / "req.bob" / "dead"))
    assert {*hostile.values(), giant} == put_aside


@pytest.mark.parametrize("part", ["", "new", "tmp", "cur"])
async def test_link_in_place_of_a_directory_is_refused(
    make: Make, root: Path, tmp_path: Path, part: str
) -> None:
    """A mailbox that leads elsewhere is refused both ways, and elsewhere stays untouched."""
    bob = await make("bob")
    await create(bob, BOB)
    box = root / "req.bob" / part
    elsewhere = tmp_path / "elsewhere"
    box.rename(elsewhere)
    box.symlink_to(elsewhere)
    before = sorted(elsewhere.rglob("*"))
    with pytest.raises(BrokerRefused, match=r"req\.bob") as refusal:
        await bob.publish(BOB, b"x")
    assert refusal.value.hint is not None
    with pytest.raises(BrokerRefused, match=r"req\.bob"):
        await bob.consume(BOB, prefetch=1)
    assert before == sorted(elsewhere.rglob("*"))


async def test_link_among_the_debris_is_not_followed(
    make: Make, root: Path, tmp_path: Path
) -> None:
    """Sweeping removes nothing through a link that is named like a claim directory."""
    bob = await make("bob")
    await create(bob, BOB)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / ".lock").touch()
    (elsewhere / packet_name(5)).write_bytes(b"hello")
    for part in ("tmp", "cur"):
        (root / "req.bob" / part / f"{LONG_AGO}-{'ef' * 8}").symlink_to(elsewhere)
    consumer = await bob.consume(BOB, prefetch=1)
    await bob.publish(BOB, b"x")
    assert [b"x"] == bodies(await take(consumer, 1))
    assert {".lock", packet_name(5)} == set(os.listdir(elsewhere))


# ---------------------------------------------------------------- room


async def test_request_queue_full_is_nacked_until_there_is_room(
    root: Path, clock: ShiftedClock
) -> None:
    """A full mailbox nacks, at the bound and not before, and takes packets again later."""
    options = SpoolOptions(root=root, site="bob", queue_bytes=16 * MIB)
    spool = SpoolTransport(options, clock)
    await spool.open()
    consumer = await spool.consume(BOB, prefetch=2)
    for _ in range(4):
        await spool.publish(BOB, bytes(4 * MIB))
    with pytest.raises(Nacked, match="full") as refusal:
        await spool.publish(BOB, b"")
    assert refusal.value.hint is not None
    assert spool.health.ok
    await take(consumer, 2)
    clock.shift_s += 1
    await spool.publish(BOB, bytes(4 * MIB))
    await spool.publish(BOB, bytes(4 * MIB))
    with pytest.raises(Nacked, match="full"):
        await spool.publish(BOB, b"")
    await spool.close()


async def test_empty_packets_are_bounded_too(root: Path, clock: ShiftedClock) -> None:
    """A packet counts at least a block, so that a flood of empty ones ends as well."""
    spool = SpoolTransport(SpoolOptions(root=root, site="bob", queue_bytes=16 * MIB), clock)
    await spool.open()
    await create(spool, BOB)
    outcomes = await asyncio.gather(
        *(spool.publish(BOB, b"") for _ in range(4 * KIB + 10)), return_exceptions=True
    )
    assert 10 == sum(isinstance(outcome, Nacked) for outcome in outcomes)
    assert 4 * KIB == await spool.depth(BOB)
    await spool.close()


async def test_two_publishers_see_each_others_packets(root: Path, clock: ShiftedClock) -> None:
    """The bound holds for the mailbox, not for each publisher."""
    options = SpoolOptions(root=root, site="bob", queue_bytes=16 * MIB)
    first, second = SpoolTransport(options, clock), SpoolTransport(options, clock)
    await first.open()
    await create(first, BOB)
    await second.publish(BOB, b"")
    for size in (4 * MIB, 4 * MIB, 4 * MIB, 4 * MIB - 4096):
        await first.publish(BOB, bytes(size))
    clock.shift_s += 1
    with pytest.raises(Nacked, match="full"):
        await second.publish(BOB, b"")
    assert 5 == await first.depth(BOB)
    await first.close()
    await second.close()


async def test_expired_packets_make_room(root: Path, clock: ShiftedClock) -> None:
    """The mailbox of a site that is away is not filled for ever by packets that have expired."""
    spool = SpoolTransport(SpoolOptions(root=root, site="bob", queue_bytes=16 * MIB), clock)
    await spool.open()
    await create(spool, BOB)
    for _ in range(4):
        await spool.publish(BOB, bytes(4 * MIB), lifetime_s=10)
    clock.shift_s += 11
    await spool.publish(BOB, b"new")
    assert 1 == len(os.listdir(root / "req.bob" / "new"))
    await spool.close()


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, Nacked),
        (errno.EDQUOT, Nacked),
        (errno.EROFS, BrokerRefused),
        (errno.EACCES, BrokerRefused),
        (errno.ENOLCK, BrokerRefused),
        (errno.EIO, BrokerUnreachable),
        (errno.ESTALE, BrokerUnreachable),
        (errno.ENOENT, BrokerUnreachable),
    ],
)
def test_errors_of_the_file_system_say_what_to_do(number: int, expected: type) -> None:
    """Full backs off, forbidden ends, gone waits; each names the path and has a hint."""
    error = translate(OSError(number, os.strerror(number)), "writing a packet into /s/req.bob")
    assert expected is type(error)
    assert f"writing a packet into /s/req.bob: {os.strerror(number)}" == error.message
    assert error.hint


# ---------------------------------------------------------------- the medium comes and goes


async def test_open_without_the_directory_is_unreachable(
    tmp_path: Path, clock: ShiftedClock
) -> None:
    """A root that is not there is not created: the stick may just not be plugged in."""
    spool = SpoolTransport(SpoolOptions(root=tmp_path / "stick", site="bob"), clock)
    with pytest.raises(BrokerUnreachable, match="stick") as refusal:
        await spool.open()
    assert "plug in" in (refusal.value.hint or "")
    assert not (tmp_path / "stick").exists()
    (tmp_path / "stick").mkdir()
    await spool.open()
    await spool.close()


async def test_open_on_a_file_or_without_the_right_to_write_is_refused(
    tmp_path: Path, clock: ShiftedClock
) -> None:
    """A root that is no directory, or not writable even to root, is refused with a hint."""
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", Path("/sys")):
        spool = SpoolTransport(SpoolOptions(root=root, site="bob"), clock)
        with pytest.raises(BrokerRefused, match=str(root)) as refusal:
            await spool.open()
        assert refusal.value.hint
        await spool.close()


async def test_medium_pulled_and_plugged_in_again(make: Make, root: Path) -> None:
    """While the spool is gone both sides say so and lose nothing; then they go on by themselves."""
    alice, bob = await make("alice"), await make("bob")
    consumer = await bob.consume(BOB, prefetch=2)
    await alice.publish(BOB, b"held")
    (held,) = await take(consumer, 1)
    away = root.with_name("pulled")
    root.rename(away)
    root.mkdir()  # an empty mount point

    with pytest.raises(Nacked, match="not there"):
        await alice.publish(BOB, b"refused")
    waiting = asyncio.ensure_future(consumer.receive())

    async def both_know() -> bool:
        return not (alice.health.ok or bob.health.ok)

    await eventually(both_know)
    assert {"spool_unavailable"} == {alice.health.reason, bob.health.reason}
    assert str(root) in alice.health.detail
    assert [] == os.listdir(root)

    root.rmdir()
    away.rename(root)
    (again,) = await asyncio.wait_for(waiting, 30)
    assert (b"held", True) == (again.body, again.redelivered)
    assert again.generation > held.generation

    async def both_well() -> bool:
        return alice.health.ok and bob.health.ok

    await eventually(both_well)
    await alice.publish(BOB, b"next")
    assert [b"next"] == bodies(await take(consumer, 1))
    consumer.acknowledge(held)  # of the generation that was lost: no effect
    await consumer.close()
    assert 2 == await bob.depth(BOB)


async def test_mailbox_deleted_under_its_consumer_is_made_again(make: Make, root: Path) -> None:
    """Someone who cleans up the directory does not leave a consumer deaf."""
    alice, bob = await make("alice"), await make("bob")
    consumer = await bob.consume(BOB, prefetch=10)
    (root / "req.bob").rename(root / "trash")
    with pytest.raises(Unroutable):
        await alice.publish(BOB, b"too early")
    waiting = asyncio.ensure_future(consumer.receive())

    async def is_back() -> bool:
        return (root / "req.bob" / "tmp").exists()

    await eventually(is_back)
    await alice.publish(BOB, b"hello")
    assert [b"hello"] == bodies(await asyncio.wait_for(waiting, 30))
    assert bob.health.ok


async def test_close_while_the_medium_is_gone(make: Make, root: Path) -> None:
    """Closing raises nothing and wakes whoever waits, with the spool there or not."""
    bob = await make("bob")
    consumer = await bob.consume(BOB, prefetch=10)
    waiting = asyncio.ensure_future(consumer.receive())
    root.rename(root.with_name("pulled"))
    with pytest.raises(Nacked):
        await bob.publish(BOB, b"x")
    await bob.close()
    with pytest.raises(TransportClosed):
        await asyncio.wait_for(waiting, 30)


async def test_spool_carried_to_another_place(
    root: Path, tmp_path: Path, clock: ShiftedClock
) -> None:
    """A courier's copy, at another path and two days later, delivers in order what still lives."""
    here = SpoolTransport(SpoolOptions(root=root, site="alice"), clock)
    await here.open()
    await create(here, BOB)
    for number in range(20):
        await here.publish(BOB, str(number).encode(), lifetime_s=3600 if number % 2 else 7 * 86400)
    await here.close()
    carried = tmp_path / "elsewhere"
    root.rename(carried)
    clock.shift_s += 2 * 86400
    there = SpoolTransport(SpoolOptions(root=carried, site="bob"), clock)
    await there.open()
    consumer = await there.consume(BOB, prefetch=100)
    assert [str(number).encode() for number in range(0, 20, 2)] == bodies(await take(consumer, 10))
    await there.close()


async def test_wall_clock_jumps_back_and_order_stays(make: Make, clock: ShiftedClock) -> None:
    """A publisher whose clock is set back still has its packets delivered in order."""
    alice, bob = await make("alice"), await make("bob")
    await create(bob, BOB)
    await alice.publish(BOB, b"first")
    clock.shift_s -= 7200
    await alice.publish(BOB, b"second", lifetime_s=60)
    assert [b"first", b"second"] == bodies(await take(await bob.consume(BOB, prefetch=9), 2))


async def test_receive_bounds_the_bytes_it_reads_ahead(make: Make) -> None:
    """However many packets wait, one receive takes about 8 MiB and leaves the rest to others."""
    bob = await make("bob")
    await create(bob, BOB)
    for _ in range(40):
        await bob.publish(BOB, bytes(MIB))
    consumer = await bob.consume(BOB, prefetch=1000)
    assert 8 == len(await consumer.receive())
    assert 32 == await bob.depth(BOB)


async def test_buffer_may_be_resized_after_publish(make: Make) -> None:
    """A publisher gets its bytearray back whole: no view of it is left behind."""
    bob = await make("bob")
    await create(bob, BOB)
    body = bytearray(b"hello")
    first = asyncio.ensure_future(bob.publish(BOB, body))
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the first is being written, so the second is in a batch of its own
    second = asyncio.ensure_future(bob.publish(BOB, bytes(4 * MIB)))
    await first
    body.clear()
    await second
    assert 2 == await bob.depth(BOB)


async def test_idle_consumer_costs_next_to_nothing(make: Make) -> None:
    """Waiting on an empty mailbox uses under a twentieth of a core."""
    bob = await make("bob")
    consumer = await bob.consume(BOB, prefetch=10)
    waiting = asyncio.ensure_future(consumer.receive())
    await asyncio.wait([waiting], timeout=0.5)  # by now it looks at its slowest
    before_s, started_s = time.process_time(), time.monotonic()
    await asyncio.wait([waiting], timeout=1.0)
    used_s, elapsed_s = time.process_time() - before_s, time.monotonic() - started_s
    assert not waiting.done()
    assert 0.05 * elapsed_s > used_s
    waiting.cancel()
