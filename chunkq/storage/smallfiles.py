"""Small files of one directory, read whole: a few system calls each.

What is handed out is one version: the file's identity is the same after the reading as before it,
and its last change lies far enough back that a later one would show in its time stamps.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import Final

from chunkq.ports import SmallFile
from chunkq.protocol.messages import RefusalReason
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.hashing import FINE_GRAIN_MS, settling_ms
from chunkq.storage.kinds import identity_of
from chunkq.storage.wallclock import wall_ms as wall_clock_ms

#: Not blocking, so that a FIFO put in a file's place cannot hold a worker.
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
#: What is not "not there": the disk failed, or this process has too much open.
_TROUBLE: Final = frozenset({errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def read_small(
    directory_fd: int,
    name: str,
    largest_bytes: int,
    *,
    wall_ms: Callable[[], int] = wall_clock_ms,
    sleep: Callable[[float], None] = time.sleep,
) -> SmallFile | RefusalReason:
    """A regular file, if it has at most `largest_bytes`; else why it cannot be had."""
    try:
        # A look before opening: to open a device can have effects of its own.
        status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            return RefusalReason.NOT_FOUND
        if status.st_size > largest_bytes:
            return RefusalReason.TOO_LARGE
        fd = os.open(name, _FILE_FLAGS, dir_fd=directory_fd)
        try:
            before = os.fstat(fd)
            if not stat.S_ISREG(before.st_mode):
                return RefusalReason.NOT_FOUND
            return _read(fd, before, largest_bytes, wall_ms, sleep)
        finally:
            close(fd)
    except OSError as error:
        return RefusalReason.BUSY if error.errno in _TROUBLE else RefusalReason.NOT_FOUND


def _read(
    fd: int,
    before: os.stat_result,
    largest_bytes: int,
    wall_ms: Callable[[], int],
    sleep: Callable[[float], None],
) -> SmallFile | RefusalReason:
    identity = identity_of(before)
    if identity.size_bytes > largest_bytes:
        return RefusalReason.TOO_LARGE
    if wait_ms := settling_ms(identity, wall_ms()):
        if wait_ms > FINE_GRAIN_MS:
            return RefusalReason.BUSY
        sleep(wait_ms / 1000)
    content = descriptors.read_full(fd, 0, identity.size_bytes)
    if len(content) != identity.size_bytes or identity_of(os.fstat(fd)) != identity:
        return RefusalReason.BUSY
    return SmallFile(stat.S_IMODE(before.st_mode) & 0o777, identity.mtime_ns, content)
