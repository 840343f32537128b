"""Whoever may write to a spool puts directories where packets belong: what that can hold up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chunkq.transport.spool import claims
from tests.transport.conformance import Make, bodies, create, take
from tests.transport.test_spool import BOB, LONG_AGO, clock, make, packet_name, root

__all__ = ["clock", "make", "root"]  # fixtures


@pytest.mark.parametrize("expires", [1, 0])
async def test_a_directory_with_a_packets_name_stops_no_publisher(
    make: Make, root: Path, expires: int
) -> None:
    """Nor does one whose time is over, which is removed when room is measured."""
    bob = await make("bob")
    await create(bob, BOB)
    (root / "req.bob" / "new" / packet_name(6, expires=expires)).mkdir()
    await bob.publish(BOB, b"good", lifetime_s=60)

    assert [b"good"] == bodies(await take(await bob.consume(BOB, prefetch=9), 1))


async def test_things_that_cannot_be_moved_hide_nothing_behind_them(
    make: Make, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them, all older than the first packet, than are looked at in one go."""
    monkeypatch.setattr(claims, "LISTED_NAMES", 8)
    bob = await make("bob")
    await create(bob, BOB)
    for number in range(20):
        (root / "req.bob" / "new" / packet_name(6, sequence=number, expires=1)).mkdir()
    await bob.publish(BOB, b"good", lifetime_s=60)

    assert [b"good"] == bodies(await take(await bob.consume(BOB, prefetch=9), 1))


@pytest.mark.parametrize("kind", ["fifo", "torn"])
async def test_a_directory_where_it_is_to_be_put_aside(make: Make, root: Path, kind: str) -> None:
    """What cannot be delivered, and cannot become a dead letter, holds up nothing either."""
    bob = await make("bob")
    await create(bob, BOB)
    name = packet_name(6)
    (root / "req.bob" / "dead" / name / "full").mkdir(parents=True)
    if kind == "fifo":
        os.mkfifo(root / "req.bob" / "new" / name)
    else:
        (root / "req.bob" / "new" / name).write_bytes(b"torn")
    await bob.publish(BOB, b"good", lifetime_s=60)

    assert [b"good"] == bodies(await take(await bob.consume(BOB, prefetch=9), 1))


async def test_a_directory_where_a_dead_consumers_claim_goes_back(make: Make, root: Path) -> None:
    """The sweep passes it over, again and again."""
    bob = await make("bob")
    await create(bob, BOB)
    box = root / "req.bob"
    (box / "cur" / f"{LONG_AGO}-{'0' * 16}").mkdir()
    (box / "cur" / f"{LONG_AGO}-{'0' * 16}" / packet_name(4)).write_bytes(b"back")
    (box / "new" / packet_name(4).replace("-00-", "-01-") / "full").mkdir(parents=True)
    await bob.publish(BOB, b"good", lifetime_s=60)

    assert [b"good"] == bodies(await take(await bob.consume(BOB, prefetch=9), 1))


async def test_directories_among_the_files_to_be_used_again(make: Make, root: Path) -> None:
    """Neither publishing nor ending minds them."""
    bob = await make("bob")
    await create(bob, BOB)
    for number in range(3):
        (root / "req.bob" / "free" / packet_name(4, sequence=number) / "x").mkdir(parents=True)
    await bob.publish(BOB, b"good", lifetime_s=60)

    consumer = await bob.consume(BOB, prefetch=9)
    assert [b"good"] == bodies(await take(consumer, 1))
    await consumer.close()
