"""Where an unfinished transfer lives: `.chunkq/<transfer id>.*` beside its destination.

    <id>.state     the state file, locked as long as a process works on the transfer
    <id>.part      the unfinished file
    <id>.manifest  the signed manifest that the state's root belongs to
    <id>.manifest.tmp  the next one, while it is written

Names come from the transfer id, never from a peer. Everything is reached through one descriptor of
the directory, so nothing that happens to the path above it leads a write elsewhere.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Final

from blake3 import blake3

from chunkq.errors import DestinationUnusable, StateInvalid, StorageError, TransferBusy
from chunkq.protocol.limits import DIGEST_SIZE_BYTES, MAX_HEAD_SIZE_BYTES
from chunkq.protocol.names import STAGING_NAME
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.destination import Destination
from chunkq.storage.locks import MAX_ATTEMPTS, lock_file
from chunkq.storage.mapping import storage_errors
from chunkq.storage.partfile import PartFile
from chunkq.storage.statefile import StateFile, StateHeader

PART_SUFFIX: Final = ".part"
STATE_SUFFIX: Final = ".state"
MANIFEST_SUFFIX: Final = ".manifest"
#: A manifest that is being written. The transfer is locked: the name is this process's alone.
NEW_MANIFEST_SUFFIX: Final = MANIFEST_SUFFIX + descriptors.TEMPORARY_SUFFIX
#: A second name of the part file while it replaces something (see `publish`).
PUBLISH_SUFFIX: Final = ".new"
_BESIDE_STATE: Final = (PUBLISH_SUFFIX, PART_SUFFIX, NEW_MANIFEST_SUFFIX, MANIFEST_SUFFIX)
TRANSFER_ID: Final = re.compile(r"[0-9a-f]{32}")
_MANIFEST_CONTEXT: Final = "chunkq 1 staged manifest"
#: The head, its signature, and a few small fields around them.
MAX_MANIFEST_SIZE_BYTES: Final = MAX_HEAD_SIZE_BYTES + 4096
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Staging:
    """The files of one transfer, open and locked.

    Raises `TransferBusy` if another process has it, `DestinationUnusable`, `StorageError`.
    """

    def __init__(self, destination: Destination, transfer_id: str) -> None:
        if not TRANSFER_ID.fullmatch(transfer_id):
            raise StateInvalid(f"{transfer_id[:80]!a} is no transfer id (32 hexadecimal digits)")
        self.transfer_id = transfer_id
        self.floor = destination.floor
        self.path = os.path.join(destination.path, STAGING_NAME)
        with storage_errors("dup", destination.path):
            self._parent_fd = os.dup(destination.directory_fd)
        self.directory_fd = -1
        self._settled = True
        try:
            state_fd = self._lock()
        except BaseException:
            self._close_directories()
            raise
        self.state = StateFile(state_fd, transfer_id, self.path_of(STATE_SUFFIX))
        try:
            self.part = PartFile(
                self.directory_fd,
                self.name_of(PART_SUFFIX),
                self.path_of(PART_SUFFIX),
                self.floor,
            )
            self.header = self.state.read_header()
        except BaseException:
            self.state.close()
            self._close_directories()
            raise

    # ------------------------------------------------------------ header and manifest

    @property
    def ephemeral(self) -> bytes | None:
        """The requester's X25519 secret of this transfer; None before `begin`, or if it is lost."""
        return self.header.ephemeral if self.header else None

    @property
    def instance(self) -> str | None:
        """The reply mailbox that earlier requests of this transfer named."""
        return self.header.instance if self.header else None

    def begin(self, header: StateHeader) -> None:
        """Write the header of a new transfer; durable from the first `settle` and commit on."""
        self.state.write_header(header)
        self.header = header
        self._settled = False

    def settle(self) -> None:
        """Make the manifest and the names of these files durable: before a commit relies on them.

        A file that is fetched within one commit group never needs it. Raises `SyncFailed`.
        """
        if self._settled:
            return
        name, path = self.name_of(MANIFEST_SUFFIX), self.path_of(MANIFEST_SUFFIX)
        with storage_errors("fsync", path, sync=True):
            with suppress(FileNotFoundError):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self.directory_fd)
                try:
                    os.fsync(fd)
                finally:
                    close(fd)
            descriptors.sync_directory(self.directory_fd)
            descriptors.sync_directory(self._parent_fd)
        self._settled = True

    def save_manifest(self, manifest: bytes) -> None:
        """Keep a signed manifest instead of the one before it; `settle` makes it durable."""
        if len(manifest) > MAX_MANIFEST_SIZE_BYTES:
            raise StateInvalid(f"a manifest of {len(manifest)} bytes")
        checksum = blake3(manifest, derive_key_context=_MANIFEST_CONTEXT).digest()
        name, path = self.name_of(MANIFEST_SUFFIX), self.path_of(MANIFEST_SUFFIX)
        self._settled = False
        content = [checksum, manifest]
        descriptors.replace_file(
            self.directory_fd,
            name,
            path,
            content,
            durable=False,
            temporary=self.name_of(NEW_MANIFEST_SUFFIX),
        )

    def forget_manifest(self) -> None:
        """Keep nothing in its place: that still tells of data. Raises `StorageError`."""
        self.save_manifest(b"")

    def load_manifest(self) -> bytes | None:
        """As last saved; None if there is none, or if it is damaged."""
        largest = DIGEST_SIZE_BYTES + MAX_MANIFEST_SIZE_BYTES
        name, path = self.name_of(MANIFEST_SUFFIX), self.path_of(MANIFEST_SUFFIX)
        raw = descriptors.read_file(self.directory_fd, name, path, largest)
        if raw is None or len(raw) < DIGEST_SIZE_BYTES:
            return None
        checksum, manifest = raw[:DIGEST_SIZE_BYTES], raw[DIGEST_SIZE_BYTES:]
        if blake3(manifest, derive_key_context=_MANIFEST_CONTEXT).digest() != checksum:
            return None
        return manifest

    # ------------------------------------------------------------ names

    def name_of(self, suffix: str) -> str:
        return self.transfer_id + suffix

    def path_of(self, suffix: str) -> str:
        """For messages and logs."""
        return os.path.join(self.path, self.name_of(suffix))

    # ------------------------------------------------------------ its end

    def remove(self) -> None:
        """Delete the transfer's files, the directory with the last of them, and close.

        The state file goes last: while it is there, the transfer can be told from a new one.
        Once more is nothing.
        """
        if self.directory_fd < 0:
            return
        for suffix in (*_BESIDE_STATE, STATE_SUFFIX):
            with storage_errors("unlink", self.path_of(suffix)), suppress(FileNotFoundError):
                os.unlink(self.name_of(suffix), dir_fd=self.directory_fd)
        with suppress(OSError):  # not empty: other transfers are under way beside this one
            os.rmdir(STAGING_NAME, dir_fd=self._parent_fd)
        self.close()

    def close(self) -> None:
        """Close the files and let go of the lock. What is on disk stays."""
        self.part.close()
        self.state.close()
        self._close_directories()

    def _close_directories(self) -> None:
        self._close_directory()
        fd, self._parent_fd = self._parent_fd, -1
        if fd >= 0:
            close(fd)

    def _close_directory(self) -> None:
        fd, self.directory_fd = self.directory_fd, -1
        if fd >= 0:
            close(fd)

    # ------------------------------------------------------------ opening

    def _lock(self) -> int:
        """Open the directory and lock the state file, though another process may remove both."""
        name, path = self.name_of(STATE_SUFFIX), self.path_of(STATE_SUFFIX)
        for _ in range(MAX_ATTEMPTS):
            try:
                self.directory_fd = open_staging(self._parent_fd, self.path)
                fd = lock_file(self.directory_fd, name, path)
            except DestinationUnusable as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
                self._close_directory()
                continue
            if fd is None:
                raise TransferBusy(
                    f"{path}: another process works on this transfer",
                    hint="wait for it, or stop it; `chunkq status` shows what runs",
                )
            return fd
        raise StorageError(f"open {self.path}: it was removed again and again")


