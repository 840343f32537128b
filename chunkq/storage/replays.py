"""Which requests of each peer were acted upon: one mapped file a peer, shared by a host's workers.

Nothing is synced for a single request. Instead each epoch has a durable *ceiling*, raised ahead of
the counters in steps: no counter above it is ever accepted. The bits live in the page cache, which
outlives any process but not the machine; so once the machine was restarted since, whatever lies at
or below a ceiling cannot be told from a replay and is refused with the way out: a new epoch.

An epoch is a requester's start, and its number begins with the time. Those at or below the durable
*floor* are refused for good. A file that is missing or damaged begins again with a floor of now.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final

from chunkq.errors import EpochLost, StorageError
from chunkq.protocol.limits import KEY_SIZE_BYTES
from chunkq.protocol.packet import EPOCH_RANDOM_BITS, RequestId
from chunkq.storage.mapping import storage_errors
from chunkq.storage.replayfile import ReplayFile, ReplayFileInvalid
from chunkq.storage.wallclock import wall_ms as wall_clock_ms

#: A ceiling is raised by as much as the epoch has used so far, between these two: a busy peer costs
#: one fsync in 4096 requests, a quiet one loses few numbers in a power cut.
MIN_STEP: Final = 64
MAX_STEP: Final = 4096
#: Counters are u64.
MAX_COUNTER: Final = (1 << 64) - 1
#: Peers whose files are open at once: 140 KiB of address space and two descriptors each (Python's
#: mmap keeps one of its own).
MAX_OPEN: Final = 128
#: Another process may replace a damaged file under us; more often than this it is something else.
MAX_ATTEMPTS: Final = 20
_BOOT_ID_PATH: Final = "/proc/sys/kernel/random/boot_id"
_SUFFIX: Final = ".replay"


def epoch_floor_at(wall_ms: int) -> int:
    """The floor that refuses every epoch begun up to and including that millisecond."""
    return (wall_ms + 1 << EPOCH_RANDOM_BITS) - 1


def current_boot_id() -> bytes:
    """16 bytes that change when the machine starts; random where the kernel does not tell."""
    try:
        with open(_BOOT_ID_PATH, encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError):
        return os.urandom(16)


class ReplayStore:
    """The replay records of all peers, in one directory. Peers are site ids, 32 bytes.

    Thread-safe, and safe among processes. `boot_id` and `wall_ms` are for tests to set.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        boot_id: bytes | None = None,
        wall_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        """Create the directory (0700) if need be. Raises `StorageError`."""
        self.path = os.path.abspath(directory)
        self._boot_id = current_boot_id() if boot_id is None else boot_id
        self._wall_ms = wall_ms
        self._open: OrderedDict[bytes, ReplayFile] = OrderedDict()
        self._lock = Lock()
        with storage_errors("mkdir", self.path):
            os.makedirs(self.path, mode=0o700, exist_ok=True)

    def create(self, peer: bytes) -> None:
        """Begin the record of a peer that was just added: no epoch of it was ever used.

        A record that is there stays. Raises `StorageError`.
        """
        ReplayFile.create(self._path(peer), peer, floor=0, boot_id=self._boot_id, replace=False)

    def seen(self, peer: bytes, request_id: RequestId) -> bool:
        """Whether this request was acted upon, or is too old to tell. Changes nothing lasting.

        Raises `EpochLost` where the record of its epoch is gone, `StorageError`.
        """
        with self._locked(peer) as file:
            entry = self._entry(file, request_id)
            return entry is not None and file.window(entry).seen(request_id.counter)

    def record(self, peer: bytes, request_id: RequestId) -> bool:
        """Remember a request before acting upon it; False if it was seen: another worker won.

        What is remembered survives the end of every process, and a power cut (as "at or below the
        ceiling"). Raises `EpochLost`, `SyncFailed`, `DiskFull`, `StorageError`: do not act.
        """
        with self._locked(peer) as file:
            entry, counter = self._entry(file, request_id), request_id.counter
            ceiling = min(counter + min(MAX_STEP, max(MIN_STEP, counter)), MAX_COUNTER)
            if entry is None:
                entry = file.add_epoch(request_id.epoch, ceiling)
            elif file.window(entry).seen(counter):
                return False
            elif counter > file.ceiling(entry):
                file.raise_ceiling(entry, ceiling)
            return file.record(entry, counter)

    def close(self) -> None:
        with self._lock:
            for file in self._open.values():
                file.close()
            self._open.clear()

    # ------------------------------------------------------------ inside

    def _path(self, peer: bytes) -> str:
        assert len(peer) == KEY_SIZE_BYTES
        return os.path.join(self.path, peer.hex() + _SUFFIX)

    @staticmethod
    def _entry(file: ReplayFile, request_id: RequestId) -> int | None:
        """Where the epoch is kept; None for a new one that may begin. Raises `EpochLost`."""
        epoch = request_id.epoch
        entry = file.find(epoch)
        if entry is None:
            floor = file.lowest_acceptable_floor
            if epoch > floor:
                return None
            raise EpochLost("this epoch is older than those remembered", epoch_floor=floor)
        if request_id.counter <= file.doubtful_up_to(entry):
            raise EpochLost("the origin was restarted in this epoch", epoch_floor=epoch)
        return entry

    @contextmanager
    def _locked(self, peer: bytes) -> Iterator[ReplayFile]:
        """The peer's file, mapped, checked and locked against threads and processes."""
        with self._lock:
            file = self._obtain(peer)
            try:
                yield file
            finally:
                file.unlock()

    def _obtain(self, peer: bytes) -> ReplayFile:
        path = self._path(peer)
        for _ in range(MAX_ATTEMPTS):
            file = self._open.pop(peer, None)
            try:
                file = file or ReplayFile(path, peer)
                if file.lock(self._boot_id):
                    self._open[peer] = file
                    self._close_oldest()
                    return file
            except FileNotFoundError:
                self._begin_anew(peer, replace=False)
            except ReplayFileInvalid:
                # With the lock of the damaged file held: another worker cannot do it twice.
                try:
                    self._begin_anew(peer, replace=True)
                except BaseException:
                    if file is not None:  # left open, its lock would hold up every worker here
                        file.close()
                    raise
            except StorageError:
                if file is not None:
                    file.close()
                raise
            if file is not None:
                file.close()
        raise StorageError(f"{path} was replaced {MAX_ATTEMPTS} times while being opened")

    def _begin_anew(self, peer: bytes, *, replace: bool) -> None:
        floor = epoch_floor_at(self._wall_ms())
        path = self._path(peer)
        ReplayFile.create(path, peer, floor=floor, boot_id=self._boot_id, replace=replace)

    def _close_oldest(self) -> None:
        while len(self._open) > MAX_OPEN:
            self._open.popitem(last=False)[1].close()
