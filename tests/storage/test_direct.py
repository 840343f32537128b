"""The part file past the page cache: where it may, and whole whatever the way."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from chunkq.errors import DiskFull, StorageError
from chunkq.protocol.geometry import Geometry
from chunkq.storage import linux
from chunkq.storage.direct import FILE_SYSTEMS, DirectFile
from chunkq.storage.partfile import DIRECT_LEAST_BYTES, PartFile
from tests.storage.crashes import FailingCall
from tests.storage.samples import KIB, MIB

CHUNK = 256 * KIB
SIZE = DIRECT_LEAST_BYTES + 5 * 4096 + 77


def pages(content: bytes) -> memoryview:
    """The content in memory that begins at a page."""
    room = memoryview(mmap.mmap(-1, max(1, len(content))))
    room[: len(content)] = content
    return room[: len(content)]


@pytest.fixture
def part(tmp_path: Path) -> Iterator[PartFile]:
    """A part file large enough, its last page not whole."""
    fd = os.open(tmp_path, os.O_RDONLY)
    opened = PartFile(fd, "x.part", str(tmp_path / "x.part"))
    opened.allocate(Geometry(SIZE, CHUNK), None)
    yield opened
    opened.close()
    os.close(fd)


@pytest.fixture
def goes_direct(tmp_path: Path) -> bool:
    """Whether the temporary directory is on a file system that is written direct."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        return linux.file_system_type(fd) in FILE_SYSTEMS
    finally:
        os.close(fd)


class Ways:
    """Which way each positional call went: `direct` or `cached`, and its offset and length."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.taken: list[tuple[str, int, int]] = []
        for name in ("pwritev", "preadv"):
            monkeypatch.setattr(os, name, self._recording(getattr(os, name)))

    def _recording(self, real: Any) -> Any:
        def call(fd: int, buffers: Sequence[Any], offset: int) -> int:
            direct = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT
            moved: int = real(fd, buffers, offset)
            if moved:
                self.taken.append(("direct" if direct else "cached", offset, moved))
            return moved

        return call


def test_whole_pages_go_direct_and_the_tail_through_the_cache(
    part: PartFile, tmp_path: Path, goes_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both when written and when read, and every byte is there."""
    content = os.urandom(SIZE)
    ways = Ways(monkeypatch)
    whole = SIZE - 77

    part.write(0, [pages(content)])
    part.sync()
    room = pages(bytes(SIZE))
    assert SIZE == part.read_into(0, room)

    assert content == bytes(room)
    assert content == (tmp_path / "x.part").read_bytes()
    once = [("direct", 0, whole), ("cached", whole, 77)] if goes_direct else [("cached", 0, SIZE)]
    assert once + once == ways.taken


