"""A file system of a few MiB, without asking for anybody's rights: in a namespace of its own.

It goes with the process that holds it, which goes with this one.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

#: What a user without rights needs to mount: a namespace of users, and one of mounts.
UNSHARE = ("unshare", "--user", "--map-root-user", "--mount")


class SmallDisk:
    """`path` is where processes that are started with `prefix` find it; others look at `outside`.

    Raises `RuntimeError` where the kernel forbids namespaces to users.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        path.mkdir(parents=True)
        self.path = path
        script = 'mount -t tmpfs -o "size=$1,mode=700" tmpfs "$2" && echo ready && exec cat'
        self._keeper = subprocess.Popen(
            [*UNSHARE, "sh", "-c", script, "disk", str(size_bytes), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._keeper.stdout is not None
        if self._keeper.stdout.readline() != b"ready\n":
            _, said = self._keeper.communicate()
            raise RuntimeError(f"no small disk: {said.decode(errors='replace').strip()}")
        self._ballast = self.outside / "ballast"

    @property
    def pid(self) -> int:
        return self._keeper.pid

    @property
    def prefix(self) -> list[str]:
        target = ["--target", str(self.pid)]
        return ["nsenter", *target, "--user", "--mount", "--preserve-credentials"]

    @property
    def outside(self) -> Path:
        return Path(f"/proc/{self.pid}/root{self.path}")

    def fill(self, free_bytes: int) -> None:
        """Take the room until so much is left."""
        room = os.statvfs(self.outside)
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - free_bytes))

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """The mount goes with the last process in its namespace."""
        self._keeper.kill()
        self._keeper.communicate()
        self.path.rmdir()
