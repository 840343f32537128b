"""Files of packets that are over, written again for the next ones instead of made anew.

To make a file, ext4 looks at every inode that was freed in the last five seconds and passes over
it: at the rate of a local spool, that took as long as all else that its publisher does. And the
memory behind a removed file goes back to the kernel, to be cleared and handed out again.

So whoever acknowledges a packet moves its file into `free/` while that is not full, and whoever
publishes takes one from there: by a rename, which only one can win, into `tmp/`, where it is
written like any other. Only what was published a moment ago is kept: a courier's directory, or one
whose other side rests, holds nothing of the kind for long; the last to leave clears it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from chunkq.protocol.limits import KIB, MIB
from chunkq.transport.spool.directories import Places
from chunkq.transport.spool.names import PacketName, parse_packet
from chunkq.transport.spool.sweeping import move, remove_file

#: What may lie in `free/`: a commit group, which is acknowledged at once, and some more.
MOST_FREE_BYTES: Final = 80 * MIB
MOST_FREE_FILES: Final = 1024
#: A packet older than this was not published by somebody who would soon want its file.
FRESH_MS: Final = 10_000
#: A file serves for a packet of about its size: no room is given back only to be taken again.
_CLASS_BYTES: Final = 64 * KIB
_FLAGS: Final = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def _size_class(size_bytes: int) -> int:
    return -(-size_bytes // _CLASS_BYTES)


def free_files(places: Places) -> Iterator[PacketName]:
    """What lies in `free/`, in no order."""
    if places.free is not None:
        for name in os.listdir(places.free):
            packet = parse_packet(name)
            if packet is not None:
                yield packet


class FreeRoom:
    """How much more `free/` takes, as of the beginning of one piece of work."""

    def __init__(self, places: Places, now_ms: int) -> None:
        self._places = places
        self._now_ms = now_ms
        self._files = self._bytes = 0
        for packet in free_files(places):
            self._files += 1
            self._bytes += packet.size_bytes

    def keep(self, packet: PacketName, claims_fd: int) -> bool:
        """Move the file of a claim there if that makes sense. Raises `OSError`."""
        full = self._files >= MOST_FREE_FILES or self._bytes + packet.size_bytes > MOST_FREE_BYTES
        fresh = 0 <= self._now_ms - packet.created_ms < FRESH_MS
        if self._places.free is None or full or not fresh:
            return False
        name = str(packet)
        os.rename(name, name, src_dir_fd=claims_fd, dst_dir_fd=self._places.free)
        self._files += 1
        self._bytes += packet.size_bytes
        return True


def clear_free(places: Places) -> None:
    """Remove what lies there: nobody is left who would add to it. Raises `OSError`."""
    for packet in free_files(places):
        assert places.free is not None
        remove_file(str(packet), places.free)


class Reuse:
    """The files that one publisher knows to lie free, by mailbox and size."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int], list[str]] = {}

    def look(self, directory: str, places: Places) -> None:
        """See what is there now."""
        for key in [key for key in self._known if key[0] == directory]:
            del self._known[key]
        for packet in free_files(places):
            key = directory, _size_class(packet.size_bytes)
            self._known.setdefault(key, []).append(str(packet))

    def take(self, directory: str, places: Places, name: str, size_bytes: int) -> int | None:
        """A descriptor, to write, of one that is now `name` in `tmp/`; None if there is none.

        What is not a file of one's own is put aside. Raises `OSError`.
        """
        known = self._known.get((directory, _size_class(size_bytes)), [])
        while known and places.free is not None:
            known_name = known.pop()
            if not move(known_name, name, places.free, places.tmp):
                continue  # another publisher was first, or it was cleared
            descriptor = _open_own(name, places.tmp, size_bytes)
            if descriptor is not None:
                return descriptor
            if not move(name, known_name, places.tmp, places.dead):
                move(name, known_name, places.tmp, places.free)
        return None


def _open_own(name: str, tmp_fd: int, size_bytes: int) -> int | None:
    """Open it if it is a file of this user that has no other name, and cut it to the size."""
    try:
        descriptor = os.open(name, _FLAGS, dir_fd=tmp_fd)
    except OSError:
        return None
    status = os.fstat(descriptor)
    ours = stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and status.st_uid == os.geteuid()
    try:
        if ours and status.st_size > size_bytes:
            os.ftruncate(descriptor, size_bytes)
    except OSError:
        ours = False
    if not ours:
        os.close(descriptor)
        return None
    return descriptor
