"""The unfinished file, on real file systems."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from chunkq.errors import DestinationUnusable, DiskFull, StorageError, SyncFailed
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import Geometry
from chunkq.storage import descriptors, linux
from chunkq.storage.partfile import PartFile
from tests.storage.crashes import FailingCall
from tests.storage.samples import CHUNK, KIB, MIB, geometry, holes


def open_part(directory: Path) -> PartFile:
    fd = os.open(directory, os.O_RDONLY)
    return PartFile(fd, "x.part", str(directory / "x.part"))


@pytest.fixture
def part(tmp_path: Path) -> Iterator[PartFile]:
    opened = open_part(tmp_path)
    yield opened
    opened.close()


def test_it_comes_into_being_with_allocate(part: PartFile, tmp_path: Path) -> None:
    """Before that there is no file that could be mistaken for content."""
    assert not part.exists
    assert 0 == part.size_bytes

    part.allocate(geometry(3, 5), None)

    assert 3 * CHUNK + 5 == (tmp_path / "x.part").stat().st_size
    assert 0o600 == (tmp_path / "x.part").stat().st_mode & 0o777
    assert part.matches(geometry(3, 5))


@pytest.mark.parametrize("size", [(0, 0), (0, 1), (4, 0), (4, 1)])
def test_scale_0_bytes_1_byte_exactly_n_chunks_n_plus_1(
    part: PartFile, size: tuple[int, int]
) -> None:
    """Every length can be allocated, written and read."""
    whole = geometry(*size)
    content = os.urandom(whole.size_bytes)

    part.allocate(whole, None)
    part.write(0, [content])
    part.sync()

    assert content == part.read(0, whole.size_bytes + 1)


def test_buffers_land_one_behind_the_other(part: PartFile) -> None:
    """Also more of them than one system call takes, empty ones and views."""
    part.allocate(geometry(4), None)
    pieces = [bytes([number % 251]) * (number % 5) for number in range(3000)]

    part.write(7, [pieces[0], bytearray(pieces[1]), memoryview(pieces[2]), *pieces[3:]])

    expected = b"".join(pieces)
    assert expected == part.read(7, len(expected))


def test_short_write_goes_on_where_it_stopped(
    part: PartFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call may write less than it was given, within a buffer or at its end."""
    real = os.pwritev

    def short(fd: int, buffers: Sequence[Any], offset: int) -> int:
        return real(fd, [memoryview(b"".join(buffers))[:7]], offset)

    part.allocate(geometry(1), None)
    content = os.urandom(100)
    monkeypatch.setattr(os, "pwritev", short)

    part.write(10, [content[:14], content[14:20], content[20:]])

    assert content == part.read(10, 100)


def test_eintr_is_no_error(part: PartFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted call is made again."""
    part.allocate(geometry(1), None)
    failing = FailingCall(monkeypatch, "pwritev", errno.EINTR, times=3)

    part.write(0, [b"abc"])

    assert 4 == failing.calls
    assert b"abc" == part.read(0, 3)


def test_a_write_that_writes_nothing_does_not_hang(
    part: PartFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero bytes, again and again, is a broken file system."""
    part.allocate(geometry(1), None)
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)

    with pytest.raises(StorageError):
        part.write(0, [b"abc"])


def test_short_reads_are_completed(part: PartFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """`read` returns all of it, whatever one call returns."""
    part.allocate(geometry(1), None)
    content = os.urandom(CHUNK)
    part.write(0, [content])
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, size, at: real(fd, min(size, 100), at))

    assert content == part.read(0, CHUNK)


def test_nothing_is_written_outside_the_file(part: PartFile) -> None:
    """Not before allocate, not past the end, not before the beginning."""
    with pytest.raises(StorageError):
        part.write(0, [b"x"])
    part.allocate(geometry(1), None)

    for offset in (CHUNK, CHUNK - 1, -1):
        with pytest.raises(StorageError, match="outside"):
            part.write(offset, [b"xy"])
    assert CHUNK == part.size_bytes


# ---------------------------------------------------------------- room


def test_room_is_reserved_for_data_and_not_for_holes(part: PartFile) -> None:
    """The part file of a sparse source stays sparse."""
    part.allocate(geometry(256), holes(256, *range(16, 240)))

    assert 32 * CHUNK == part.allocated_bytes
    assert 256 * CHUNK == part.size_bytes


