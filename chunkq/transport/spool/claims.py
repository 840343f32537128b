"""The consuming side on disk: claim packets, read them, let them go, give them back.

Every call blocks; one thread at a time. What is on disk tells everything: the names of the files in
the claim directory are the claims, and the lock in it says that this consumer lives.
"""

from __future__ import annotations

import errno
import fcntl
import heapq
import os
import stat
from collections import deque
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from chunkq.errors import BrokerRefused, BrokerUnreachable, Nacked
from chunkq.ports import Clock
from chunkq.protocol.limits import MIB
from chunkq.transport.spool.directories import Places, SpoolDirectories, open_directory, translate
from chunkq.transport.spool.names import (
    LOCK,
    PacketName,
    consumer_id,
    is_packet,
    parse_packet,
)
from chunkq.transport.spool.options import SpoolOptions
from chunkq.transport.spool.recycling import FreeRoom, clear_free
from chunkq.transport.spool.sweeping import (
    has_consumer,
    move,
    remove_empty,
    remove_file,
    remove_mailbox,
    return_claims,
    sweep,
)

#: Bytes read in one go: a few dozen chunks, so that a hop to the thread costs nothing beside it.
READ_BYTES: Final = 8 * MIB
#: Names kept of one look at the directory, oldest first; it may hold any number.
LISTED_NAMES: Final = 4096
#: Names that are remembered as stuck: 8 MiB. More of them than that and a name less of one look
#: hold a mailbox up, which takes seventy thousand inodes.
MOST_STUCK: Final = 65536
#: Dead consumers of the same mailbox are looked for so often.
SWEEP_INTERVAL_S: Final = 1.0

_READ_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Claim:
    """A packet in the claim directory and its content."""

    name: PacketName
    body: bytes


@dataclass(frozen=True, slots=True)
class Taken:
    """`generation` is the claim directory's; `absence` says why there could be nothing, or ""."""

    generation: int
    claims: list[Claim] = field(default_factory=list)
    absence: str = ""


@dataclass(frozen=True, slots=True)
class LetGo:
    """A claim that is over: acknowledged, or rejected.

    One of an earlier claim directory does no harm: if its packet was claimed again, the name has
    another delivery count.
    """

    name: PacketName
    rejected: bool


