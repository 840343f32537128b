"""A fleeting mailbox of a spool whose consumer was killed: publishers keep nothing for it."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chunkq.errors import Unroutable
from chunkq.ports import STATUS_INSTANCE, Mailbox
from chunkq.transport.spool import SpoolOptions, SpoolTransport
from chunkq.transport.spool.writer import FLEETING_IDLE_S

STATUS = Mailbox("rep", "alpha", STATUS_INSTANCE)


class ShiftedClock:
    """Real time, and what a test adds."""

    shift_s = 0.0

    def monotonic_s(self) -> float:
        return time.monotonic() + self.shift_s

    def wall_ms(self) -> int:
        return int((time.time() + self.shift_s) * 1000)


@pytest.fixture
def clock() -> ShiftedClock:
    return ShiftedClock()


@pytest.fixture
async def spool(tmp_path: Path, clock: ShiftedClock) -> AsyncIterator[SpoolTransport]:
    spool = SpoolTransport(SpoolOptions(root=tmp_path, site="alpha"), clock)
    await spool.open()
    yield spool
    await spool.close()


async def killed(spool: SpoolTransport) -> None:
    """A consumer that held a packet is no more: its lock is free, and that is all."""
    consumer = await spool.consume(STATUS, prefetch=1)
    await spool.publish(STATUS, b"held")
    await consumer.receive()
    consumer._claims._abandon()


async def test_what_a_killed_listener_left_goes(
    tmp_path: Path, spool: SpoolTransport, clock: ShiftedClock
) -> None:
    """Nothing is written for it, and after a while the mailbox goes; a new listener has its own."""
    await killed(spool)
    mailbox = tmp_path / str(STATUS)
    with pytest.raises(Unroutable):
        await spool.publish(STATUS, b"nobody")
    assert 1 == len(os.listdir(mailbox / "new"))  # what was held; perhaps one is about to listen
    clock.shift_s = FLEETING_IDLE_S + 5
    with pytest.raises(Unroutable):
        await spool.publish(STATUS, b"nobody")
    assert not mailbox.exists()

    again = await spool.consume(STATUS, prefetch=10)
    await spool.publish(STATUS, b"fresh")
    assert [b"fresh"] == [delivery.body for delivery in await again.receive()]


async def test_a_file_that_is_not_ours_stays(
    tmp_path: Path, spool: SpoolTransport, clock: ShiftedClock
) -> None:
    """And keeps nobody from listening there again."""
    await killed(spool)
    note = tmp_path / str(STATUS) / "new" / "note.txt"
    note.write_text("mine")
    clock.shift_s = FLEETING_IDLE_S + 5
    with pytest.raises(Unroutable):
        await spool.publish(STATUS, b"nobody")
    assert "mine" == note.read_text()

    again = await spool.consume(STATUS, prefetch=10)
    await spool.publish(STATUS, b"fresh")
    assert [b"fresh"] == [delivery.body for delivery in await again.receive()]


async def test_reports_that_are_over_make_room(
    spool: SpoolTransport, clock: ShiftedClock, tmp_path: Path
) -> None:
    """Of a listener that hangs: what has expired is removed by who publishes."""
    await spool.consume(STATUS, prefetch=1)
    for _ in range(5):
        await spool.publish(STATUS, b"soon over", lifetime_s=10)
    clock.shift_s = 11
    await spool.publish(STATUS, b"now", lifetime_s=10)
    assert 1 == len(os.listdir(tmp_path / str(STATUS) / "new"))