def test_enospc_is_told_before_the_first_byte(small_disk: Path) -> None:
    """The message says how much is needed and how much there is."""
    part = open_part(small_disk)

    with pytest.raises(DiskFull, match=rf"{8 * MIB} bytes are needed, \d+ are available"):
        part.allocate(geometry(8 * 256), None)

    assert 0 == part.allocated_bytes
    part.close()


def test_holes_need_no_room(small_disk: Path) -> None:
    """A file larger than the disk fits if enough of it is holes."""
    part = open_part(small_disk)
    count = 8 * 256

    part.allocate(geometry(count), holes(count, *range(100, count)))

    assert 8 * MIB == part.size_bytes
    part.close()


def test_blocks_already_allocated_need_no_room_again(small_disk: Path) -> None:
    """A transfer that has most of its blocks goes on, on a disk that is otherwise full."""
    whole = geometry(3 * 256)
    first = open_part(small_disk)
    first.allocate(whole, None)
    first.write(0, [os.urandom(whole.size_bytes)])
    first.close()
    again = open_part(small_disk)

    again.allocate(whole, None)

    assert whole.size_bytes == again.allocated_bytes
    again.close()


def test_enospc_at_fallocate_is_disk_full(part: PartFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else took the room between the check and the reservation."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(linux, "reserve", full)

    with pytest.raises(DiskFull, match="fallocate"):
        part.allocate(geometry(4), None)


def test_enospc_at_write_pauses_and_goes_on_once_there_is_room(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real full disk: the same write succeeds after something was deleted."""
    monkeypatch.setattr(linux, "reserve", _unsupported)
    part = open_part(small_disk)
    part.allocate(geometry(2 * 256), None)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3 * MIB))
    content = os.urandom(2 * MIB)

    with pytest.raises(DiskFull, match="write"):
        part.write(0, [content])
    ballast.unlink()
    part.write(0, [content])

    assert content == part.read(0, 2 * MIB)
    part.close()


def test_without_fallocate_it_works_all_the_same(
    part: PartFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Network and FUSE file systems have neither reservation nor hole punching."""
    part.allocate(geometry(4), None)
    part.write(0, [b"d" * 4 * CHUNK])
    monkeypatch.setattr(linux, "reserve", _unsupported)
    monkeypatch.setattr(linux, "punch_hole", _unsupported)

    part.allocate(geometry(6), holes(6, 1, 2))

    expected = b"d" * CHUNK + bytes(2 * CHUNK) + b"d" * CHUNK + bytes(2 * CHUNK)
    assert expected == part.read(0, 6 * CHUNK)


def test_the_number_of_reservations_is_bounded(
    part: PartFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second chunk a hole: thousands of runs, a thousand calls, the longest run first."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(linux, "reserve", lambda _, offset, length: asked.append((offset, length)))
    count = 4096

    part.allocate(geometry(count), holes(count, *range(0, count - 4, 2)))

    assert 1024 == len(asked)
    assert ((count - 5) * CHUNK, 5 * CHUNK) == asked[0]


def test_source_that_changes_leaves_zeros_in_its_new_holes(part: PartFile) -> None:
    """A new version may have a hole where the old one had data, and be shorter or longer."""
    part.allocate(geometry(4), None)
    part.write(0, [b"o" * 4 * CHUNK])

    part.allocate(geometry(3, 7), holes(4, 0, 3))
    part.allocate(geometry(5), holes(5, 0))

    assert bytes(CHUNK) + b"o" * 2 * CHUNK + bytes(2 * CHUNK) == part.read(0, 5 * CHUNK)


def test_discard_stays_inside(part: PartFile) -> None:
    """Only the run, and never past the end."""
    part.allocate(geometry(3), None)
    part.write(0, [b"o" * 3 * CHUNK])

    part.discard(2 * CHUNK, 10 * CHUNK)

    assert b"o" * 2 * CHUNK + bytes(CHUNK) == part.read(0, 9 * CHUNK)
    assert 3 * CHUNK == part.size_bytes


# ---------------------------------------------------------------- holes


def test_scale_100_gib_sparse_is_allocated_and_walked_at_once(part: PartFile) -> None:
    """Holes are found by the file system: 100 GiB of them cost nothing."""
    size, chunk = 100 * KIB * MIB, 256 * KIB
    sparse = Geometry(size, chunk)
    data = 200_000
    bits = bytearray(b"\xff" * (sparse.chunk_count // 8))
    bits[data >> 3] &= ~(1 << (data & 7)) & 0xFF

    part.allocate(sparse, Bitmap(sparse.chunk_count, bytes(bits)))
    part.write(data * chunk, [b"x" * chunk])
    part.sync()

    assert chunk == part.allocated_bytes
    assert [(data * chunk, (data + 1) * chunk)] == list(part.data_extents())
    assert data * chunk == part.hole_end(0)
    assert data * chunk == part.hole_end(data * chunk)
    assert size == part.hole_end((data + 1) * chunk)
    assert size == part.hole_end(size)


def test_a_file_system_without_holes_has_none(
    part: PartFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then everything is data, and read."""
    part.allocate(geometry(4), None)
    FailingCall(monkeypatch, "lseek", errno.EINVAL, times=1000)

    assert 0 == part.hole_end(0)
    assert [(0, 4 * CHUNK)] == list(part.data_extents())


# ---------------------------------------------------------------- failures


def test_eio_on_fdatasync_and_then_success_is_told_once_and_the_cache_dropped(
    part: PartFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pages may be gone although a second fsync says all is well: memory must not hide it."""
    part.allocate(geometry(4), None)
    part.write(0, [b"x" * CHUNK])
    dropped: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: dropped.append(arguments[3]))
    FailingCall(monkeypatch, "fdatasync", errno.EIO)

    with pytest.raises(SyncFailed, match=r"fsync .*x\.part"):
        part.sync()

    assert [os.POSIX_FADV_DONTNEED] == dropped
    part.sync()


def test_enospc_on_fdatasync_is_a_failed_sync(
    part: PartFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NFS tells of a full disk only then, and the data is lost."""
    part.allocate(geometry(1), None)
    FailingCall(monkeypatch, "fdatasync", errno.ENOSPC)

    with pytest.raises(SyncFailed):
        part.sync()


def test_eio_on_read_back_is_a_storage_error(
    part: PartFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the file."""
    part.allocate(geometry(1), None)
    FailingCall(monkeypatch, "pread", errno.EIO)

    with pytest.raises(StorageError, match=r"read .*x\.part"):
        part.read(0, 1)


def test_part_file_truncated_or_deleted_is_detected(tmp_path: Path) -> None:
    """A bitmap about a file that is not whole is worth nothing."""
    first = open_part(tmp_path)
    first.allocate(geometry(4), None)
    first.close()
    os.truncate(tmp_path / "x.part", 100)

    truncated = open_part(tmp_path)
    assert not truncated.matches(geometry(4))
    truncated.close()
    (tmp_path / "x.part").unlink()
    deleted = open_part(tmp_path)

    assert not deleted.exists
    assert not deleted.matches(geometry(4))
    with pytest.raises(StorageError, match="not there"):
        deleted.read(0, 1)


@pytest.mark.parametrize("kind", ["fifo", "directory", "link"])
def test_something_else_in_its_place_is_refused(tmp_path: Path, kind: str) -> None:
    """Nothing is written through a link, and nothing waits for a FIFO's reader."""
    target = tmp_path / "elsewhere"
    target.write_bytes(b"precious")
    place = tmp_path / "x.part"
    {"fifo": os.mkfifo, "directory": os.mkdir}.get(kind, lambda at: at.symlink_to(target))(place)

    with pytest.raises(DestinationUnusable, match=r"x\.part"):
        open_part(tmp_path)
    assert b"precious" == target.read_bytes()


def test_a_read_only_disk_is_an_unusable_destination(
    part: PartFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EROFS says what to do."""
    FailingCall(monkeypatch, "open", errno.EROFS)

    with pytest.raises(DestinationUnusable) as caught:
        part.allocate(geometry(1), None)
    assert "read-only" in (caught.value.hint or "")


def test_write_full_of_nothing_calls_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty buffers are dropped: a call with them alone would look like a failure."""
    failing = FailingCall(monkeypatch, "pwritev", errno.EIO)

    descriptors.write_full(-1, 0, [b"", bytearray()])

    assert 0 == failing.calls


def _unsupported(*_: int) -> None:
    raise linux.Unsupported
