"""The dashboard's secret in the state directory, which its log-ins and sessions are made with.

It outlives the process, so a page that was open before a restart goes on after it. Removing the
file ends every session.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Final

from chunkq.errors import IdentityError, StorageError
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.mapping import storage_errors

FILE_NAME: Final = "dashboard.key"
#: 256 bits.
SECRET_BYTES: Final = 32


def load_secret(state: Path) -> bytes:
    """The secret, made now if there is none yet.

    Raises `IdentityError` if it is damaged or others can read it, and `StorageError`.
    """
    path = str(state / FILE_NAME)
    with storage_errors("open", str(state)):
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = os.open(state, os.O_RDONLY | os.O_DIRECTORY)
    try:
        found = _read(directory, path)
        if found is None:
            _make(directory, path)
            found = _read(directory, path)
        if found is None:
            raise IdentityError(
                f"{path} is damaged",
                hint="remove it: everybody logs in again, nothing else is lost",
            )
        return found
    finally:
        close(directory)


def _read(directory: int, path: str) -> bytes | None:
    with suppress(FileNotFoundError):
        status = os.stat(FILE_NAME, dir_fd=directory, follow_symlinks=False)
        if status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise IdentityError(f"others can read {path}", hint=f"chmod 600 {path}")
    raw = descriptors.read_file(directory, FILE_NAME, path, 2 * SECRET_BYTES + 1)
    if raw is None:
        return None
    try:
        secret = bytes.fromhex(raw.decode("ascii").strip())
    except ValueError:
        return None
    return secret if len(secret) == SECRET_BYTES else None


def _make(directory: int, path: str) -> None:
    """Put a new one there, whole; one that somebody else makes meanwhile stays."""
    temporary = f"{FILE_NAME}.{os.getpid()}{descriptors.TEMPORARY_SUFFIX}"
    content = secrets.token_bytes(SECRET_BYTES).hex().encode() + b"\n"
    descriptors.write_new(directory, temporary, path, [content], mode=0o600)
    try:
        with suppress(FileExistsError):
            descriptors.link_no_clobber(directory, temporary, directory, FILE_NAME)
    except OSError as error:
        raise StorageError(f"{path} cannot be made: {error.strerror}") from error
    finally:
        descriptors.remove_if_there(directory, temporary)
