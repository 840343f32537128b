"""Chunks into the part file: each on its own merits, neighbours in one write."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import pytest

from chunkq.errors import DiskFull
from chunkq.ports import Buffer, Delivery
from chunkq.protocol.digest import digest
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.packet import RawReply, ReplyKind, parse_reply, parse_request
from chunkq.protocol.seal import ReplyOpener, ReplySealer
from chunkq.protocol.transfer_events import Recheck
from chunkq.runtime.assembler import Assembler, ChunkJob, Job, Outcome, RecheckJob
from chunkq.runtime.pages import Pages
from chunkq.runtime.peer import Asked
from chunkq.storage.partfile import PartFile
from tests.protocol.sites import (
    ALICE,
    BOB,
    BOB_CARD,
    ORIGIN_EPHEMERAL,
    REQUESTER_EPHEMERAL,
    make_request,
)

CHUNK = 256 * 1024
COUNT = 20
SIZE = COUNT * CHUNK + 1000
GEOMETRY = Geometry(SIZE, CHUNK)


class Watched(PartFile):
    """Remembers the writes; `full` above an offset."""

    def __init__(self, directory_fd: int, name: str, path: str) -> None:
        self.writes: list[tuple[int, int]] = []
        self.full_from = SIZE
        super().__init__(directory_fd, name, path)

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        if offset >= self.full_from:
            raise DiskFull("no room")
        self.writes.append((offset, sum(len(each) for each in buffers)))
        super().write(offset, buffers)


class Question:
    """A request whose replies are sealed and opened for real."""

    def __init__(self) -> None:
        raw = parse_request(make_request())
        self._sealer = ReplySealer(raw=raw, keys=BOB, ephemeral_secret=ORIGIN_EPHEMERAL)

    def _opener(self, raw: RawReply) -> ReplyOpener:
        return ReplyOpener(
            header=raw.header,
            sender=ALICE.site_id,
            recipient=BOB_CARD,
            ephemeral_secret=REQUESTER_EPHEMERAL,
        )

    def open(self, raw: RawReply) -> bytes:
        return self._opener(raw).open(raw)

    def open_into(self, raw: RawReply, room: memoryview) -> None:
        self._opener(raw).open_into(raw, room)

    def job(self, index: int, body: bytes, leaf: bytes | None, *, spoil: bool = False) -> ChunkJob:
        packet = bytearray(self._sealer.seal(ReplyKind.CHUNK, body, index))
        packet[-1] ^= spoil
        asked = cast("Asked", self)
        return ChunkJob(asked, parse_reply(packet), Delivery(b"", 1, 1), index, leaf, 1)


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Watched]:
    fd = os.open(tmp_path, os.O_RDONLY)
    opened = Watched(fd, "x.part", str(tmp_path / "x.part"))
    opened.allocate(GEOMETRY, None)
    yield opened
    opened.close()
    os.close(fd)


async def assemble(
    part: PartFile, jobs: list[Job], *, broken: Callable[[Exception], None] | None = None
) -> list[Job]:
    """Do the jobs; returns them in the order in which they were reported."""
    done: list[Job] = []
    with ThreadPoolExecutor(1) as pool:
        assembler = Assembler(
            part, GEOMETRY, pool, Pages(), on_done=done.extend, on_broken=broken or fail
        )
        for job in jobs:
            assembler.put(job)
        async with asyncio.timeout(60):
            await assembler.drained()
    return done


def fail(error: Exception) -> None:
    raise error


async def test_chunks_in_any_order_arrive_whole(part: Watched) -> None:
    """The last one is shorter; what is neighbours is written in one call."""
    content, question = os.urandom(SIZE), Question()
    pieces = [content[at : at + CHUNK] for at in range(0, SIZE, CHUNK)]
    order = [7, 0, 20, 5, 6, 4, 1, 19, 3, 2, *range(8, 19)]
    jobs = [question.job(index, pieces[index], digest(pieces[index])) for index in order]

    done = await assemble(part, [*jobs])

    assert {Outcome.STORED} == {job.outcome for job in jobs}
    assert jobs == done
    assert content == part.read(0, SIZE)
    assert SIZE == sum(length for _, length in part.writes)
    assert len(part.writes) < len(jobs) / 2


async def test_each_chunk_has_its_own_outcome(part: Watched) -> None:
    """Between good neighbours: one that is not its leaf, one too short, one too long, one whose
    seal is broken (also where its length is wrong), one whose leaf is not known yet."""
    content, question = os.urandom(SIZE), Question()
    pieces = [content[at : at + CHUNK] for at in range(0, SIZE, CHUNK)]
    leaves = [digest(piece) for piece in pieces]
    jobs = [question.job(index, pieces[index], leaves[index]) for index in range(10)]
    jobs[1] = question.job(1, bytes(CHUNK), leaves[1])
    jobs[3] = question.job(3, pieces[3][:-1], leaves[3])
    jobs[4] = question.job(4, pieces[4] + b"x", leaves[4])
    jobs[6] = question.job(6, pieces[6], leaves[6], spoil=True)
    jobs[7] = question.job(7, pieces[7], None)
    jobs[8] = question.job(8, pieces[8][1:], leaves[8], spoil=True)

    await assemble(part, [*jobs])

    good, bad, unsealed = Outcome.STORED, Outcome.BAD, Outcome.UNSEALED
    assert [good, bad, good, bad, bad, good, unsealed, Outcome.ADOPTED, unsealed, good] == [
        job.outcome for job in jobs
    ]
    for index in range(10):
        expected = pieces[index] if index in (0, 2, 5, 7, 9) else bytes(CHUNK)
        assert expected == part.read(index * CHUNK, CHUNK), index


async def test_a_full_disk_concerns_its_run_only(part: Watched) -> None:
    """What was written before it counts."""
    content, question = os.urandom(CHUNK), Question()
    part.full_from = 10 * CHUNK
    jobs = [question.job(index, content, digest(content)) for index in (2, 3, 12, 13)]

    await assemble(part, [*jobs])

    stored, no_room = Outcome.STORED, Outcome.NO_ROOM
    assert [stored, stored, no_room, no_room] == [job.outcome for job in jobs]


async def test_a_recheck_sees_what_was_written_before_it(part: Watched) -> None:
    """Also chunks of its own batch, the last short one among them; what differs is bad."""
    content, question = os.urandom(SIZE), Question()
    pieces = [content[at : at + CHUNK] for at in range(0, SIZE, CHUNK)]
    leaves = b"".join(digest(piece) for piece in pieces)
    adopted = [question.job(index, pieces[index], None) for index in (1, 2, 20)]
    recheck = RecheckJob(Recheck((1, 2, 3, 20), 0, leaves), 1)

    await assemble(part, [*adopted, recheck, question.job(3, pieces[3], digest(pieces[3]))])

    assert (1, 2, 20) == recheck.good
    assert (3,) == recheck.bad
