"""How much room a file system has, above what stays free on it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final

from chunkq.protocol.limits import GIB
from chunkq.storage.mapping import storage_errors

#: What stays free where nothing else is said: enough for the journals, logs and state files of a
#: machine to go on, and on a small disk no more than this part of it.
AUTO_FLOOR_BYTES: Final = 1 * GIB
AUTO_FLOOR_PART: Final = 20


@dataclass(frozen=True, slots=True)
class Room:
    """As of one moment. `known`: some network file systems tell nothing at all."""

    free_bytes: int
    floor_bytes: int
    known: bool = True

    @property
    def above_bytes(self) -> int:
        """What may be taken; below zero if others have taken more."""
        return self.free_bytes - self.floor_bytes


@dataclass(frozen=True, slots=True)
class Floor:
    """What stays free on a disk; None: by its size."""

    size_bytes: int | None = None

    def room(self, fd: int, path: str) -> Room:
        """Of the file system that `fd` is on, for this user. Raises `StorageError`."""
        with storage_errors("fstatvfs", path):
            found = os.fstatvfs(fd)
        floor = self.size_bytes
        if floor is None:
            floor = min(AUTO_FLOOR_BYTES, found.f_blocks * found.f_frsize // AUTO_FLOOR_PART)
        return Room(found.f_bavail * found.f_frsize, floor, bool(found.f_blocks))


#: Everything may be taken.
NO_FLOOR: Final = Floor(0)
