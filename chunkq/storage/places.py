"""Where transfers are under way: the directories that have staging, remembered for `status`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from chunkq.protocol.names import STAGING_NAME
from chunkq.storage.mapping import storage_errors

#: A directory without staging is forgotten after so long: it may be on a disk that is elsewhere.
FORGET_AFTER_S: Final = 30 * 86400.0
#: What a killed process left half written; no writing takes an hour.
DEBRIS_AGE_S: Final = 3600.0
#: It is looked for what to forget at the first new directory, and then each so many.
NEW_PER_PRUNE: Final = 64
_TEMPORARY: Final = ".tmp"


class Places:
    """Directories, one small file each below a state directory. Raises `StorageError`."""

    def __init__(
        self, state_dir: str | os.PathLike[str], *, wall_s: Callable[[], float] = time.time
    ) -> None:
        self.path = os.path.join(os.path.abspath(state_dir), "places")
        self._wall_s = wall_s
        self._new = 0
        #: A name says which directory, for ever.
        self._known: dict[str, str] = {}

    def remember(self, directory: str | os.PathLike[str]) -> None:
        """Transfers are about to be staged in this directory."""
        where = os.fsencode(os.path.abspath(directory))
        name = os.path.join(self.path, blake2b(where, digest_size=16).hexdigest())
        with storage_errors("write", name):
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            now_s = self._wall_s()
            try:
                os.utime(name, (now_s, now_s))
            except FileNotFoundError:
                self._write(name, where)

    def all(self) -> list[str]:
        """Those of them that have staging now."""
        with storage_errors("readdir", self.path):
            found = (_read(os.path.join(self.path, name)) for name in self._names())
            return [directory for directory in found if directory and _has_staging(directory)]

    def known(self) -> list[str]:
        """Those that are remembered, staging or not; each file is read once by this object."""
        with storage_errors("readdir", self.path):
            names = self._names()
            for name in set(names) - self._known.keys():
                if directory := _read(os.path.join(self.path, name)):
                    self._known[name] = directory
        return [self._known[name] for name in names if name in self._known]

    def _names(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.path) if _TEMPORARY not in name)
        except FileNotFoundError:
            return []

    def _write(self, name: str, where: bytes) -> None:
        temporary = f"{name}{_TEMPORARY}{os.getpid()}-{threading.get_ident()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(fd, where)
            os.utime(fd, (self._wall_s(), self._wall_s()))
        finally:
            os.close(fd)
        os.replace(temporary, name)
        if self._new % NEW_PER_PRUNE == 0:
            self._prune()
        self._new += 1

    def _prune(self) -> None:
        """Forget directories that have had no staging for long, and remove what is half written."""
        for name in os.listdir(self.path):
            path = os.path.join(self.path, name)
            try:
                age_s = self._wall_s() - os.stat(path, follow_symlinks=False).st_mtime
                half = _TEMPORARY in name and age_s > DEBRIS_AGE_S
                if half or (age_s > FORGET_AFTER_S and not _has_staging(_read(path))):
                    os.unlink(path)
            except FileNotFoundError:
                continue  # another process did so


def _read(path: str) -> str:
    """The directory that a file names; empty if it was forgotten this moment."""
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read())
    except FileNotFoundError:
        return ""


def _has_staging(directory: str) -> bool:
    return os.path.isdir(os.path.join(directory, STAGING_NAME))
