"""The unfinished file: written positionally, in any order, on one thread at a time."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from chunkq.errors import DestinationUnusable, DiskFull, StorageError
from chunkq.ports import Buffer
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import Geometry, to_ranges
from chunkq.protocol.limits import MIB
from chunkq.storage import descriptors, linux
from chunkq.storage.closing import close
from chunkq.storage.direct import DirectFile
from chunkq.storage.mapping import storage_errors, translate
from chunkq.storage.room import NO_FLOOR, Floor

#: `st_blocks` counts these, whatever the file system's block is.
BLOCK_SIZE_BYTES: Final = 512
#: Room is reserved in at most so many calls, longest runs first: bounds the time an image with
#: very many small holes takes to start. What is left is allocated as it is written.
MAX_RESERVED_RUNS: Final = 1024
#: Zeros are written in pieces of this size where holes cannot be punched.
_ZEROS: Final = bytes(MIB)
#: From this size on a file is written past the page cache: below it a second descriptor and the
#: wait for each write cost more than the cache does.
DIRECT_LEAST_BYTES: Final = 4 * MIB
Run = tuple[int, int]
_OPEN_FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
_MODE: Final = 0o600


class PartFile:
    """`<transfer id>.part` in an open staging directory. It comes into being with `allocate`."""

    def __init__(self, directory_fd: int, name: str, path: str, floor: Floor = NO_FLOOR) -> None:
        """Open the part file if it is there. `path` is for messages only.

        `floor`: what stays free on the disk.
        """
        self.path = path
        self._floor = floor
        #: How much of it will be data, where no room could be reserved for that.
        self._unreserved_bytes = 0
        self._directory_fd = directory_fd
        self._name = name
        self._size_bytes = 0
        self._fd: int | None = None
        self._direct: DirectFile | None = None
        self._open(create=False)

    # ------------------------------------------------------------ what is there

    @property
    def exists(self) -> bool:
        """Whether there is a part file: not before the first `allocate`, not once it was lost."""
        return self._fd is not None

    @property
    def size_bytes(self) -> int:
        """Its size; less than the geometry's if somebody truncated it, 0 if there is none."""
        return self._stat().st_size if self.exists else 0

    @property
    def allocated_bytes(self) -> int:
        """How much of the disk it takes."""
        return self._stat().st_blocks * BLOCK_SIZE_BYTES if self.exists else 0

    @property
    def unreserved_bytes(self) -> int:
        """What is still to be written and has no room set aside, as far as that is known."""
        if not self._unreserved_bytes:
            return 0
        return max(0, self._unreserved_bytes - self.allocated_bytes)

    def matches(self, geometry: Geometry) -> bool:
        """Whether it is there and as long as it must be for a bitmap of it to mean anything."""
        return self.exists and self.size_bytes == geometry.size_bytes

    def hole_end(self, offset: int) -> int:
        """Where the hole at `offset` ends (the file's size at the last), or `offset` if none."""
        with storage_errors("lseek", self.path):
            return descriptors.hole_end(self._descriptor(), offset, self._size_bytes)

    def data_extents(self) -> Iterator[tuple[int, int]]:
        """The `(start, stop)` runs that were written; the rest reads as zeros."""
        with storage_errors("lseek", self.path):
            yield from descriptors.data_extents(self._descriptor(), 0, self._size_bytes)

    # ------------------------------------------------------------ making room

    def allocate(self, geometry: Geometry, holes: Bitmap | None) -> None:
        """Set the size and reserve room for what is no hole (None: there are no holes).

        Holes read as zeros afterwards, also where an earlier version of the file had data.
        Raises `DiskFull` before anything is written if the room is not there.
        """
        self._open(create=True)
        fd = self._descriptor()
        if self.size_bytes > geometry.size_bytes:
            self.truncate(geometry.size_bytes)
        data_runs, hole_runs = _runs(geometry, holes)
        for start, stop in hole_runs:
            self.discard(start, stop - start)
        hole_bytes = sum(stop - start for start, stop in hole_runs)
        data_bytes = geometry.size_bytes - hole_bytes
        self._check_room(fd, data_bytes - self.allocated_bytes)
        if self.size_bytes < geometry.size_bytes:
            self.truncate(geometry.size_bytes)
        self._sized(geometry.size_bytes)
        data_runs.sort(key=lambda run: run[0] - run[1])
        try:
            for start, stop in data_runs[:MAX_RESERVED_RUNS]:
                linux.reserve(fd, start, stop - start)
        except linux.Unsupported:
            self._unreserved_bytes = data_bytes
        except OSError as error:
            raise translate(error, "fallocate", self.path, destination=True) from error

    def resize(self, geometry: Geometry) -> None:
        """Set the size and reserve nothing: for a sparse file, whose data is not yet known."""
        self._open(create=True)
        if self.size_bytes != geometry.size_bytes:
            self.truncate(geometry.size_bytes)
        self._sized(geometry.size_bytes)

    def _check_room(self, fd: int, needed_bytes: int) -> None:
        room = self._floor.room(fd, self.path)
        # Some network file systems report nothing at all; then the write itself must tell.
        if not room.known or needed_bytes <= 0 or needed_bytes <= room.above_bytes:
            return
        what = f"{needed_bytes} bytes are needed, {room.free_bytes} are available"
        if room.floor_bytes:
            what += f", of which {room.floor_bytes} stay free (disk_floor)"
        raise DiskFull(
            f"{what}: {self.path}",
            hint=f"make room for {needed_bytes - room.above_bytes} bytes more",
        )

    def discard(self, offset: int, length: int) -> None:
        """Make a run read as zeros, giving its blocks back where the file system can."""
        fd = self._descriptor()
        stop = min(offset + length, self.size_bytes)
        with storage_errors("punch hole", self.path, destination=True):
            try:
                if offset < stop:
                    linux.punch_hole(fd, offset, stop - offset)
            except linux.Unsupported:
                for start, end in list(descriptors.data_extents(fd, offset, stop)):
                    for at in range(start, end, len(_ZEROS)):
                        zeros = memoryview(_ZEROS)[: end - at]
                        descriptors.write_full(fd, at, [zeros])

    def truncate(self, size_bytes: int) -> None:
        """Cut or lengthen it to `size_bytes`; what is new reads as zeros."""
        with storage_errors("ftruncate", self.path, destination=True):
            os.ftruncate(self._descriptor(), size_bytes)
        self._sized(size_bytes)

    def reset(self) -> None:
        """Throw all content away."""
        if self.exists:
            self.truncate(0)

    # ------------------------------------------------------------ content

    def write(self, offset: int, buffers: Sequence[Buffer]) -> None:
        """Write the buffers one behind the other. Raises `DiskFull`, `StorageError`.

        Whole pages of a large file at a multiple of 4 KiB, from writable memory at one, go past the
        page cache where the file system is good at it. After an error any part of the buffers may
        have been written.
        """
        views = [memoryview(each).cast("B") for each in buffers]
        length = sum(view.nbytes for view in views)
        if offset < 0 or offset + length > self._size_bytes:
            raise StorageError(
                f"write {self.path}: {offset}+{length} is outside its {self._size_bytes} bytes"
            )
        with storage_errors("write", self.path, destination=True):
            while views and self._direct and (done := self._direct.write(offset, views[0])):
                offset += done
                views[:1] = [views[0][done:]] if done < views[0].nbytes else []
            descriptors.write_full(self._descriptor(), offset, views)

    def copy_from(self, source_fd: int, start: int, stop: int, source: str) -> None:
        """Take over a run of bytes of another open file; it may share its blocks.

        The run ends early where the other file does. `source` is for messages. Raises `DiskFull`,
        `StorageError`; then any part of it may have been copied.
        """
        with storage_errors(f"copy {source} to", self.path, destination=True):
            stop = min(stop, self._size_bytes)
            descriptors.copy_range(source_fd, self._descriptor(), start, stop)

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes at `offset`, fewer only at the end of the file. Raises `StorageError`."""
        with storage_errors("read", self.path):
            return descriptors.read_full(self._descriptor(), offset, length)

    def read_into(self, offset: int, data: memoryview) -> int:
        """Fill `data` from `offset`; how much, less only at the end of the file.

        Under the conditions of `write` it comes past the page cache: what the disk has.
        Raises `StorageError`.
        """
        fd = self._descriptor()
        with storage_errors("read", self.path):
            done = self._direct.read_into(offset, data) if self._direct else 0
            return done + descriptors.read_into(fd, offset + done, data[done:])

    def sync(self) -> None:
        """fdatasync. After `SyncFailed` all that was written since the last good one is doubtful.

        A second fdatasync would say that all is well, although the pages are gone; so memory's
        copies are dropped, and what is read from then on is what the disk has.
        """
        self._sync(os.fdatasync)

    def finish(self, mode: int, mtime_ns: int) -> None:
        """Give it its permissions and time and make all of it durable.

        Only the bits of 0o777 count: no set-uid, set-gid or sticky. A file system that cannot
        keep permissions or times (FAT) keeps its own. Raises as `sync`.
        """
        fd = self._descriptor()
        descriptors.set_mode_and_time(fd, self.path, mode & 0o777, mtime_ns)
        self._sync(os.fsync)

    # ------------------------------------------------------------ its life

    def close(self) -> None:
        fd, self._fd = self._fd, None
        direct, self._direct = self._direct, None
        if direct is not None:
            direct.close()
        if fd is not None:
            close(fd)

    def same_as(self, other: os.stat_result) -> bool:
        """Whether `other` is this very file."""
        return self.exists and os.path.samestat(self._stat(), other)

    def _open(self, *, create: bool) -> None:
        if self._fd is not None:
            return
        flags = _OPEN_FLAGS | (os.O_CREAT if create else 0)
        with storage_errors("open", self.path, destination=True):
            try:
                fd = os.open(self._name, flags, _MODE, dir_fd=self._directory_fd)
            except FileNotFoundError:
                if create:
                    raise
                return
        try:
            with storage_errors("fstat", self.path):
                status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise DestinationUnusable(
                    f"{self.path} is not a regular file", hint="remove what is there"
                )
        except StorageError:
            close(fd)
            raise
        self._fd = fd
        self._sized(status.st_size)

    def _sized(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        if self._direct is None and size_bytes >= DIRECT_LEAST_BYTES:
            self._direct = DirectFile.open(self._directory_fd, self._name, self._descriptor())

    def _stat(self) -> os.stat_result:
        with storage_errors("fstat", self.path):
            return os.fstat(self._descriptor())

    def _sync(self, call: Callable[[int], None]) -> None:
        fd = self._descriptor()
        try:
            call(fd)
        except OSError as error:
            with suppress(OSError):
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            raise translate(error, "fsync", self.path, sync=True) from error

    def _descriptor(self) -> int:
        if self._fd is None:
            raise StorageError(f"{self.path} is not there (or was closed)")
        return self._fd


def _runs(geometry: Geometry, holes: Bitmap | None) -> tuple[list[Run], list[Run]]:
    """The byte runs `(start, stop)` that are data, and those that are holes."""
    size = geometry.size_bytes
    if holes is None or not holes.present:
        return [(0, size)] if size else [], []
    data = [
        (geometry.offset(first), min(geometry.offset(first + count), size))
        for first, count in to_ranges(holes.missing())
    ]
    edges = [0, *(edge for run in data for edge in run), size]
    return data, [
        (start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop
    ]
