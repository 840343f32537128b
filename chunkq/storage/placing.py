"""Many small files to their places at once, each complete or absent, whatever stops it.

    no name (O_TMPFILE) -> content, mode, times -> fsync, on several threads
    -> link to the final name, or rename over what is there -> one fsync of each directory

A file has no name before it is durable, so none is ever seen in part, and what a crash leaves
without a name is gone. Where the file system knows no files without names, and while one replaces
another, it has a name in `.chunkq/`; those of a process that died are removed by the next one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final, Self

from chunkq.errors import DestinationExists, DestinationUnusable, DiskFull, StorageError
from chunkq.ports import NewFile
from chunkq.protocol.digest import digest
from chunkq.protocol.names import STAGING_NAME
from chunkq.storage import descriptors, linux
from chunkq.storage.closing import close
from chunkq.storage.destination import Destination
from chunkq.storage.kinds import Kind, kind_of, lstat_at
from chunkq.storage.mapping import describe, storage_errors, translate
from chunkq.storage.room import Room
from chunkq.storage.staging import open_staging

#: fsyncs under way at once: one commit of the file system's journal serves all that wait for it.
SYNC_THREADS: Final = 8
#: What a file takes of a disk comes in blocks of this size on most.
BLOCK_SIZE_BYTES: Final = 4096
#: Names in staging of files that are being placed; the rest is random.
NAME_SUFFIX: Final = ".small"
#: Where a file without a name can be named from.
_DESCRIPTORS: Final = "/proc/self/fd"
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
#: Nobody but the owner reads what is not yet in its place.
_HIDDEN_MODE: Final = 0o600
#: What file systems and kernels without files that have no name say.
_NO_TMPFILE: Final = linux.UNSUPPORTED | {errno.EISDIR, errno.ENOENT}
_NO_NAMING: Final = descriptors.NO_LINKS | {errno.ENOENT, errno.EXDEV}


@dataclass(slots=True)
class _Placing:
    """One file on its way. `error` ends it; `unchanged`: just that file is there already."""

    file: NewFile
    directory_fd: int
    path: str
    fd: int = -1
    hidden_name: str | None = None
    error: StorageError | None = None
    unchanged: bool = False


class BatchPlacer:
    """Places files below one destination. Made and closed by one thread; `place` from any."""

    def __init__(self, destination: Destination, *, overwrite: bool) -> None:
        self._destination = destination
        self._overwrite = overwrite
        sweep(destination)
        self._syncing = ThreadPoolExecutor(SYNC_THREADS, thread_name_prefix="sync")
        self._tmpfile = os.path.isdir(_DESCRIPTORS)

    def close(self) -> None:
        """Wait for the syncs under way, remove staging if nothing is in it."""
        self._syncing.shutdown(wait=True)
        with suppress(OSError):
            os.rmdir(STAGING_NAME, dir_fd=self._destination.directory_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def free_bytes(self) -> int:
        """Room on the file system for this user, above what stays free."""
        return self._room().above_bytes

    def _room(self) -> Room:
        destination = self._destination
        return destination.floor.room(destination.directory_fd, destination.path)

    # ------------------------------------------------------------ one batch

    def place(self, files: Sequence[NewFile]) -> list[StorageError | bool]:
        """What became of each: an error, or True if it is new there, False if it was there.

        Where it is no error, the file and its name are durable. `DiskFull`: nothing is left of it;
        `SyncFailed`: nor of that. Others: as `publish` of a single file.
        """
        room = self._room()
        left = room.above_bytes if room.known and room.floor_bytes else sum(map(_takes, files))
        with self._directories(files) as directories:
            placings: list[_Placing] = []
            for file in files:
                left -= _takes(file)
                placings.append(
                    self._begin(file, directories) if left >= 0 else self._keep_out(file, room)
                )
            try:
                self._sync([each for each in placings if each.error is None])
                for each in placings:
                    if each.error is None:
                        self._name(each)
            finally:
                for each in placings:
                    self._let_go(each)
            self._sync_directories(placings)
        return [each.error or not each.unchanged for each in placings]

    @contextmanager
    def _directories(
        self, files: Sequence[NewFile]
    ) -> Iterator[dict[tuple[str, ...], int | StorageError]]:
        """A descriptor of each directory that files of the batch go to, or why there is none."""
        found: dict[tuple[str, ...], int | StorageError] = {}
        try:
            for file in files:
                parent = file.parts[:-1]
                if parent not in found:
                    try:
                        found[parent] = self._destination.open_directory(parent)
                    except StorageError as error:
                        found[parent] = error
            yield found
        finally:
            for fd in found.values():
                if isinstance(fd, int):
                    close(fd)

    def _begin(
        self, file: NewFile, directories: dict[tuple[str, ...], int | StorageError]
    ) -> _Placing:
        """Write it, without its final name."""
        directory = directories[file.parts[:-1]]
        path = self._destination.path_of(file.parts)
        if isinstance(directory, StorageError):
            return _Placing(file, -1, path, error=directory)
        placing = _Placing(file, directory, path)
        try:
            self._write(placing)
        except StorageError as error:
            placing.error = error
        return placing

    def _keep_out(self, file: NewFile, room: Room) -> _Placing:
        """There would be less free than the floor."""
        path = self._destination.path_of(file.parts)
        what = f"{room.free_bytes} bytes are available, of which {room.floor_bytes} stay free"
        error = DiskFull(f"{what} (disk_floor): {path}", hint="make room; it goes on by itself")
        return _Placing(file, -1, path, error=error)

    def _write(self, placing: _Placing) -> None:
        file, path = placing.file, placing.path
        with storage_errors("write", path, destination=True):
            self._open(placing)
            descriptors.write_full(placing.fd, 0, [file.content])
        descriptors.set_mode_and_time(placing.fd, path, file.mode, file.mtime_ns)

    def _open(self, placing: _Placing) -> None:
        if self._tmpfile:
            try:
                flags = os.O_TMPFILE | os.O_WRONLY
                placing.fd = os.open(".", flags, _HIDDEN_MODE, dir_fd=placing.directory_fd)
                return
            except OSError as error:
                if error.errno not in _NO_TMPFILE:
                    raise
            self._tmpfile = False
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        name = _hidden_name()
        with self._staging() as staging_fd:
            placing.fd = os.open(name, flags, _HIDDEN_MODE, dir_fd=staging_fd)
            placing.hidden_name = name
            fcntl.flock(placing.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _sync(self, placings: list[_Placing]) -> None:
        """Make contents, modes and times durable, a share of them on each thread."""
        step = -(-len(placings) // SYNC_THREADS) or 1
        slices = [placings[at : at + step] for at in range(0, len(placings), step)]
        for _ in self._syncing.map(_sync_each, slices):
            pass

    def _sync_directories(self, placings: list[_Placing]) -> None:
        """Make the new names durable: one fsync a directory."""
        named: dict[int, list[_Placing]] = {}
        for each in placings:
            if each.error is None:
                named.setdefault(each.directory_fd, []).append(each)
        for error, group in zip(
            self._syncing.map(_sync_directory, named.values()), named.values(), strict=True
        ):
            for each in group:
                each.error = error

    # ------------------------------------------------------------ the final name

    def _name(self, placing: _Placing) -> None:
        """Give it its final name, unless something else has that."""
        name = placing.file.parts[-1]
        try:
            self._link(placing, placing.directory_fd, name)
        except FileExistsError:
            try:
                self._meet(placing, name)
            except StorageError as error:
                placing.error = error
        except StorageError as error:  # staging is not to be had
            placing.error = error
        except OSError as error:
            placing.error = translate(error, "link", placing.path, destination=True)
            if placing.hidden_name is None and error.errno in _NO_NAMING:
                self._name_anew(placing)

    def _name_anew(self, placing: _Placing) -> None:
        """A file system that makes files without a name and then gives them none."""
        self._tmpfile = False
        self._let_go(placing)
        placing.error = None
        try:
            self._write(placing)
        except StorageError as error:
            placing.error = error
            return
        _sync_each([placing])
        if placing.error is None:
            self._name(placing)

    def _link(self, placing: _Placing, directory_fd: int, name: str) -> None:
        """Raises `OSError`, `FileExistsError` where the name is taken."""
        if placing.hidden_name is None:
            os.link(_by_descriptor(placing.fd), name, dst_dir_fd=directory_fd)
            return
        with self._staging() as staging_fd:
            descriptors.link_no_clobber(staging_fd, placing.hidden_name, directory_fd, name)

    def _meet(self, placing: _Placing, name: str) -> None:
        """Something has the name: the same content, or what may be replaced, or neither."""
        with storage_errors("stat", placing.path, destination=True):
            status = lstat_at(placing.directory_fd, name)
        kind = Kind.NOTHING if status is None else kind_of(status)
        if kind in {Kind.DIRECTORY, Kind.SPECIAL}:
            raise DestinationUnusable(
                f"{placing.path} is a {kind}; a file cannot take its place",
                hint="move it away, or choose another destination",
            )
        if kind is Kind.FILE and _has_content(placing, name):
            placing.unchanged = True
            return
        if not self._overwrite:
            raise DestinationExists(
                f"{placing.path}: another file is at the destination already",
                hint="give another destination, or --overwrite to replace it",
            )
        with self._staging() as staging_fd, storage_errors("rename", placing.path):
            if placing.hidden_name is None:
                hidden = _hidden_name()
                fcntl.flock(placing.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.link(_by_descriptor(placing.fd), hidden, dst_dir_fd=staging_fd)
                placing.hidden_name = hidden
            os.replace(
                placing.hidden_name, name, src_dir_fd=staging_fd, dst_dir_fd=placing.directory_fd
            )

    def _let_go(self, placing: _Placing) -> None:
        """Close it; what has no final name is gone."""
        if placing.hidden_name is not None:
            with suppress(OSError, StorageError), self._staging() as staging_fd:
                os.unlink(placing.hidden_name, dir_fd=staging_fd)
        fd, placing.fd = placing.fd, -1
        if fd >= 0:
            close(fd)

    @contextmanager
    def _staging(self) -> Iterator[int]:
        """A descriptor of `.chunkq/`, made if need be. Raises `DestinationUnusable`."""
        path = os.path.join(self._destination.path, STAGING_NAME)
        fd = open_staging(self._destination.directory_fd, path)
        try:
            yield fd
        finally:
            close(fd)


def sweep(destination: Destination) -> None:
    """Remove what a process that died left in staging in the middle of placing."""
    try:
        fd = os.open(STAGING_NAME, _DIRECTORY_FLAGS, dir_fd=destination.directory_fd)
    except OSError:
        return
    try:
        with suppress(OSError):
            for name in os.listdir(fd):
                if name.endswith(NAME_SUFFIX):
                    _remove_if_dead(fd, name)
    finally:
        close(fd)


def _remove_if_dead(directory_fd: int, name: str) -> None:
    """Whoever places a file holds a lock on it."""
    with suppress(OSError):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory_fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(name, dir_fd=directory_fd)
        finally:
            close(fd)


def _sync_each(placings: list[_Placing]) -> None:
    for each in placings:
        try:
            os.fsync(each.fd)
        except OSError as error:
            each.error = translate(error, "fsync", each.path, sync=True)


def _sync_directory(group: list[_Placing]) -> StorageError | None:
    try:
        descriptors.sync_directory(group[0].directory_fd)
    except OSError as error:
        directory = os.path.dirname(group[0].path)
        # Not SyncFailed: the files themselves are durable, fetching them anew would not help.
        return StorageError(describe(error, "fsync", directory), hint="see the kernel's log")
    return None


def _has_content(placing: _Placing, name: str) -> bool:
    found = descriptors.read_file(
        placing.directory_fd, name, placing.path, len(placing.file.content)
    )
    return found is not None and digest(found) == placing.file.content_digest


def _by_descriptor(fd: int) -> str:
    """A path to a file without a name; `link` follows it (linkat with AT_SYMLINK_FOLLOW)."""
    return f"{_DESCRIPTORS}/{fd}"


def _takes(file: NewFile) -> int:
    """Of the disk: whole blocks."""
    return -(-len(file.content) // BLOCK_SIZE_BYTES) * BLOCK_SIZE_BYTES


def _hidden_name() -> str:
    return secrets.token_hex(16) + NAME_SUFFIX