def open_staging(parent_fd: int, path: str) -> int:
    """A descriptor of `.chunkq/` in a directory, made if need be; `path` is for messages.

    Raises `DestinationUnusable`, also if it is another user's, who could put anything there.
    """
    with storage_errors("open", path, destination=True):
        with suppress(FileExistsError):
            os.mkdir(STAGING_NAME, 0o700, dir_fd=parent_fd)
        fd = os.open(STAGING_NAME, _DIRECTORY_FLAGS, dir_fd=parent_fd)
    try:
        with storage_errors("fstat", path, destination=True):
            _check_own(fd, path)
    except StorageError:
        close(fd)
        raise
    return fd


def _check_own(fd: int, path: str) -> None:
    status = os.fstat(fd)
    if status.st_uid != os.geteuid():
        raise DestinationUnusable(
            f"{path} belongs to another user (uid {status.st_uid})",
            hint="choose another destination, or remove that directory",
        )
    if status.st_mode & 0o077:
        with suppress(PermissionError):  # FAT and the like have no permissions to set
            os.fchmod(fd, 0o700)


def begun(destination: Destination) -> frozenset[str]:
    """The ids of transfers that have staging there, of this process or another."""
    try:
        fd = os.open(STAGING_NAME, _DIRECTORY_FLAGS, dir_fd=destination.directory_fd)
    except OSError:
        return frozenset()
    try:
        with storage_errors("readdir", os.path.join(destination.path, STAGING_NAME)):
            names = os.listdir(fd)
    finally:
        close(fd)
    return frozenset(
        name.removesuffix(STATE_SUFFIX) for name in names if name.endswith(STATE_SUFFIX)
    )
