"""The step that makes the finished file appear, whole and durable, at its final path.

    mode and times, fsync part -> (phase PUBLISHING is on disk) -> link, or rename over what is
    there -> fsync directory -> (the caller stores DONE) -> remove staging

The part file's own name outlives the step: `link` adds a second one, and an overwrite renames a
second one. So after a crash at any point "the final path is the part file" can be asked of the file
system, and running it again changes nothing. Where links are not supported the part file itself is
renamed; then, if it is gone and a file of its size and time stands there, that was it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from chunkq.errors import DestinationExists, DestinationUnusable, StorageError
from chunkq.protocol.transfer_events import Phase
from chunkq.storage import descriptors
from chunkq.storage.destination import Destination
from chunkq.storage.kinds import Kind, kind_of, lstat_at
from chunkq.storage.mapping import storage_errors, translate
from chunkq.storage.staging import PART_SUFFIX, PUBLISH_SUFFIX, Staging

#: FAT keeps times in steps of two seconds.
_TIME_STEP_NS: Final = 2_000_000_000


def publish(
    staging: Staging,
    destination: Destination,
    parts: Sequence[str],
    *,
    mode: int,
    mtime_ns: int,
    overwrite: bool,
) -> None:
    """Make the part file appear at `parts`; the caller has stored phase PUBLISHING before.

    Idempotent: call it again after a crash. Raises `DestinationExists` (nothing was changed),
    `DestinationUnusable`, `SyncFailed`, `StorageError`.
    """
    path = destination.path_of(parts)
    with destination.open_parent(parts) as (fd, name):
        if not staging.part.exists:
            _expect_published(staging, fd, name, path, mtime_ns)
        else:
            staging.part.finish(mode, mtime_ns)
            if overwrite:
                _replace(staging, fd, name, path)
            else:
                _appear(staging, fd, name, path)
        with storage_errors("fsync", os.path.dirname(path), sync=True):
            descriptors.sync_directory(fd)


def _appear(staging: Staging, fd: int, name: str, path: str) -> None:
    """Give the part file its final name if nothing has that name."""
    try:
        descriptors.link_no_clobber(staging.directory_fd, staging.name_of(PART_SUFFIX), fd, name)
    except FileExistsError:
        if not _is_published(staging, fd, name, path):
            raise DestinationExists(
                f"{path} exists; it was left as it is",
                hint="move it away or use --overwrite; the finished file waits in staging",
            ) from None
    except OSError as error:
        raise translate(error, "link", path, destination=True) from error


def _replace(staging: Staging, fd: int, name: str, path: str) -> None:
    """Put the part file in the place of whatever has the final name, without writing to that."""
    if _is_published(staging, fd, name, path):
        return
    directory_fd, second = staging.directory_fd, staging.name_of(PUBLISH_SUFFIX)
    part = staging.name_of(PART_SUFFIX)
    with storage_errors("rename", path, destination=True):
        with suppress(FileNotFoundError):
            os.unlink(second, dir_fd=directory_fd)
        try:
            os.link(part, second, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        except OSError as error:
            if error.errno not in descriptors.NO_LINKS:
                raise
            second = part
        os.replace(second, name, src_dir_fd=directory_fd, dst_dir_fd=fd)


def _is_published(staging: Staging, fd: int, name: str, path: str) -> bool:
    """Whether the final path is the part file. Raises `DestinationUnusable` for what never is."""
    with storage_errors("stat", path, destination=True):
        status = lstat_at(fd, name)
    if status is None:
        return False
    kind = kind_of(status)
    if kind in {Kind.DIRECTORY, Kind.SPECIAL}:
        raise DestinationUnusable(
            f"{path} is a {kind}; a file cannot take its place",
            hint="move it away, or choose another destination",
        )
    return staging.part.same_as(status)


def _expect_published(staging: Staging, fd: int, name: str, path: str, mtime_ns: int) -> None:
    """Return if the file at the final path is what an earlier run renamed there."""
    state = staging.state.load()
    with storage_errors("stat", path, destination=True):
        status = lstat_at(fd, name)
    if (
        state is None
        or state.phase < Phase.PUBLISHING
        or status is None
        or kind_of(status) is not Kind.FILE
        or status.st_size != state.size_bytes
        or abs(status.st_mtime_ns - mtime_ns) >= _TIME_STEP_NS
    ):
        raise StorageError(
            f"the part file of {path} is gone, and what is there is not it",
            hint="run the command again to fetch the file anew",
        )
