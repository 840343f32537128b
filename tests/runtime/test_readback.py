"""Reading back while the file grows: only what is durable, and nothing that was taken back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from blake3 import blake3

from chunkq.errors import Stopped, StorageError
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.limits import MIB
from chunkq.runtime.pages import Pages
from chunkq.runtime.readback import BLOCK_BYTES, STEP_BYTES, ReadBack
from chunkq.storage.partfile import PartFile

CHUNK = 256 * 1024
COUNT = 40
SIZE = COUNT * CHUNK + 1000
GEOMETRY = Geometry(SIZE, CHUNK)


class Watched(PartFile):
    """Remembers what was read, and fails when told to."""

    def __init__(self, directory_fd: int, name: str, path: str) -> None:
        self.reads: list[tuple[int, int]] = []
        self.failing = False
        super().__init__(directory_fd, name, path)

    def read_into(self, offset: int, data: memoryview) -> int:
        if self.failing:
            raise StorageError("read x.part: the disk reports errors")
        self.reads.append((offset, data.nbytes))
        return super().read_into(offset, data)

    @property
    def read_end(self) -> int:
        return max((offset + length for offset, length in self.reads), default=0)


@pytest.fixture
def part(tmp_path: Path) -> Iterator[Watched]:
    fd = os.open(tmp_path, os.O_RDONLY)
    opened = Watched(fd, "x.part", str(tmp_path / "x.part"))
    opened.allocate(GEOMETRY, None)
    yield opened
    opened.close()
    os.close(fd)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


def fill(part: PartFile) -> bytes:
    """Write random content; returns its digest."""
    content = os.urandom(SIZE)
    part.write(0, [content])
    return blake3(content).digest()


def first_chunks(count: int, *further: int) -> Bitmap:
    durable = Bitmap(GEOMETRY.chunk_count)
    durable.fill(0, count)
    for index in further:
        durable.add(index)
    return durable


async def caught_up(reader: ReadBack) -> None:
    """Wait until it has read as far as it was told to."""
    async with asyncio.timeout(30):
        await reader._rest()


def reader_of(part: PartFile, pool: ThreadPoolExecutor, seen: list[int]) -> ReadBack:
    return ReadBack(part, GEOMETRY, pool, Pages(), seen.append)


async def test_it_follows_what_is_durable_and_reads_the_rest_at_the_end(
    part: Watched, pool: ThreadPoolExecutor
) -> None:
    """Nothing past the first chunk that is not durable, and nothing twice."""
    expected, seen = fill(part), []
    reader = reader_of(part, pool, seen)

    reader.follow(first_chunks(9, 10, 11))
    await caught_up(reader)
    assert 9 * CHUNK == part.read_end
    reader.follow(first_chunks(30))
    await caught_up(reader)
    assert 30 * CHUNK == part.read_end

    assert expected == await reader.digest()
    assert SIZE == sum(length for _, length in part.reads)
    assert sorted(seen) == seen


async def test_without_following_everything_is_read(
    part: Watched, pool: ThreadPoolExecutor
) -> None:
    """A file of one commit group, or one that was complete when it was taken up."""
    expected = fill(part)

    assert expected == await reader_of(part, pool, []).digest()
    assert SIZE == sum(length for _, length in part.reads)


async def test_what_was_read_before_a_restart_does_not_count(
    part: Watched, pool: ThreadPoolExecutor
) -> None:
    """Chunks below its position are lost and written anew: both digests are of the new ones."""
    fill(part)
    seen: list[int] = []
    reader = reader_of(part, pool, seen)
    reader.follow(first_chunks(30))
    await caught_up(reader)
    expected = fill(part)

    assert expected != await reader.digest()
    reader.restart()
    assert expected == await reader.digest()


async def test_a_restart_in_the_middle_of_reading(part: Watched, pool: ThreadPoolExecutor) -> None:
    """What is under way ends unused; the new reading begins at the beginning."""
    fill(part)
    reader = reader_of(part, pool, [])
    reader.follow(first_chunks(COUNT))
    reader.restart()
    expected = fill(part)

    reader.follow(first_chunks(20))

    assert expected == await reader.digest()


async def test_after_a_stop_nothing_is_read(part: Watched, pool: ThreadPoolExecutor) -> None:
    """The part file may be closed or cut then; whoever waits for the digest is told."""
    fill(part)
    reader = reader_of(part, pool, [])
    waiting = asyncio.ensure_future(reader.digest())
    await asyncio.sleep(0)

    await reader.stop()
    before = list(part.reads)
    reader.follow(first_chunks(COUNT))

    with pytest.raises(Stopped):
        await waiting
    with pytest.raises(Stopped):
        await reader.digest()
    assert before == part.reads


async def test_a_truncated_file_does_not_match(part: Watched, pool: ThreadPoolExecutor) -> None:
    """Cut behind our back: no wait for bytes that never come."""
    expected = fill(part)
    seen: list[int] = []
    reader = reader_of(part, pool, seen)
    reader.follow(first_chunks(8))
    await caught_up(reader)
    os.truncate(part.path, 10 * CHUNK + 5)

    assert expected != await reader.digest()


async def test_holes_are_hashed_without_being_read(part: Watched, pool: ThreadPoolExecutor) -> None:
    """What was reserved and never written reads as zeros."""
    content = bytearray(SIZE)
    content[8 * CHUNK : 9 * CHUNK] = os.urandom(CHUNK)
    part.write(8 * CHUNK, [bytes(content[8 * CHUNK : 9 * CHUNK])])
    part.sync()

    assert blake3(content).digest() == await reader_of(part, pool, []).digest()
    assert {8 * CHUNK} == {offset for offset, _ in part.reads}


async def test_an_error_met_while_following_is_told_by_the_digest(
    part: Watched, pool: ThreadPoolExecutor
) -> None:
    """It was nobody's turn before; and where it has passed by then, nothing is missing."""
    expected = fill(part)
    reader = reader_of(part, pool, [])
    part.failing = True
    reader.follow(first_chunks(COUNT))
    await caught_up(reader)

    with pytest.raises(StorageError, match="the disk reports errors"):
        await reader.digest()
    part.failing = False
    assert expected == await reader.digest()


def test_one_job_is_bounded() -> None:
    """Others of the pool get their turn; a step is whole blocks, so that reads stay aligned."""
    assert 0 == STEP_BYTES % BLOCK_BYTES
    assert STEP_BYTES <= 64 * MIB
