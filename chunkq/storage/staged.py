"""A transfer's staging together with the final path it is for (`ports.Staging`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from blake3 import blake3

from chunkq.errors import DestinationUnusable, StateInvalid
from chunkq.protocol.limits import MIB
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.destination import Destination
from chunkq.storage.kinds import Kind, kind_of, lstat_at
from chunkq.storage.mapping import storage_errors
from chunkq.storage.partfile import PartFile
from chunkq.storage.publish import publish
from chunkq.storage.staging import Staging
from chunkq.storage.statefile import StateFile, StateHeader

_READ_SIZE_BYTES: Final = 1 * MIB


class StagedFile:
    """One file on its way to `parts` below `destination`, which stays the caller's to close."""

    def __init__(self, staging: Staging, destination: Destination, parts: Sequence[str]) -> None:
        self.staging = staging
        self.destination = destination
        self.parts = tuple(parts)

    @property
    def part(self) -> PartFile:
        return self.staging.part

    @property
    def state(self) -> StateFile:
        return self.staging.state

    @property
    def ephemeral(self) -> bytes:
        """The X25519 secret of this transfer, 32 bytes."""
        if self.staging.ephemeral is None:
            raise StateInvalid(f"{self.state.path} has no header yet")
        return self.staging.ephemeral

    @property
    def instance(self) -> str:
        """The reply mailbox that the transfer's first requests named."""
        return self.staging.instance or ""

    @property
    def part_missing(self) -> bool:
        """Whether the part file is absent or shorter than the state says. Reads both slots."""
        try:
            state = self.state.load()
        except StateInvalid:
            return False
        return state is not None and (
            not self.part.exists or self.part.size_bytes < state.size_bytes
        )

    def load_manifest(self) -> bytes | None:
        """What `save_manifest` kept, or None. To be verified by the caller."""
        return self.staging.load_manifest()

    def save_manifest(self, manifest: bytes) -> None:
        """Keep the manifest for the next start: atomically, replacing an older one."""
        self.staging.save_manifest(manifest)

    def forget_manifest(self) -> None:
        """What was kept does not hold: the next start asks anew, and compares what is here."""
        self.staging.forget_manifest()

    def settle(self) -> None:
        """Make what `save_manifest` kept durable, before a commit relies on it."""
        self.staging.settle()

    def published(self) -> bool:
        """Whether the file at the final path is this very part file (a crash came after)."""
        status = self.destination.status(self.parts)
        return status is not None and self.part.same_as(status)

    def destination_content(self) -> tuple[int, bytes] | None:
        """Bytes and BLAKE3 of the file at the final path; None if nothing is there.

        Of a link: of the path it holds, which is no file's that was asked for. Raises
        `DestinationUnusable` for a directory, FIFO or device: nothing will ever replace that.
        """
        path = self.destination.path_of(self.parts)
        with (
            self.destination.open_parent(self.parts) as (fd, name),
            storage_errors("read", path, destination=True),
        ):
            status = lstat_at(fd, name)
            if status is None:
                return None
            kind = kind_of(status)
            if kind is Kind.LINK:
                held = os.fsencode(os.readlink(name, dir_fd=fd))
                return len(held), blake3(held).digest()
            if kind is not Kind.FILE:
                raise DestinationUnusable(
                    f"{path} is a {kind}; a file cannot take its place",
                    hint="move it away, or choose another destination",
                )
            return _content(fd, name)

    def publish(self, *, mode: int, mtime_ns: int, overwrite: bool) -> None:
        """Make the part file appear at the final path, durably.

        Raises `DestinationExists`, `DestinationUnusable`, `SyncFailed`, `StorageError`.
        """
        publish(
            self.staging,
            self.destination,
            self.parts,
            mode=mode,
            mtime_ns=mtime_ns,
            overwrite=overwrite,
        )

    def settle_published(self) -> None:
        """Make the name at the final path durable: a crash, or its disk, may have kept it from it.

        Raises `SyncFailed`, `DestinationUnusable`.
        """
        path = os.path.dirname(self.destination.path_of(self.parts))
        with (
            self.destination.open_parent(self.parts) as (fd, _),
            storage_errors("fsync", path, sync=True),
        ):
            descriptors.sync_directory(fd)

    def free_bytes(self) -> int:
        """Room on the file system for this user, above what stays free and what is set aside.

        Below zero where others have taken more.
        """
        room = self.staging.floor.room(self.staging.directory_fd, self.staging.path)
        return room.above_bytes - self.part.unreserved_bytes if room.known else 0

    def remove(self) -> None:
        """Remove every trace of the transfer but what was published."""
        self.staging.remove()

    def close(self) -> None:
        self.staging.close()


def open_staged(
    destination: Destination, parts: Sequence[str], transfer_id: str, header: StateHeader
) -> StagedFile:
    """Take up the transfer, or begin it with `header`, whose secret is used only then.

    Raises `TransferBusy`, `DestinationUnusable`, `DiskFull`, `StorageError`.
    """
    staging = Staging(destination, transfer_id)
    try:
        if staging.header is None:
            staging.begin(header)
        return StagedFile(staging, destination, parts)
    except BaseException:
        staging.close()
        raise


def _content(directory_fd: int, name: str) -> tuple[int, bytes]:
    hasher = blake3()
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory_fd)
    try:
        offset = 0
        while block := descriptors.read_full(fd, offset, _READ_SIZE_BYTES):
            hasher.update(block)
            offset += len(block)
    finally:
        close(fd)
    return offset, hasher.digest()
