"""What a process of a site has before it does anything."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from chunkq.compose.clock import SystemClock
from chunkq.errors import StorageError
from chunkq.settings import Settings
from chunkq.storage.keys import KeyFile, change_ring
from chunkq.telemetry.malloc import keep_buffers
from chunkq.telemetry.openfiles import allow_open_files

#: Threads of a process: hashing, sealing, writing. Two cores are fed by twice as many.
POOL_THREADS: Final = 4


def load_identity(settings: Settings) -> KeyFile:
    """The keys of this site; those whose time is over are erased. Raises `IdentityError`."""
    path = settings.directories.keys_file
    now_ms = SystemClock().wall_ms()
    found = KeyFile(path)
    if found.ring.pruned(now_ms) is not found.ring:
        with suppress(StorageError):  # not writable for this process; they count no more anyway
            change_ring(path, lambda ring: ring.pruned(now_ms))
        found.refresh()
    return found


def prepare_process() -> None:
    """What every process that moves data does first."""
    keep_buffers()
    allow_open_files()