@pytest.mark.parametrize("shift", [1, 512])
def test_what_is_not_aligned_goes_through_the_cache(
    part: PartFile, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory, offset or length at no page: written and read all the same."""
    content = os.urandom(3 * 4096)
    ways = Ways(monkeypatch)
    unaligned = pages(bytes(shift) + content)[shift:]

    part.write(4096, [unaligned])
    part.write(8 * 4096 + shift, [pages(content)])
    part.write(16 * 4096, [content])
    part.write(24 * 4096, [pages(content[: 4096 - shift])])

    assert {"cached"} == {way for way, _, _ in ways.taken}
    for offset in (4096, 8 * 4096 + shift, 16 * 4096):
        assert content == part.read(offset, len(content))
    assert content[: 4096 - shift] == part.read(24 * 4096, 4096 - shift)


def test_a_small_file_stays_with_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would cost a second descriptor and the wait for the disk."""
    fd = os.open(tmp_path, os.O_RDONLY)
    part = PartFile(fd, "small.part", "small.part")
    part.allocate(Geometry(CHUNK, CHUNK), None)
    ways = Ways(monkeypatch)

    part.write(0, [pages(bytes(CHUNK))])

    assert [("cached", 0, CHUNK)] == ways.taken
    part.close()
    os.close(fd)


def test_a_disk_that_refuses_is_asked_once(
    part: PartFile, goes_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Larger sectors, or a layer below that cannot: from then on everything is cached."""
    content = os.urandom(2 * MIB)
    real, asked = os.pwritev, 0

    def refusing(fd: int, buffers: Sequence[Any], offset: int) -> int:
        nonlocal asked
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            asked += 1
            raise OSError(errno.EINVAL, "sectors of 64 KiB")
        return real(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", refusing)
    part.write(0, [pages(content[:MIB])])
    part.write(MIB, [pages(content[MIB:])])

    assert int(goes_direct) == asked
    assert content == part.read(0, 2 * MIB)


def test_a_short_direct_write_goes_on(part: PartFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a page direct, at no page through the cache."""
    real = os.pwritev
    lengths = iter([2 * 4096, 3 * 4096 + 100])

    def short(fd: int, buffers: Sequence[Any], offset: int) -> int:
        if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            return real(fd, buffers, offset)
        length = next(lengths, 1 << 30)
        if length % 4096:  # as after a full disk: some of a page, by way of another descriptor
            with open(f"/proc/self/fd/{fd}", "r+b", buffering=0) as other:
                return os.pwrite(other.fileno(), buffers[0][:length], offset)
        return real(fd, [buffers[0][:length]], offset)

    content = os.urandom(MIB)
    monkeypatch.setattr(os, "pwritev", short)

    part.write(0, [pages(content)])

    assert content == part.read(0, MIB)


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.ENOSPC, DiskFull), (errno.EIO, StorageError)]
)
def test_errors_are_told_as_ever(
    part: PartFile,
    number: int,
    expected: type[StorageError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A full or broken disk is not mistaken for one that cannot be written direct."""
    FailingCall(monkeypatch, "pwritev", number)

    with pytest.raises(expected, match=r"write .*x\.part"):
        part.write(0, [pages(bytes(CHUNK))])


def test_both_ways_see_what_the_other_wrote(part: PartFile, tmp_path: Path) -> None:
    """Cached, not yet on disk, then read direct; cached, then overwritten direct."""
    first, second = os.urandom(CHUNK), os.urandom(CHUNK)
    room = pages(bytes(CHUNK))

    part.write(0, [first])
    assert CHUNK == part.read_into(0, room)
    assert first == bytes(room)
    assert first == part.read(0, CHUNK)
    part.write(0, [pages(second)])

    assert second == part.read(0, CHUNK)
    assert second == (tmp_path / "x.part").read_bytes()[:CHUNK]


def test_holes_and_room_are_the_same_direct(part: PartFile) -> None:
    """What was reserved and written is data; what was reserved only is a hole, and so is a run
    that was thrown away."""
    part.write(CHUNK, [pages(os.urandom(CHUNK))])
    part.write(3 * CHUNK, [pages(os.urandom(CHUNK))])
    part.sync()

    part.discard(3 * CHUNK, CHUNK)

    assert [(CHUNK, 2 * CHUNK)] == list(part.data_extents())


def test_another_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    """The second descriptor is of the same file or there is none."""
    (tmp_path / "a").write_bytes(bytes(8 * MIB))
    directory_fd = os.open(tmp_path, os.O_RDONLY)
    fd = os.open(tmp_path / "a", os.O_RDWR)
    os.rename(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").write_bytes(b"another")

    assert None is DirectFile.open(directory_fd, "a", fd)
    assert None is DirectFile.open(directory_fd, "missing", fd)

    os.close(fd)
    os.close(directory_fd)


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    """Both are closed with the part file."""
    fd = os.open(tmp_path, os.O_RDONLY)
    before = len(os.listdir("/proc/self/fd"))
    part = PartFile(fd, "x.part", "x.part")
    part.allocate(Geometry(SIZE, CHUNK), None)
    part.resize(Geometry(SIZE + CHUNK, CHUNK))

    part.close()

    assert before == len(os.listdir("/proc/self/fd"))
    os.close(fd)
