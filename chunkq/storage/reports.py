"""What the processes of this host say of themselves: `reports/<instance>.json`, replaced whole.

Not synced: after a power cut no process is there of which to tell. One that ended well takes its
file away; that of one that died stays for a while, so that it can be seen that it did.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from chunkq.errors import StorageError
from chunkq.protocol.limits import KIB, MIB
from chunkq.protocol.report import Report, fitting
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.kinds import lstat_at
from chunkq.storage.mapping import storage_errors

DIRECTORY_NAME: Final = "reports"
#: Two of the longer intervals at which a process reports: what is older is of one that hangs or is
#: dead.
STALE_S: Final = 10.0
#: What a dead process left is shown for so long, and then swept.
SWEEP_AGE_S: Final = 3600.0
#: Files looked at: more processes than any host runs. One that is larger is no report.
MAX_FILES: Final = 256
MAX_SIZE_BYTES: Final = 1 * MIB
#: What is no transfer in a report, generously.
_ROOM_BYTES: Final = 4 * KIB
_SUFFIX: Final = ".json"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\.json")
#: Of a process that was killed while it wrote.
_HALF_WRITTEN: Final = re.compile(
    rf"{_NAME.pattern}\.[0-9]+{re.escape(descriptors.TEMPORARY_SUFFIX)}"
)


@dataclass(frozen=True, slots=True)
class Filed:
    """A report and how old its file is, by this host's clock; 0 where that was set back."""

    report: Report
    age_s: float

    @property
    def stale(self) -> bool:
        return self.age_s > STALE_S


class Reports:
    """The reports in a state directory. All calls block. `wall_s`: the time of day."""

    def __init__(
        self, state_dir: str | os.PathLike[str], *, wall_s: Callable[[], float] = time.time
    ) -> None:
        self.path = os.path.join(os.path.abspath(state_dir), DIRECTORY_NAME)
        self._wall_s = wall_s

    def write(self, report: Report) -> None:
        """Let it take the place of the last one of that instance. Raises `StorageError`."""
        name = report.instance + _SUFFIX
        if not _NAME.fullmatch(name):
            raise StorageError(f"{report.instance!a} cannot name a report")
        _, raw = fitting(report, MAX_SIZE_BYTES - _ROOM_BYTES, _json)
        directory_fd = self._open(create=True)
        assert directory_fd is not None
        try:
            path = os.path.join(self.path, name)
            descriptors.replace_file(directory_fd, name, path, [raw], durable=False)
        finally:
            close(directory_fd)

    def look(self) -> list[Filed]:
        """All that can be read, by instance. Raises `StorageError` if the directory cannot."""
        directory_fd = self._open(create=False)
        if directory_fd is None:
            return []
        try:
            names = sorted(name for name in self._names(directory_fd) if _NAME.fullmatch(name))
            found = (self._read(directory_fd, name) for name in names[:MAX_FILES])
            return [filed for filed in found if filed is not None]
        finally:
            close(directory_fd)

    def read_all(self) -> list[Report]:
        """As `look`, without the ages."""
        return [filed.report for filed in self.look()]

    def remove(self, instance: str) -> None:
        """This process ends. Raises `StorageError`."""
        if (directory_fd := self._open(create=False)) is None:
            return
        try:
            descriptors.remove_if_there(directory_fd, instance + _SUFFIX)
        finally:
            close(directory_fd)

    def sweep(self) -> int:
        """Remove what dead processes left long ago; how many. Raises `StorageError`."""
        if (directory_fd := self._open(create=False)) is None:
            return 0
        count = 0
        try:
            for name in self._names(directory_fd):
                ours = _NAME.fullmatch(name) or _HALF_WRITTEN.fullmatch(name)
                with storage_errors("stat", os.path.join(self.path, name)):
                    status = lstat_at(directory_fd, name) if ours else None
                # A time to come was written before the clock was set back.
                if status is not None and abs(self._wall_s() - status.st_mtime) > SWEEP_AGE_S:
                    descriptors.remove_if_there(directory_fd, name)
                    count += 1
        finally:
            close(directory_fd)
        return count

    # ------------------------------------------------------------ inside

    def _open(self, *, create: bool) -> int | None:
        """None if there is no such directory."""
        with storage_errors("open", self.path):
            if create:
                os.makedirs(self.path, mode=0o700, exist_ok=True)
            with suppress(FileNotFoundError):
                return os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return None

    def _names(self, directory_fd: int) -> list[str]:
        with storage_errors("readdir", self.path):
            return os.listdir(directory_fd)

    def _read(self, directory_fd: int, name: str) -> Filed | None:
        try:
            path = os.path.join(self.path, name)
            raw = descriptors.read_file(directory_fd, name, path, MAX_SIZE_BYTES)
            status = lstat_at(directory_fd, name)
            if raw is None or status is None:
                return None
            report = Report.model_validate_json(raw, strict=True)
        except (StorageError, OSError, ValueError):
            return None
        if report.instance + _SUFFIX != name:
            return None
        return Filed(report, max(0.0, self._wall_s() - status.st_mtime))


def _json(report: Report) -> bytes:
    return report.model_dump_json(exclude_defaults=True).encode()
