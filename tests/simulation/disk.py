"""One host's disk, in memory: what is on it, how full it is, and what a power cut leaves of it.

What is written is in the page cache until fsync or fdatasync of that file, and a name until fsync
of its directory. Direct writes are no more durable than others: a disk has a cache, too. Who uses
the disk are the system calls of `kernel`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.simulation.inodes import PAGE_BYTES, Directory, File, Inode, Link, Meta
from tests.simulation.survival import (
    DirectoryImage,
    Draw,
    EntryChange,
    FileImage,
    Image,
    LinkImage,
    Survival,
    closed,
    image_of,
)

#: As of 2026-01-01: when the disk was made.
MADE_NS = 1_767_225_600_000_000_000
#: The step of a file system's clock, and where in the second it begins: time stamps of two changes
#: within it are the same, and are no whole milliseconds.
TICK_NS = 4_000_000
TICK_OFFSET_NS = 234_567
#: Name changes that wait for a sync; beyond, the oldest are written back, as a journal does.
MAX_ENTRY_CHANGES = 256


@dataclass(frozen=True, kw_only=True)
class DiskFaults:
    """How likely a call fails in each way; `garbage`: see `survival.Draw`.

    A call that Python repeats after EINTR never tells of it, so that is no fault here.
    """

    write_error: float = 0.0
    no_space: float = 0.0
    read_error: float = 0.0
    #: EIO; dirty pages count as clean from then on, written or not.
    sync_error: float = 0.0
    short_write: float = 0.0
    short_read: float = 0.0
    #: EMFILE of whatever makes a descriptor.
    no_descriptor: float = 0.0
    garbage: float = 0.0


NO_FAULTS = DiskFaults()


class Disk:
    """`wall_ns`: the clock of its time stamps. `faults` may be exchanged at any time.

    `device`: the number that stat tells. `boot_id` is another after each crash.
    """

    def __init__(
        self,
        *,
        random: Random,
        faults: DiskFaults = NO_FAULTS,
        capacity_bytes: int = 1 << 40,
        device: int = 0x801,
        wall_ns: Callable[[], int] = lambda: MADE_NS,
    ) -> None:
        self.random = random
        self.faults = faults
        self.capacity_pages = capacity_bytes // PAGE_BYTES
        self.device = device
        self.wall_ns = wall_ns
        self.operation = 0
        self.crashes = 0
        self.syncs = 0
        #: How often a call got EIO or ENOSPC from it.
        self.refusals = 0
        self.boot_id = random.randbytes(16)
        self.used_pages = 1
        self._next_number = 3
        self.root = Directory(2, Meta(0o755, MADE_NS), MADE_NS, None)
        self.entry_log: list[EntryChange] = []

    # ------------------------------------------------------------ time and room

    def now_ns(self) -> int:
        return (self.wall_ns() - TICK_OFFSET_NS) // TICK_NS * TICK_NS + TICK_OFFSET_NS

    def next_operation(self) -> int:
        self.operation += 1
        return self.operation

    @property
    def free_pages(self) -> int:
        return max(0, self.capacity_pages - self.used_pages)

    def charge(self, before: int, after: int) -> None:
        """An inode takes more blocks, or fewer, than before."""
        self.used_pages += after - before

    # ------------------------------------------------------------ inodes and names

    def new_file(self, mode: int) -> File:
        now = self.now_ns()
        return File(self._number(), Meta(mode & 0o7777, now), now)

    def new_directory(self, mode: int, parent: Directory) -> Directory:
        now = self.now_ns()
        self.used_pages += 1
        return Directory(self._number(), Meta(mode & 0o7777, now), now, parent)

    def new_link(self, target: str) -> Link:
        return Link(self._number(), self.now_ns(), target)

    def _number(self) -> int:
        self._next_number += 1
        return self._next_number

    def enter(
        self,
        directory: Directory,
        name: str,
        inode: Inode | None,
        after: EntryChange | None = None,
    ) -> EntryChange:
        """Let a name lead to an inode, or to nothing; durable with the directory's next sync."""
        if inode is None:
            del directory.entries[name]
        else:
            directory.entries[name] = inode
        now = self.now_ns()
        directory.meta = Meta(directory.meta.mode, now)
        directory.ctime_ns = now
        change = EntryChange(self.operation, directory, name, inode, after)
        self.entry_log.append(change)
        if len(self.entry_log) > MAX_ENTRY_CHANGES:
            oldest = closed(self.entry_log, {0}, grow=True) or ()
            self._keep(oldest)
        return change

    def let_go(self, inode: Inode) -> None:
        """Give back the room of what has neither name nor opener any more."""
        if inode.links <= 0 and inode.opened <= 0 and isinstance(inode, File):
            self.charge(inode.block_count, 0)
            inode.links = inode.opened = 0
            inode.allocated = set()

    # ------------------------------------------------------------ content

    def write(self, file: File, offset: int, data: memoryview) -> int:
        """How much was written: less than all where the disk is full. Raises ENOSPC."""
        length = data.nbytes
        first, last = offset // PAGE_BYTES, (offset + length - 1) // PAGE_BYTES
        if self.used_pages + last - first + 1 > self.capacity_pages:
            length = self._fitting(file, offset, length)
            if length <= 0:
                self.refusals += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        before = len(file.allocated)
        file.write(self.next_operation(), offset, data[:length])
        self.charge(before, len(file.allocated))
        self._touch(file)
        return length

    def _fitting(self, file: File, offset: int, length: int) -> int:
        free, at = self.free_pages, offset
        while at < offset + length:
            if at // PAGE_BYTES not in file.allocated:
                if not free:
                    break
                free -= 1
            at = (at // PAGE_BYTES + 1) * PAGE_BYTES
        return min(at, offset + length) - offset

    def truncate(self, file: File, size: int) -> None:
        before = len(file.allocated)
        file.set_size(self.next_operation(), size)
        self.charge(before, len(file.allocated))
        self._touch(file)

    def reserve(self, file: File, offset: int, length: int) -> None:
        """Raises ENOSPC."""
        pages = range(offset // PAGE_BYTES, -(-(offset + length) // PAGE_BYTES))
        wanted = set(pages) - file.allocated
        if len(wanted) > self.free_pages:
            self.refusals += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        file.allocated |= wanted
        self.used_pages += len(wanted)

    def punch(self, file: File, offset: int, length: int) -> None:
        before = len(file.allocated)
        file.punch(self.next_operation(), offset, length)
        self.charge(before, len(file.allocated))
        self._touch(file)

    def set_meta(self, file: Inode, mode: int, mtime_ns: int) -> None:
        meta = Meta(mode & 0o7777, mtime_ns)
        if isinstance(file, File):
            file.set_meta(self.next_operation(), meta)
        else:
            file.meta = meta
        file.ctime_ns = self.now_ns()

    def _touch(self, file: File) -> None:
        now = self.now_ns()
        if file.ctime_ns != now or file.meta.mtime_ns != now:
            file.meta = Meta(file.meta.mode, now)
            file.ctime_ns = now

    # ------------------------------------------------------------ durability

    def sync_directory(self, directory: Directory) -> None:
        log = self.entry_log
        wanted = {each for each, change in enumerate(log) if change.directory is directory}
        if wanted:
            self._keep(closed(log, wanted, grow=True) or ())

    def _keep(self, changes: tuple[EntryChange, ...]) -> None:
        for change in changes:
            if change.inode is None:
                change.directory.kept.pop(change.name, None)
            else:
                change.directory.kept[change.name] = change.inode
        done = set(map(id, changes))
        self.entry_log = [each for each in self.entry_log if id(each) not in done]

    def sync_all(self) -> None:
        """As sync(2): everything that there is."""
        for file in self._files():
            file.sync(data_only=False)
        self._keep(tuple(self.entry_log))

    def image(self, survival: Survival) -> Image:
        """What a crash now would leave. Nothing is changed."""
        return image_of(self.root, self.entry_log, survival)

    def crash(self) -> None:
        """The power is cut: whatever was not synced is kept, lost or torn."""
        self.load(self.image(Draw(self.random, garbage=self.faults.garbage)))
        self.crashes += 1
        self.boot_id = self.random.randbytes(16)

    def load(self, image: Image) -> None:
        """Begin anew with what is on an image. Who has files open must be dead."""
        inodes: dict[int, Inode] = {}
        for number, each in image.inodes.items():
            match each:
                case FileImage():
                    inodes[number] = _file(number, each)
                case LinkImage():
                    inodes[number] = Link(number, each.ctime_ns, each.target)
                case DirectoryImage():
                    inodes[number] = Directory(number, each.meta, each.ctime_ns, None)
        for number, each in image.inodes.items():
            directory = inodes[number]
            if not isinstance(each, DirectoryImage) or not isinstance(directory, Directory):
                continue
            for name, target in each.entries.items():
                inode = inodes[target]
                directory.entries[name] = inode
                if isinstance(inode, Directory):
                    inode.parent = directory
                    directory.links += 1
                else:
                    inode.links += 1
            directory.kept = dict(directory.entries)
        root = inodes[image.root]
        assert isinstance(root, Directory)
        root.parent = root
        self.root = root
        self.entry_log = []
        self._next_number = max(self._next_number, *inodes)
        self.used_pages = sum(each.block_count for each in inodes.values())

    def rot(self, *, bytes_count: int = 1) -> int:
        """Change bytes of durable data, anywhere; returns how many there were to be changed."""
        files = [each for each in self._files() if each.kept]
        changed = 0
        for _ in range(bytes_count if files else 0):
            file = self.random.choice(files)
            index = self.random.choice(sorted(file.kept))
            file.rot(index, self.random.randrange(PAGE_BYTES), self.random.randrange(1, 256))
            changed += 1
        return changed

    def _files(self) -> list[File]:
        found: dict[int, File] = {}
        waiting = [self.root]
        while waiting:
            for inode in waiting.pop().entries.values():
                if isinstance(inode, Directory):
                    waiting.append(inode)
                elif isinstance(inode, File):
                    found[inode.number] = inode
        return list(found.values())


def _file(number: int, image: FileImage) -> File:
    file = File(number, image.meta, image.ctime_ns)
    file.settle(image.size, image.pages, image.allocated)
    return file
