"""How many bytes each peer was sent in the last day: one small file a peer, shared by a host's
workers under `flock`.

    "CHUNKQUS" | version u32 | reserved u32 | account 32 | 25 x (hour since 1970 u64, bytes u64)

Nothing of it is kept in a process, so the end of one forgets nothing. It is synced after each
`SYNC_BYTES` of a peer, so a power cut forgets as much of each worker at most. A file that is
missing or damaged begins again with nothing used.
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

from chunkq.protocol import day
from chunkq.protocol.limits import GIB, KEY_SIZE_BYTES
from chunkq.storage import descriptors
from chunkq.storage.mapping import storage_errors
from chunkq.storage.wallclock import wall_ms as wall_clock_ms

#: One fdatasync in so many bytes of a peer costs nothing that could be measured, and a day's
#: quota for which that is much is small enough for a minute's page write-back to keep.
SYNC_BYTES: Final = 1 * GIB
_MAGIC: Final = b"CHUNKQUS"
_VERSION: Final = 1
_HEAD: Final = struct.Struct(f">8sII{KEY_SIZE_BYTES}s")
_HOUR: Final = struct.Struct(">QQ")
_SIZE_BYTES: Final = _HEAD.size + day.HOURS * _HOUR.size
_MOST: Final = (1 << 64) - 1
_SUFFIX: Final = ".usage"


class UsageStore:
    """What peers used up, in one directory. An account is the first id of a peer, 32 bytes.

    Thread-safe, and safe among processes. `wall_ms` is for tests to set.
    """

    def __init__(
        self, directory: str | os.PathLike[str], *, wall_ms: Callable[[], int] = wall_clock_ms
    ) -> None:
        self.path = os.path.abspath(directory)
        self._wall_ms = wall_ms
        self._unsynced: Counter[bytes] = Counter()
        self._lock = Lock()

    def take(self, account: bytes, size_bytes: int, limit_bytes: int) -> int:
        """Count so many bytes, if less than the limit (0: none) was used: then 0.

        Else how many ms until it is. So the last answer may go over the limit, by its own size.
        Raises `StorageError`.
        """
        with self._locked(account) as fd:
            hours = _read(fd)
            now_ms = self._wall_ms()
            if limit_bytes and (wait_ms := day.wait_ms(hours, limit_bytes, now_ms)):
                return wait_ms
            _add(fd, hours, size_bytes, now_ms)
        return 0

    def settle(self, account: bytes, change_bytes: int, sent_bytes: int) -> bool:
        """An answer was made, and it had more or fewer bytes than were counted.

        True if it is time to `sync`. Raises `StorageError`.
        """
        if change_bytes:
            with self._locked(account) as fd:
                _add(fd, _read(fd), change_bytes, self._wall_ms())
        with self._lock:
            self._unsynced[account] += sent_bytes
            due = self._unsynced[account] >= SYNC_BYTES
            if due:
                del self._unsynced[account]
        return due

    def sync(self, account: bytes) -> None:
        """Make what was counted durable. Raises `StorageError`."""
        with (
            self._locked(account) as fd,
            storage_errors("fdatasync", self._path(account), sync=True),
        ):
            os.fdatasync(fd)

    def used(self, account: bytes) -> int:
        """Bytes of the last day. Changes nothing. Raises `StorageError`."""
        path = self._path(account)
        with storage_errors("read", path):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:
                return 0
            try:
                raw = descriptors.read_full(fd, 0, _SIZE_BYTES + 1)
            finally:
                os.close(fd)
        return day.total(_hours(raw), self._wall_ms()) if _holds(raw, account) else 0

    # ------------------------------------------------------------ inside

    def _path(self, account: bytes) -> str:
        assert len(account) == KEY_SIZE_BYTES
        return os.path.join(self.path, account.hex() + _SUFFIX)

    @contextmanager
    def _locked(self, account: bytes) -> Iterator[int]:
        """The account's file, whole, and locked against threads and processes."""
        path = self._path(account)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with storage_errors("write", path):
            try:
                fd = os.open(path, flags, 0o600)
            except FileNotFoundError:
                os.makedirs(self.path, mode=0o700, exist_ok=True)
                fd = os.open(path, flags, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if not _holds(descriptors.read_full(fd, 0, _SIZE_BYTES + 1), account):
                    os.ftruncate(fd, 0)
                    head = _HEAD.pack(_MAGIC, _VERSION, 0, account)
                    descriptors.write_full(fd, 0, [head.ljust(_SIZE_BYTES, b"\0")])
                yield fd
            finally:
                os.close(fd)


def _holds(raw: bytes, account: bytes) -> bool:
    return len(raw) == _SIZE_BYTES and raw.startswith(_HEAD.pack(_MAGIC, _VERSION, 0, account))


def _hours(raw: bytes) -> list[day.Used]:
    return list(_HOUR.iter_unpack(raw[_HEAD.size :]))


def _read(fd: int) -> list[day.Used]:
    return _hours(descriptors.read_full(fd, 0, _SIZE_BYTES))


def _add(fd: int, hours: list[day.Used], size_bytes: int, now_ms: int) -> None:
    now_hour = day.hour_at(now_ms)
    place = day.place_of(now_hour)
    hour, used = hours[place]
    if hour != now_hour:
        used = 0
    used = min(max(0, used + size_bytes), _MOST)
    descriptors.write_full(fd, _HEAD.size + place * _HOUR.size, [_HOUR.pack(now_hour, used)])
