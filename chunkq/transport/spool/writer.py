"""The publishing side on disk: packets into `tmp/`, then `new/`, and how full a mailbox is.

Every call blocks; one thread at a time.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from chunkq.errors import BrokerUnreachable, ChunkqError, Nacked, Unroutable
from chunkq.ports import Clock
from chunkq.protocol.limits import MIB
from chunkq.transport.spool.directories import Places, SpoolDirectories, translate
from chunkq.transport.spool.names import PacketName, parse_packet
from chunkq.transport.spool.options import SpoolOptions
from chunkq.transport.spool.recycling import Reuse
from chunkq.transport.spool.sweeping import has_consumer, remove_file, remove_mailbox

#: The least a file takes on most disks; so empty packets are bounded too.
LEAST_FILE_BYTES: Final = 4096
#: A mailbox is measured again after so long, and after an eighth of its bound was published.
MEASURE_INTERVAL_S: Final = 1.0
MEASURE_SHARE: Final = 8
#: While it is full, publishers that try again see room after so long.
MEASURE_FULL_INTERVAL_S: Final = 0.05
#: What a fleeting mailbox keeps: ten seconds of a hundred processes' reports, of the usual size.
FLEETING_BYTES: Final = 8 * MIB
#: One that has had no consumer for so long is of a process that died.
FLEETING_IDLE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A packet on its way into the directory of a mailbox."""

    directory: str
    name: PacketName
    body: memoryview
    fleeting: bool = False


class SpoolLost(Nacked):
    """The spool itself is gone, and comes back perhaps: back off, then send again."""


def packets_in(directory_fd: int) -> Iterator[PacketName]:
    """What is in an open `new/`, in no order; other names are passed over."""
    with os.scandir(directory_fd) as entries:
        for entry in entries:
            packet = parse_packet(entry.name)
            if packet is not None:
                yield packet


class _Gauge:
    """An estimate of the bytes that wait in one mailbox, put right by looking now and then."""

    def __init__(self, bound: int, clock: Clock) -> None:
        self._bound = bound
        self._clock = clock
        self._bytes = 0
        self._since_bytes = 0
        self._measured_s: float | None = None

    def has_room(self, size: int, new_fd: int) -> bool:
        age_s = None if self._measured_s is None else self._clock.monotonic_s() - self._measured_s
        if (
            age_s is None
            or age_s >= MEASURE_INTERVAL_S
            or self._since_bytes >= self._bound // MEASURE_SHARE
            or (self._bytes + size > self._bound and age_s >= MEASURE_FULL_INTERVAL_S)
        ):
            self._measure(new_fd)
        return self._bytes + size <= self._bound

    def add(self, size: int) -> None:
        self._bytes += size
        self._since_bytes += size

    def _measure(self, new_fd: int) -> None:
        """Add up what waits; what has expired is removed, or it would fill the mailbox of a site
        that is away."""
        now_ms = self._clock.wall_ms()
        self._bytes = self._since_bytes = 0
        for packet in packets_in(new_fd):
            if packet.expired(now_ms):
                remove_file(str(packet), new_fd)
            else:
                self._bytes += max(packet.size_bytes, LEAST_FILE_BYTES)
        self._measured_s = self._clock.monotonic_s()


class SpoolWriter:
    """Writes batches of packets."""

    def __init__(self, options: SpoolOptions, directories: SpoolDirectories, clock: Clock) -> None:
        self._directories = directories
        self._bound = options.queue_bytes
        self._clock = clock
        self._gauges: dict[str, _Gauge] = {}
        self._reuse = Reuse()

    def write(self, batch: Sequence[Outgoing]) -> list[ChunkqError | None]:
        """For each packet None, or the error that its publisher is to see."""
        outcomes: list[ChunkqError | None] = []
        for directory, group in groupby(batch, key=lambda packet: packet.directory):
            packets = list(group)
            try:
                with self._directories.opened(directory) as places:
                    self._reuse.look(directory, places)
                    outcomes += [self._write_one(packet, places) for packet in packets]
            except OSError as error:
                outcomes += [self._failure(error, directory) for _ in packets]
        return outcomes

    def _write_one(self, packet: Outgoing, places: Places) -> ChunkqError | None:
        """Raises nothing, so that of a batch each packet has its own outcome."""
        size = max(packet.name.size_bytes, LEAST_FILE_BYTES)
        gauge = self._gauges.setdefault(packet.directory, _Gauge(self._bound, self._clock))
        name = str(packet.name)
        try:
            if packet.fleeting:
                self._make_way(packet.directory, places, FLEETING_BYTES - size)
            if not gauge.has_room(size, places.new):
                return Nacked(
                    f"mailbox {packet.directory} is full: {self._bound} bytes wait there",
                    hint="start its consumer, or raise the spool's queue_bytes",
                )
            descriptor = self._reuse.take(packet.directory, places, name, packet.body.nbytes)
            if descriptor is None:
                descriptor = self._directories.create_file(name, places.tmp)
            try:
                _write_all(descriptor, packet.body)
            finally:
                os.close(descriptor)
            os.rename(name, name, src_dir_fd=places.tmp, dst_dir_fd=places.new)
        except OSError as error:
            with suppress(OSError):
                os.unlink(name, dir_fd=places.tmp)
            return self._failure(error, packet.directory)
        gauge.add(size)
        return None

    def _make_way(self, directory: str, places: Places, most_bytes: int) -> None:
        """The oldest make way in a fleeting mailbox; without a consumer there is none.

        Raises `FileNotFoundError`: nobody listens.
        """
        if not has_consumer(places):
            age_s = self._clock.wall_ms() / 1000 - os.fstat(places.cur).st_mtime
            if age_s > FLEETING_IDLE_S:  # else one may be about to begin
                remove_mailbox(os.path.join(self._directories.root, directory))
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        packets = sorted(packets_in(places.new), key=str, reverse=True)
        for packet in packets:
            most_bytes -= max(packet.size_bytes, LEAST_FILE_BYTES)
            if most_bytes < 0 or packet.expired(self._clock.wall_ms()):
                remove_file(str(packet), places.new)

    def _failure(self, error: OSError, directory: str) -> ChunkqError:
        if isinstance(error, FileNotFoundError):
            absence = self._directories.absence()
            if absence:
                return SpoolLost(absence)
            return Unroutable(
                f"there is no mailbox {directory} in the spool {self._directories.root}",
                hint="start the other side once, on this directory",
            )
        path = os.path.join(self._directories.root, directory)
        failure = translate(error, f"writing a packet into {path}")
        if isinstance(failure, BrokerUnreachable):
            return SpoolLost(failure.message, hint=failure.hint)
        return failure


def _write_all(descriptor: int, body: memoryview) -> None:
    written = os.write(descriptor, body)
    while written < body.nbytes:
        written += os.write(descriptor, body[written:])