class Claims:
    """One consumer's claims on one mailbox."""

    def __init__(
        self,
        options: SpoolOptions,
        directories: SpoolDirectories,
        directory: str,
        clock: Clock,
        *,
        fleeting: bool = False,
    ) -> None:
        """`fleeting`: the mailbox goes with its last consumer."""
        self._fleeting = fleeting
        self._directories = directories
        self._directory = directory
        self._max_message_bytes = options.max_message_bytes
        self._clock = clock
        self._id = ""
        self._lock: int | None = None
        self._generation = 0
        self._listed: deque[str] = deque()
        #: Names in `new/` that are no files, or not ours to move: whoever put them there is not to
        #: hide what comes after them.
        self._stuck: set[str] = set()
        self._next_sweep_s = 0.0
        #: Filled by the event loop, emptied here; both ends of a deque are safe for that.
        self.let_go: deque[LetGo] = deque()

    def attach(self) -> None:
        """Create the mailbox if need be, and a locked claim directory. Raises
        `BrokerUnreachable`, `BrokerRefused`, `Nacked` (no room)."""
        try:
            self._attach()
        except OSError as error:
            raise self._translated(error) from error

    def take(self, count: int) -> Taken:
        """Settle what was let go, then claim and read up to `count` packets or 8 MiB.

        If the spool is gone the claims are abandoned, to be swept like a dead consumer's, and the
        next call looks for it again. Raises `BrokerRefused` where that would not help.
        """
        try:
            if self._lock is None:
                absence = self._directories.absence()
                if absence:
                    return Taken(self._generation, absence=absence)
                self._attach()
            with self._opened() as (places, claims_fd):
                self._settle(places, claims_fd)
                self._sweep_if_due(places)
                return Taken(self._generation, self._claim(count, places, claims_fd))
        except OSError as error:
            self._abandon()
            trouble = self._translated(error)
            if isinstance(trouble, BrokerRefused):
                raise trouble from error
            absence = self._directories.absence()
            if not absence and not isinstance(error, FileNotFoundError):
                absence = trouble.message
            return Taken(self._generation, absence=absence)

    def settle(self) -> None:
        """Unlink what was acknowledged, or leave its file for the next; put aside what was
        rejected. Raises nothing."""
        if self._lock is None:
            self.let_go.clear()
            return
        try:
            with self._opened() as (places, claims_fd):
                self._settle(places, claims_fd)
        except OSError:
            # The claims come back, as from a dead consumer; the next take says what is wrong.
            self._abandon()

    def close(self, unseen: Iterable[PacketName]) -> None:
        """Give back what is left; `unseen` was claimed but never handed out. Raises nothing."""
        self.settle()
        if self._lock is None:
            return
        fresh = {str(name) for name in unseen}
        # Where this fails the next sweep does it, as for a dead consumer.
        with suppress(OSError), self._opened() as (places, claims_fd):
            return_claims(claims_fd, places, unseen=fresh)
            clear_free(places)
            remove_empty(self._id, places.cur)
            if self._fleeting and not has_consumer(places):
                remove_mailbox(os.path.join(self._directories.root, self._directory))
        self._abandon()

    def _attach(self) -> None:
        """The directory is made in `tmp/` and moved once it is locked: no sweeper finds it free."""
        self._directories.create_mailbox(self._directory)
        name = consumer_id(self._clock.wall_ms(), os.urandom(8).hex())
        with self._directories.opened(self._directory) as places:
            self._directories.make(name, places.tmp)
            lock = None
            try:
                claims_fd = open_directory(name, places.tmp)
                try:
                    lock = self._directories.create_file(LOCK, claims_fd)
                finally:
                    os.close(claims_fd)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.rename(name, name, src_dir_fd=places.tmp, dst_dir_fd=places.cur)
            except OSError:
                if lock is not None:
                    os.close(lock)
                remove_empty(name, places.tmp)
                raise
        self._id, self._lock = name, lock
        self._generation += 1
        self._next_sweep_s = self._clock.monotonic_s()

    def _translated(self, error: OSError) -> BrokerRefused | BrokerUnreachable | Nacked:
        path = os.path.join(self._directories.root, self._directory)
        return translate(error, f"consuming from {path}")

    @contextmanager
    def _opened(self) -> Iterator[tuple[Places, int]]:
        """The mailbox's directories and this consumer's claim directory."""
        with self._directories.opened(self._directory) as places:
            claims_fd = open_directory(self._id, places.cur)
            try:
                yield places, claims_fd
            finally:
                os.close(claims_fd)

    def _abandon(self) -> None:
        self.let_go.clear()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _settle(self, places: Places, claims_fd: int) -> None:
        if not self.let_go:
            return
        room = FreeRoom(places, self._clock.wall_ms())
        while self.let_go:
            over = self.let_go.popleft()
            name = str(over.name)
            with suppress(FileNotFoundError):
                if over.rejected:
                    move(name, name, claims_fd, places.dead)
                elif not room.keep(over.name, claims_fd):
                    os.unlink(name, dir_fd=claims_fd)

    def _sweep_if_due(self, places: Places) -> None:
        now_s = self._clock.monotonic_s()
        if now_s < self._next_sweep_s:
            return
        self._next_sweep_s = now_s + SWEEP_INTERVAL_S
        sweep(places, self._id, self._clock.wall_ms())

    def _claim(self, count: int, places: Places, claims_fd: int) -> list[Claim]:
        if not self._listed:
            self._listed.extend(_oldest(places.new, self._stuck))
        now_ms = self._clock.wall_ms()
        claims: list[Claim] = []
        size = 0
        while self._listed and len(claims) < count and size < READ_BYTES:
            packet = parse_packet(self._listed.popleft())
            claim = self._claim_one(packet, places, claims_fd, now_ms) if packet else None
            if claim is not None:
                claims.append(claim)
                size += len(claim.body)
        return claims

    def _claim_one(
        self, packet: PacketName, places: Places, claims_fd: int, now_ms: int
    ) -> Claim | None:
        """None if another consumer was first, its time is over, or it is not what its name says."""
        name = str(packet)
        try:
            if packet.expired(now_ms):
                os.unlink(name, dir_fd=places.new)
                return None
            os.rename(name, name, src_dir_fd=places.new, dst_dir_fd=claims_fd)
        except FileNotFoundError:
            return None
        except (IsADirectoryError, PermissionError):
            if len(self._stuck) < MOST_STUCK:
                self._stuck.add(name)
            return None  # not a file, or not ours to move: it stays where it is
        body = self._read(packet, claims_fd)
        if body is None:
            if not move(name, name, claims_fd, places.dead):
                remove_file(name, claims_fd)
            return None
        return Claim(packet, body)

    def _read(self, packet: PacketName, claims_fd: int) -> bytes | None:
        """The body, if it is a regular file of just the size in its name and not over the limit."""
        try:
            descriptor = os.open(str(packet), _READ_FLAGS, dir_fd=claims_fd)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENXIO, errno.EACCES, errno.EPERM):
                return None
            raise
        try:
            status = os.fstat(descriptor)
            size = packet.size_bytes
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                return None
            if size > self._max_message_bytes:
                return None
            body = os.read(descriptor, size)
            return body if len(body) == size else None
        finally:
            os.close(descriptor)


def _oldest(new_fd: int, stuck: Container[str]) -> list[str]:
    with os.scandir(new_fd) as entries:
        names = (entry.name for entry in entries if is_packet(entry.name))
        return heapq.nsmallest(LISTED_NAMES, (name for name in names if name not in stuck))
