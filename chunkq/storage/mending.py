"""The staging of a repair: it begins with what is right of the damaged file.

    header -> good chunks copied into the part file, synced -> manifest -> bitmap of the good ones

From there it is a transfer like any other: the rest is fetched, the whole is read back against the
signed digest, and it is renamed over the damaged file, which nobody writes to meanwhile. A crash
before the bitmap is durable begins the copying anew. It takes the file's room once more, where the
file system cannot share blocks (XFS and Btrfs can).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from chunkq.errors import DestinationExists, DiskFull, StateInvalid, StorageError
from chunkq.ports import FileIdentity, TransferState
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import Geometry, to_ranges
from chunkq.protocol.limits import MIB
from chunkq.protocol.transfer_events import Phase
from chunkq.storage import descriptors
from chunkq.storage.destination import Destination
from chunkq.storage.kinds import identity_of
from chunkq.storage.mapping import storage_errors
from chunkq.storage.staged import StagedFile
from chunkq.storage.staging import Staging
from chunkq.storage.statefile import StateHeader

#: One call copies so much; one that comes to a stop in it costs no more time than that.
STEP_BYTES: Final = 64 * MIB
#: How the file is cut for copying where nothing is known of its chunks.
_PIECE_BYTES: Final = 1 * MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Mend:
    """What a repair begins with.

    `content_digest`: the version wanted. `identity`: the file that is there and may be replaced;
    None: nothing may. With `manifest` (the body of the manifest reply), its `root`, `geometry` and
    `good` chunks, these are taken over; without, every chunk of the file is compared with the
    leaves as they come; with `doubt`, every one that is not among the good ones. Without `seed`
    nothing is taken over.
    """

    content_digest: bytes
    identity: FileIdentity | None
    manifest: bytes | None = None
    root: bytes = b""
    geometry: Geometry | None = None
    good: Bitmap | None = None
    doubt: bool = False
    seed: bool = True


class MendingFile(StagedFile):
    """A repair under way. What was verified is all that it replaces."""

    def __init__(
        self, staging: Staging, destination: Destination, parts: Sequence[str], mend: Mend
    ) -> None:
        super().__init__(staging, destination, parts)
        self._mend = mend

    def publish(self, *, mode: int, mtime_ns: int, overwrite: bool) -> None:
        """As the staging of any file, if what is to be replaced is still what was verified."""
        status = self.destination.status(self.parts)
        if status is not None and not self.part.same_as(status):
            wanted = self._mend.identity
            if wanted is None or not wanted.same_content(identity_of(status)):
                raise DestinationExists(
                    f"{self.destination.path_of(self.parts)} was changed while it was repaired;"
                    " it was left as it is",
                    hint="look at it, then run the same command again",
                )
        super().publish(mode=mode, mtime_ns=mtime_ns, overwrite=overwrite)


def open_mending(
    destination: Destination, parts: Sequence[str], name: str, header: StateHeader, mend: Mend
) -> MendingFile:
    """Take up the repair, or begin it with what is right of the file. Blocks.

    Raises as `open_staged`.
    """
    staging = Staging(destination, name)
    try:
        if staging.header is None:
            staging.begin(header)
        if mend.seed and not _under_way(staging):
            try:
                _seed(staging, destination, parts, mend)
            except DiskFull:  # what there is of it is worth nothing, and takes the room
                staging.remove()
                raise
        return MendingFile(staging, destination, parts, mend)
    except BaseException:
        staging.close()
        raise


def _under_way(staging: Staging) -> bool:
    """Whether an earlier run got as far as the bitmap: then that is what to go on from."""
    try:
        return staging.state.load() is not None
    except StateInvalid:
        return True


def _seed(staging: Staging, destination: Destination, parts: Sequence[str], mend: Mend) -> None:
    """Copy what is good, make it durable, and only then say that it is there."""
    path = destination.path_of(parts)
    with destination.open_parent(parts) as (directory_fd, name), storage_errors("open", path):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory_fd)
    try:
        status = os.fstat(fd)
        if mend.geometry is None or mend.good is None or mend.manifest is None:
            geometry, good = Geometry(status.st_size, _PIECE_BYTES), None
        else:
            geometry, good = mend.geometry, mend.good.copy()
        staging.part.resize(geometry)
        lost = _copy(fd, staging, geometry, None if mend.doubt else good, path)
    finally:
        os.close(fd)
    staging.part.sync()
    if good is None or mend.manifest is None:
        # A bitmap of no version: whatever the manifest will be, each chunk is compared with it.
        state = _state(Phase.OPENING, mend.content_digest, Geometry(0, geometry.chunk_size_bytes))
    else:
        for index in lost:
            good.clear(index)
        staging.save_manifest(mend.manifest)
        phase = Phase.RECOVERING if mend.doubt else Phase.RUNNING
        state = _state(phase, mend.root, geometry, good)
    staging.settle()
    staging.state.store(state)


def _state(
    phase: Phase, root: bytes, geometry: Geometry, good: Bitmap | None = None
) -> TransferState:
    return TransferState(
        generation=1,
        phase=phase,
        root=root,
        size_bytes=geometry.size_bytes,
        chunk_size_bytes=geometry.chunk_size_bytes,
        bitmap=Bitmap(0) if good is None else good,
    )


def _copy(
    fd: int, staging: Staging, geometry: Geometry, good: Bitmap | None, path: str
) -> list[int]:
    """Copy the good chunks, or all; holes stay holes. Returns chunks that the disk did not give."""
    lost: list[int] = []
    for first, count in _runs(geometry, good):
        start = geometry.offset(first)
        stop = min(geometry.offset(first + count), geometry.size_bytes)
        try:
            _copy_run(fd, staging, start, stop, path)
        except StorageError as error:
            cause = error.__cause__
            if not isinstance(cause, OSError) or cause.errno != errno.EIO:
                raise
            for index in range(first, first + count):
                try:
                    begin = geometry.offset(index)
                    _copy_run(fd, staging, begin, begin + geometry.length(index), path)
                except StorageError:
                    lost.append(index)
    return lost


def _runs(geometry: Geometry, good: Bitmap | None) -> Iterator[tuple[int, int]]:
    """Runs of chunks to copy, none longer than a step."""
    most = max(1, STEP_BYTES // geometry.chunk_size_bytes)
    for at in range(0, geometry.chunk_count, most):
        stop = min(at + most, geometry.chunk_count)
        if good is None:
            yield at, stop - at
        else:
            missing = set(good.missing(at, stop))
            yield from to_ranges(index for index in range(at, stop) if index not in missing)


def _copy_run(fd: int, staging: Staging, start: int, stop: int, path: str) -> None:
    with storage_errors("read", path):
        extents = list(descriptors.data_extents(fd, start, stop))
    for begin, end in extents:
        staging.part.copy_from(fd, begin, end, path)
