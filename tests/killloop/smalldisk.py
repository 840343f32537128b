"""A file system of a few MiB, without asking for anybody's rights: in a namespace of its own.

It goes with the process that holds it, which goes with this one.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

#: Namespaces in which one may mount: a user without rights needs one of users, too. Where that is
#: forbidden, root can do without it.
NAMESPACES = (("--user", "--mount"), ("--mount",))
SCRIPT = 'mount -t tmpfs -o "size=$1,mode=700" tmpfs "$2" && echo ready && exec cat'


class SmallDisk:
    """`path` is where processes that are started with `prefix` find it; others look at `outside`.

    Raises `RuntimeError` where the kernel forbids it.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        path.mkdir(parents=True)
        self.path = path
        said = ""
        for self._namespaces in NAMESPACES:
            self._keeper = self._start(size_bytes)
            assert self._keeper.stdout is not None
            if self._keeper.stdout.readline() == b"ready\n":
                break
            said = self._keeper.communicate()[1].decode(errors="replace").strip()
        else:
            raise RuntimeError(
                f"a small file system cannot be mounted here ({said}): "
                "permit user namespaces (sysctl kernel.unprivileged_userns_clone=1), or be root"
            )
        self._ballast = self.outside / "ballast"

    def _start(self, size_bytes: int) -> subprocess.Popen[bytes]:
        """The process that holds the mount; it ends with the pipe, and so with this process."""
        root = ["--map-root-user"] if "--user" in self._namespaces else []
        shell = ["sh", "-c", SCRIPT, "disk", str(size_bytes), str(self.path)]
        return subprocess.Popen(
            ["unshare", *self._namespaces, *root, *shell],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._keeper.pid

    @property
    def prefix(self) -> list[str]:
        keep = ["--preserve-credentials"] if "--user" in self._namespaces else []
        return ["nsenter", "--target", str(self.pid), *self._namespaces, *keep]

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
