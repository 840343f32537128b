"""The one place where an `OSError` of this floor becomes an error of ours."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from chunkq.errors import DestinationUnusable, DiskFull, StorageError, SyncFailed

#: No room now; there may be some later.
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
#: The path itself is at fault: what it names, where it lies, or who may write there.
_PATH: Final = frozenset(
    {
        errno.EACCES,
        errno.EEXIST,
        errno.EISDIR,
        errno.ELOOP,
        errno.EMLINK,
        errno.ENAMETOOLONG,
        errno.ENODEV,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENXIO,
        errno.EPERM,
        errno.EROFS,
        errno.ETXTBSY,
        errno.EXDEV,
    }
)
_HINTS: Final = {
    errno.EACCES: "give this user write permission there, or choose another place",
    errno.EPERM: "give this user write permission there, or choose another place",
    errno.EROFS: "the file system is mounted read-only; choose another place",
    errno.ENOENT: "create the directory first",
    errno.ENOTDIR: "something in the path is not a directory",
    errno.ELOOP: "a symbolic link is in the way; links are not followed below the destination",
    errno.EXDEV: "staging and destination must be on one file system",
    errno.EDQUOT: "the quota of this user is used up",
    errno.ENOSPC: "make room; the transfer goes on by itself",
    errno.EIO: "the disk reports errors; see the kernel's log",
    errno.EFBIG: "the file system, or a limit of this process, does not allow files so large",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENOLCK: "the file system offers no locks; choose a local one",
}


def describe(error: OSError, call: str, path: str) -> str:
    """`call path: reason`, as every message of this floor reads."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    return f"{call} {path}: {reason}"


def translate(
    error: OSError, call: str, path: str, *, destination: bool = False, sync: bool = False
) -> StorageError:
    """What to raise for `error`: `DiskFull`, `SyncFailed`, `DestinationUnusable`, `StorageError`.

    `destination`: the path is one the user chose to write to. `sync`: the call was an fsync, after
    which nothing written before it can be relied on, whatever the reason.
    """
    message, hint = describe(error, call, path), _HINTS.get(error.errno or 0)
    if sync:
        return SyncFailed(message, hint=hint)
    if error.errno in _FULL:
        return DiskFull(message, hint=hint)
    if destination and error.errno in _PATH:
        return DestinationUnusable(message, hint=hint)
    return StorageError(message, hint=hint)


@contextmanager
def storage_errors(
    call: str, path: str, *, destination: bool = False, sync: bool = False
) -> Iterator[None]:
    """Raise what `translate` says for an `OSError` from within."""
    try:
        yield
    except OSError as error:
        raise translate(error, call, path, destination=destination, sync=sync) from error
