"""One peer's replay record as a mapped file.

    0      durable   magic 8 | version u32 | peer 32 | boot id 16 | floor u64
                     | 16 x (epoch u64, ceiling u64, doubtful up to u64) | checksum 32
    4096   volatile  unsynced u64 | 16 x (top u64, busy u64)
    8192   volatile  16 x 8 KiB of bits

The durable part is written with one `pwrite` and synced. The volatile part is worth what the page
cache is worth: nothing after the machine was restarted (another boot id), everything after the end
of a process, but for an entry whose `busy` was left set in the middle of a change. `unsynced` is
set in a new file, whose name may not be durable, and while the durable part is not yet synced.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from blake3 import blake3

from chunkq.errors import StorageError
from chunkq.protocol.limits import DIGEST_SIZE_BYTES, MAX_EPOCHS_PER_PEER
from chunkq.protocol.replay import REPLAY_WINDOW_SIZE_BYTES, ReplayWindow
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.mapping import storage_errors, translate

_MAGIC: Final = b"CHUNKQRP"
_VERSION: Final = 1
_FIXED: Final = struct.Struct(">8sI32s16sQ")
_EPOCH: Final = struct.Struct(">QQQ")
_CONTEXT: Final = "chunkq 1 replay record"
_CHECKED_BYTES: Final = _FIXED.size + MAX_EPOCHS_PER_PEER * _EPOCH.size
_DURABLE_BYTES: Final = _CHECKED_BYTES + DIGEST_SIZE_BYTES
_UNSYNCED_OFFSET: Final = 4096
_UNSYNCED: Final = struct.Struct("=Q")
_MARKS_OFFSET: Final = _UNSYNCED_OFFSET + _UNSYNCED.size
_MARK: Final = struct.Struct("=QQ")
_BITS_OFFSET: Final = 8192
FILE_SIZE_BYTES: Final = _BITS_OFFSET + MAX_EPOCHS_PER_PEER * REPLAY_WINDOW_SIZE_BYTES


class ReplayFileInvalid(Exception):
    """Missing pieces, wrong checksum, or another peer's; never leaves this floor."""


@dataclass(slots=True)
class _Epoch:
    """`epoch` 0 is a free place. Counters up to `doubtful` cannot be told from replays."""

    epoch: int = 0
    ceiling: int = 0
    doubtful: int = 0


@dataclass(slots=True)
class _Durable:
    boot_id: bytes
    floor: int
    epochs: list[_Epoch] = field(
        default_factory=lambda: [_Epoch() for _ in range(MAX_EPOCHS_PER_PEER)]
    )

    def encode(self, peer: bytes) -> bytes:
        parts = [_FIXED.pack(_MAGIC, _VERSION, peer, self.boot_id, self.floor)]
        parts += [_EPOCH.pack(each.epoch, each.ceiling, each.doubtful) for each in self.epochs]
        body = b"".join(parts)
        return body + blake3(body, derive_key_context=_CONTEXT).digest()

    @classmethod
    def decode(cls, raw: bytes, peer: bytes) -> _Durable:
        body, checksum = raw[:_CHECKED_BYTES], raw[_CHECKED_BYTES:]
        if blake3(body, derive_key_context=_CONTEXT).digest() != checksum:
            raise ReplayFileInvalid
        magic, version, owner, boot_id, floor = _FIXED.unpack_from(body)
        if (magic, version, owner) != (_MAGIC, _VERSION, peer):
            raise ReplayFileInvalid
        epochs = [_Epoch(*each) for each in _EPOCH.iter_unpack(body[_FIXED.size :])]
        return cls(boot_id, floor, epochs)


