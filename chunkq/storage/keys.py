"""A site's secret keys in a file that only its owner can read (its text: `protocol.keyring`).

The file is replaced as a whole, by rename: after a kill at any moment there are the old keys, or
the new ones together with the succession that the old ones signed.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from chunkq.errors import DestinationUnusable, IdentityError
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.keyring import KeyRing
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.mapping import storage_errors

#: A ring with all its retired keys and the longest succession and consent has about 16 KiB;
#: whatever is larger is another file.
_MAX_FILE_SIZE_BYTES: Final = 32 * 1024

#: inode, size, mtime_ns: a file that was replaced has another inode.
_Stamp = tuple[int, int, int]


def load_keys(path: str | os.PathLike[str]) -> SiteKeys:
    """The present keys in `path`. Raises `IdentityError` as `load_ring` does."""
    return load_ring(path).keys


def load_ring(path: str | os.PathLike[str]) -> KeyRing:
    """The keys in `path`, and what became of those before.

    Raises `IdentityError` if they are missing, damaged, another user's, or readable by others.
    """
    whole = os.path.abspath(path)
    fd = _open(whole)
    try:
        _check_private(os.stat(os.path.dirname(whole)), os.path.dirname(whole), "700")
        _check_private(os.fstat(fd), whole, "600")
        with storage_errors("read", whole):
            raw = descriptors.read_full(fd, 0, _MAX_FILE_SIZE_BYTES)
    finally:
        close(fd)
    try:
        return KeyRing.decode(raw.decode("ascii"))
    except (IdentityError, ValueError):
        raise IdentityError(
            f"{whole} is damaged or no key file",
            hint="restore it from a backup; new keys are a new identity for every peer",
        ) from None


def change_ring(
    path: str | os.PathLike[str], change: Callable[[KeyRing], KeyRing]
) -> tuple[KeyRing, KeyRing]:
    """Replace the ring by what `change` makes of it, durably; returns it before and after.

    One process does so at a time. Raises `IdentityError`, `StorageError`, and what `change` does.
    """
    whole = os.path.abspath(path)
    directory, name = os.path.split(whole)
    with _locked(directory) as fd:
        before = load_ring(whole)
        after = change(before)
        _remove_leftovers(fd, name)
        if after is not before:
            descriptors.replace_file(fd, name, whole, [after.encode().encode()], mode=0o600)
    return before, after


def _remove_leftovers(directory_fd: int, name: str) -> None:
    """What a killed process was about to put in place holds secrets as well."""
    for found in os.listdir(directory_fd):
        if found.startswith(f"{name}.") and found.endswith(descriptors.TEMPORARY_SUFFIX):
            descriptors.remove_if_there(directory_fd, found)


@contextmanager
def _locked(directory: str) -> Iterator[int]:
    """The directory itself carries the lock: nothing is left behind."""
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise IdentityError(
            f"open {directory}: {os.strerror(error.errno or 0)}",
            hint="make keys with `chunkq init`",
        ) from error
    try:
        with storage_errors("flock", directory):
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        close(fd)


class KeyFile:
    """The ring in a file, as it is now: another process may have changed it (`ports.Identity`)."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises `IdentityError`."""
        self._path = os.path.abspath(path)
        self._stamp = self._look()
        self.ring = load_ring(self._path)

    def refresh(self) -> None:
        """Read it again if it was replaced. Raises `IdentityError`; `ring` stays as it was."""
        stamp = self._look()
        if stamp != self._stamp:
            self.ring = load_ring(self._path)
            self._stamp = stamp

    def _look(self) -> _Stamp | None:
        try:
            found = os.stat(self._path)
        except OSError:  # reading it says what is wrong
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


def save_keys(path: str | os.PathLike[str], keys: SiteKeys) -> None:
    """Write new keys, durably, into a directory that is made private if need be.

    Raises `IdentityError` if there is a file already: keys are never replaced. `StorageError`.
    """
    whole = os.path.abspath(path)
    directory, name = os.path.split(whole)
    with storage_errors("mkdir", directory, destination=True):
        os.makedirs(os.path.dirname(directory), exist_ok=True)
        if not os.path.isdir(directory):
            os.mkdir(directory, 0o700)
    _check_private(os.stat(directory), directory, "700")
    with storage_errors("open", directory, destination=True):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    temporary = f"{name}.{os.urandom(8).hex()}{descriptors.TEMPORARY_SUFFIX}"
    try:
        descriptors.write_new(
            fd, temporary, whole, [KeyRing(keys=keys).encode().encode()], mode=0o600
        )
        with storage_errors("link", whole, destination=True):
            descriptors.link_no_clobber(fd, temporary, fd, name)
        with storage_errors("fsync", directory, sync=True):
            descriptors.sync_directory(fd)
    except DestinationUnusable as error:
        if isinstance(error.__cause__, FileExistsError):
            raise IdentityError(
                f"{whole} exists; it was left as it is",
                hint="this site has keys already; move them away to begin a new identity",
            ) from error
        raise
    finally:
        descriptors.remove_if_there(fd, temporary)
        close(fd)


def _open(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise IdentityError(
            f"there are no keys at {path}", hint="make them with `chunkq init`"
        ) from error
    except OSError as error:
        raise IdentityError(
            f"open {path}: {os.strerror(error.errno or 0)}",
            hint="keys are a plain file, no link, readable by its owner",
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        close(fd)
        raise IdentityError(f"{path} is not a plain file")
    return fd


def _check_private(status: os.stat_result, path: str, mode: str) -> None:
    if status.st_uid != os.geteuid():
        raise IdentityError(
            f"{path} belongs to uid {status.st_uid}, this is uid {os.geteuid()}",
            hint=f"run as its owner, or: chown {os.geteuid()} {path}",
        )
    if status.st_mode & 0o077:
        raise IdentityError(
            f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):o})",
            hint=f"chmod {mode} {path}",
        )
