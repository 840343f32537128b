"""Where transfers are under way: the directories that have staging, remembered for `status`."""

from __future__ import annotations

import os
import threading
from hashlib import blake2b

from chunkq.protocol.names import STAGING_NAME
from chunkq.storage.mapping import storage_errors


class Places:
    """Directories, one small file each below a state directory. Raises `StorageError`."""

    def __init__(self, state_dir: str | os.PathLike[str]) -> None:
        self.path = os.path.join(os.path.abspath(state_dir), "places")

    def remember(self, directory: str | os.PathLike[str]) -> None:
        """Transfers are about to be staged in this directory."""
        where = os.fsencode(os.path.abspath(directory))
        name = os.path.join(self.path, blake2b(where, digest_size=16).hexdigest())
        with storage_errors("write", name):
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            if os.path.exists(name):
                return
            temporary = f"{name}.tmp{os.getpid()}-{threading.get_ident()}"
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                os.write(fd, where)
            finally:
                os.close(fd)
            os.replace(temporary, name)

    def all(self) -> list[str]:
        """Those of them that have staging now."""
        found = []
        with storage_errors("readdir", self.path):
            try:
                names = sorted(os.listdir(self.path))
            except FileNotFoundError:
                return []
            for name in names:
                path = os.path.join(self.path, name)
                if ".tmp" in name:
                    continue
                with open(path, "rb") as file:
                    directory = os.fsdecode(file.read())
                if os.path.isdir(os.path.join(directory, STAGING_NAME)):
                    found.append(directory)
        return found