class ReplayFile:
    """Open it, `lock` it, ask and change, `unlock`. Not thread-safe.

    Raises `FileNotFoundError`, `StorageError`.
    """

    def __init__(self, path: str, peer: bytes) -> None:
        self.path = path
        self._peer = peer
        self._raw = b""
        self._durable = _Durable(b"", 0)
        self._map: mmap.mmap | None = None
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise translate(error, "open", path) from error

    @classmethod
    def create(cls, path: str, peer: bytes, *, floor: int, boot_id: bytes, replace: bool) -> None:
        """Write an empty record, whole and durable, in the place of what is there or not."""
        directory, name = os.path.split(path)
        temporary = f"{name}.{os.urandom(8).hex()}{descriptors.TEMPORARY_SUFFIX}"
        # Zeros are written, not left out: a mapped hole on a full disk ends the process (SIGBUS).
        content = bytearray(_Durable(boot_id, floor).encode(peer).ljust(FILE_SIZE_BYTES, b"\0"))
        _UNSYNCED.pack_into(content, _UNSYNCED_OFFSET, 1)  # its name is not durable yet
        with storage_errors("open", directory):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            descriptors.write_new(fd, temporary, path, [content], mode=0o600)
            with storage_errors("rename", path):
                if replace:
                    os.replace(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
                else:
                    with suppress(FileExistsError):
                        descriptors.link_no_clobber(fd, temporary, fd, name)
        finally:
            descriptors.remove_if_there(fd, temporary)
            close(fd)
        _sync_names(directory)

    def close(self) -> None:
        """Close it, which also lets go of its lock."""
        if self._map is not None:
            self._map.close()
        close(self._fd)

    # ------------------------------------------------------------ taking it

    def lock(self, boot_id: bytes) -> bool:
        """Lock and read it; False if the path is another file by now (open that instead).

        Raises `ReplayFileInvalid` with the lock held: replace the file, then close this.
        """
        with storage_errors("flock", self.path):
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            status = os.fstat(self._fd)
            try:
                current = os.path.samestat(status, os.stat(self.path, follow_symlinks=False))
            except FileNotFoundError:
                current = False
        if not current:
            return False
        # Before the map is touched: a page past the end of the file would end the process (SIGBUS).
        if status.st_size != FILE_SIZE_BYTES:
            raise ReplayFileInvalid
        if self._map is None:
            with storage_errors("mmap", self.path):
                self._map = mmap.mmap(self._fd, FILE_SIZE_BYTES)
        self._read()
        if self._durable.boot_id != boot_id:
            self._recover(boot_id)
        return True

    def _read(self) -> None:
        raw = self._mapped[:_DURABLE_BYTES]
        if raw != self._raw:
            self._durable, self._raw = _Durable.decode(raw, self._peer), raw
        if _UNSYNCED.unpack_from(self._mapped, _UNSYNCED_OFFSET)[0]:
            # Whoever made or wrote this ended before it was durable, and it may be read already.
            # Written again, as a sync that failed may have left what it did not write as clean.
            _sync_names(os.path.dirname(self.path))
            with storage_errors("write", self.path):
                descriptors.write_full(self._fd, 0, [raw])
            self._sync()

    @property
    def _mapped(self) -> mmap.mmap:
        assert self._map is not None
        return self._map

    def unlock(self) -> None:
        with storage_errors("flock", self.path):
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _recover(self, boot_id: bytes) -> None:
        """The machine was restarted: what is at or below a ceiling is doubtful for good."""
        for number, each in enumerate(self._durable.epochs):
            each.doubtful = each.ceiling
            self._clear(number, top=each.ceiling)
        self._durable.boot_id = boot_id
        self._write()

    # ------------------------------------------------------------ asking

    def find(self, epoch: int) -> int | None:
        """The number of the entry of `epoch`, or None."""
        for number, each in enumerate(self._durable.epochs):
            if each.epoch == epoch and epoch:
                if self._mark(number)[1]:
                    self._mend(number)
                return number
        return None

    def ceiling(self, number: int) -> int:
        return self._durable.epochs[number].ceiling

    def doubtful_up_to(self, number: int) -> int:
        """Counters up to here cannot be told from replays; -1 if all can."""
        doubtful = self._durable.epochs[number].doubtful
        return doubtful or -1

    @property
    def lowest_acceptable_floor(self) -> int:
        """Only a new epoch above this may begin: the floor, or the oldest entry if all are used."""
        oldest = min(each.epoch for each in self._durable.epochs)
        return max(self._durable.floor, oldest)

    def window(self, number: int) -> ReplayWindow:
        start = _BITS_OFFSET + number * REPLAY_WINDOW_SIZE_BYTES
        bits = memoryview(self._mapped)[start : start + REPLAY_WINDOW_SIZE_BYTES]
        return ReplayWindow(bits, self._mark(number)[0])

    # ------------------------------------------------------------ changing

    def add_epoch(self, epoch: int, ceiling: int) -> int:
        """Begin `epoch` durably in a free place, or in that of the oldest, which is lost."""
        epochs = self._durable.epochs
        number = min(range(len(epochs)), key=lambda each: epochs[each].epoch)
        self._durable.floor = max(self._durable.floor, epochs[number].epoch)
        epochs[number] = _Epoch(epoch, ceiling)
        top = self._mark(number)[0]
        self._set_mark(number, top, busy=1)
        try:
            self._write()
        except StorageError:
            self._set_mark(number, top, busy=0)  # the oldest stands, with all that it remembers
            raise
        self._clear(number, top=0)
        return number

    def raise_ceiling(self, number: int, ceiling: int) -> None:
        """Allow counters up to `ceiling`, durably."""
        self._durable.epochs[number].ceiling = ceiling
        self._write()

    def record(self, number: int, counter: int) -> bool:
        """Set one bit; False if it was set. A crash in between leaves `busy` set."""
        window = self.window(number)
        self._set_mark(number, window.top, busy=1)
        recorded = window.record(counter)
        self._set_mark(number, window.top, busy=0)
        return recorded

    def _mend(self, number: int) -> None:
        """A process ended in the middle of a change: what it had accepted cannot be told."""
        each = self._durable.epochs[number]
        each.doubtful = each.ceiling
        self._write()
        self._clear(number, top=each.ceiling)

    def _mark(self, number: int) -> tuple[int, int]:
        top, busy = _MARK.unpack_from(self._mapped, _MARKS_OFFSET + number * _MARK.size)
        return top, busy

    def _set_mark(self, number: int, top: int, *, busy: int) -> None:
        _MARK.pack_into(self._mapped, _MARKS_OFFSET + number * _MARK.size, top, busy)

    def _clear(self, number: int, *, top: int) -> None:
        start = _BITS_OFFSET + number * REPLAY_WINDOW_SIZE_BYTES
        self._mapped[start : start + REPLAY_WINDOW_SIZE_BYTES] = bytes(REPLAY_WINDOW_SIZE_BYTES)
        self._set_mark(number, top, busy=0)

    def _write(self) -> None:
        """Make the durable part durable. If that fails the old one stands again."""
        before, after = self._raw, self._durable.encode(self._peer)
        _UNSYNCED.pack_into(self._mapped, _UNSYNCED_OFFSET, 1)
        try:
            with storage_errors("write", self.path):
                descriptors.write_full(self._fd, 0, [after])
            self._sync()
        except StorageError:
            # First of all here: what is not on the disk no other worker would know of.
            self._durable = _Durable.decode(before, self._peer)
            with storage_errors("write", self.path):
                descriptors.write_full(self._fd, 0, [before])
            raise
        self._raw = after

    def _sync(self) -> None:
        with storage_errors("fdatasync", self.path, sync=True):
            os.fdatasync(self._fd)
        _UNSYNCED.pack_into(self._mapped, _UNSYNCED_OFFSET, 0)


def _sync_names(directory: str) -> None:
    """Make durable what is named in it, and its own name: it may be new, too."""
    for each in (directory, os.path.dirname(directory)):
        with storage_errors("open", each):
            fd = os.open(each, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with storage_errors("fsync", each, sync=True):
                descriptors.sync_directory(fd)
        finally:
            close(fd)
