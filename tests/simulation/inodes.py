"""What lies on a simulated disk: files, directories and links, as seen and as durable.

Every change belongs to an operation, counted by its disk. Of a page of a file, of its size and of
its permissions all versions since the last sync are kept: after a crash any of them may be there.
Pages are never changed, only replaced, so versions and images of a disk share them.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from random import Random

PAGE_BYTES = 4096
SECTOR_BYTES = 512
SECTORS_PER_PAGE = PAGE_BYTES // SECTOR_BYTES
ZERO_PAGE = bytes(PAGE_BYTES)
#: Versions of one page that are remembered between two syncs: a counter that is written over and
#: over would fill the memory. Those in between go first.
MAX_VERSIONS = 16
#: Operations on one file that are remembered between two syncs.
MAX_WRITES = 1024

#: Which operation wrote it, and what; None: a hole. The first of a list is what was durable.
PageVersion = tuple[int, bytes | None]


@dataclass(frozen=True, slots=True)
class Meta:
    """Permission bits and time of change of the content."""

    mode: int
    mtime_ns: int


class Mapped(bytearray):
    """What `mmap.mmap` returns: the content of a file that can be changed in place."""

    def close(self) -> None:
        """The mapping goes with the process that has it."""


class Inode:
    """`opened`: how many open descriptions there are. `locks`: who holds it by flock."""

    kind = 0

    def __init__(self, number: int, meta: Meta, now_ns: int) -> None:
        self.number = number
        self.meta = meta
        self.ctime_ns = now_ns
        self.links = 0
        self.opened = 0
        #: Made without a name: the only one without that may be given one.
        self.nameless = False
        self.locks: dict[object, bool] = {}

    @property
    def size(self) -> int:
        return 0

    @property
    def block_count(self) -> int:
        """Pages that it takes on the disk."""
        return 0

    def status(self, device: int) -> os.stat_result:
        meta, ctime = self.meta, self.ctime_ns
        mtime = meta.mtime_ns
        fields = (
            self.kind | meta.mode,
            self.number,
            device,
            self.links,
            _UID,
            _GID,
            self.size,
            mtime // 1_000_000_000,
            mtime // 1_000_000_000,
            ctime // 1_000_000_000,
        )
        return os.stat_result(
            fields,
            {
                "st_atime": mtime / 1e9,
                "st_mtime": mtime / 1e9,
                "st_ctime": ctime / 1e9,
                "st_atime_ns": mtime,
                "st_mtime_ns": mtime,
                "st_ctime_ns": ctime,
                "st_blksize": PAGE_BYTES,
                "st_blocks": self.block_count * SECTORS_PER_PAGE,
                "st_rdev": 0,
            },
        )


_UID, _GID = os.geteuid(), os.getegid()


class Link(Inode):
    """A symbolic link."""

    kind = stat.S_IFLNK

    def __init__(self, number: int, now_ns: int, target: str) -> None:
        super().__init__(number, Meta(0o777, now_ns), now_ns)
        self.target = target

    @property
    def size(self) -> int:
        return len(os.fsencode(self.target))


class Directory(Inode):
    """`entries` as processes see them, `kept` as they are durable."""

    kind = stat.S_IFDIR

    def __init__(self, number: int, meta: Meta, now_ns: int, parent: Directory | None) -> None:
        super().__init__(number, meta, now_ns)
        self.entries: dict[str, Inode] = {}
        self.kept: dict[str, Inode] = {}
        self.parent = parent or self
        self.removed = False
        self.links = 2

    @property
    def size(self) -> int:
        return PAGE_BYTES

    @property
    def block_count(self) -> int:
        return 1


class File(Inode):
    """A regular file.

    `pages`: the page cache, all of it; `kept`: what the disk has; `dirty`: what a crash may leave
    instead. `lost`: pages that a failed sync marked clean though the disk has something else.
    """

    kind = stat.S_IFREG

    def __init__(self, number: int, meta: Meta, now_ns: int) -> None:
        super().__init__(number, meta, now_ns)
        self._size = 0
        self.pages: dict[int, bytes] = {}
        self.allocated: set[int] = set()
        self.kept: dict[int, bytes] = {}
        self.kept_size = 0
        self.kept_meta = meta
        self.kept_allocated: frozenset[int] = frozenset()
        self.dirty: dict[int, list[PageVersion]] = {}
        self.dirty_sizes: list[tuple[int, int]] = []
        self.dirty_metas: list[tuple[int, Meta]] = []
        #: The bytes `(start, stop)` that each operation wrote since the last sync.
        self.writes: dict[int, tuple[int, int]] = {}
        self.lost: set[int] = set()
        self.mapped: Mapped | None = None

    @property
    def size(self) -> int:
        return self._size

    @property
    def block_count(self) -> int:
        return len(self.allocated)

    # ------------------------------------------------------------ content

    def read(self, offset: int, length: int, *, direct: bool = False) -> bytes:
        """As a process sees it; `direct`: as the disk has it once what is dirty was written."""
        if self.mapped is not None:
            self.pull()
        stop = min(offset + length, self._size)
        if stop <= offset:
            return b""
        first, last = offset // PAGE_BYTES, (stop - 1) // PAGE_BYTES
        pages = self.pages
        if direct and self.lost:
            pages = {**pages, **{each: self.kept.get(each, ZERO_PAGE) for each in self.lost}}
        begin = offset - first * PAGE_BYTES
        if first == last:
            return pages.get(first, ZERO_PAGE)[begin : begin + stop - offset]
        whole = b"".join([pages.get(each, ZERO_PAGE) for each in range(first, last + 1)])
        return whole[begin : begin + stop - offset]

    def write(self, operation: int, offset: int, data: memoryview) -> None:
        """The caller has made room for it."""
        if self.mapped is not None:
            self.pull()
        length = data.nbytes
        if not length:
            return
        at = 0
        while at < length:
            index, skip = divmod(offset + at, PAGE_BYTES)
            take = min(PAGE_BYTES - skip, length - at)
            if take == PAGE_BYTES:
                page = bytes(data[at : at + take])
            else:
                old = self.pages.get(index, ZERO_PAGE)
                page = b"".join((old[:skip], data[at : at + take], old[skip + take :]))
            self._put(operation, index, page)
            at += take
        self._note(operation, offset, offset + length)
        if self.mapped is not None:
            end = min(offset + length, len(self.mapped))
            self.mapped[offset:end] = data[: max(0, end - offset)]
        if offset + length > self._size:
            self.set_size(operation, offset + length)

    def set_size(self, operation: int, size: int) -> None:
        if size < self._size:
            edge = -(-size // PAGE_BYTES)
            for index in [each for each in self.pages if each >= edge]:
                self._put(operation, index, None)
            self.allocated -= {each for each in self.allocated if each >= edge}
            if (skip := size % PAGE_BYTES) and size // PAGE_BYTES in self.pages:
                last = self.pages[size // PAGE_BYTES]
                self._put(operation, size // PAGE_BYTES, last[:skip].ljust(PAGE_BYTES, b"\0"))
        if not self.dirty_sizes:
            self.dirty_sizes.append((0, self.kept_size))
        self.dirty_sizes.append((operation, size))
        if len(self.dirty_sizes) > MAX_VERSIONS:
            del self.dirty_sizes[1]
        self._note(operation, 0, 0)
        self._size = size

    def punch(self, operation: int, offset: int, length: int) -> None:
        """Holes for whole pages, zeros for the rest."""
        stop = offset + length
        if stop > self._size:  # to the end of the last page
            stop = -(-self._size // PAGE_BYTES) * PAGE_BYTES
        first, last = -(-offset // PAGE_BYTES), stop // PAGE_BYTES
        if offset < stop and last < first:
            self._zero(operation, offset, stop)
            return
        self._zero(operation, offset, min(first * PAGE_BYTES, stop))
        self._zero(operation, max(last * PAGE_BYTES, offset), stop)
        for index in range(first, last):
            if index in self.pages:
                self._put(operation, index, None)
            self.allocated.discard(index)
        self._note(operation, offset, stop)

    def _note(self, operation: int, start: int, stop: int) -> None:
        """Remember what the operation touched: nothing for a size or permissions."""
        self.writes.setdefault(operation, (start, stop))
        if len(self.writes) > MAX_WRITES:
            del self.writes[next(iter(self.writes))]

    def _zero(self, operation: int, start: int, stop: int) -> None:
        index = start // PAGE_BYTES
        if start < stop and index in self.pages:
            page, skip = self.pages[index], start % PAGE_BYTES
            zeros = bytes(stop - start)
            self._put(operation, index, page[:skip] + zeros + page[skip + len(zeros) :])

    def _put(self, operation: int, index: int, page: bytes | None) -> None:
        versions = self.dirty.get(index)
        if versions is None:
            self.dirty[index] = [(0, self.kept.get(index)), (operation, page)]
        elif versions[-1][0] == operation:
            versions[-1] = (operation, page)
        else:
            versions.append((operation, page))
            if len(versions) > MAX_VERSIONS:
                del versions[1]
        if page is None:
            self.pages.pop(index, None)
        else:
            self.pages[index] = page
            self.allocated.add(index)
        self.lost.discard(index)

    def data_end(self, offset: int) -> int:
        """Where the run of data pages around `offset` ends, at most the size."""
        index = offset // PAGE_BYTES
        while index in self.pages and index * PAGE_BYTES < self._size:
            index += 1
        return max(offset, min(index * PAGE_BYTES, self._size))

    def data_start(self, offset: int) -> int | None:
        """Where data begins at or behind `offset`; None: there is none."""
        index = offset // PAGE_BYTES
        if index in self.pages:
            return offset
        after = min((each for each in self.pages if each > index), default=None)
        if after is None or after * PAGE_BYTES >= self._size:
            return None
        return after * PAGE_BYTES

    # ------------------------------------------------------------ mapping

    def map(self, length: int) -> Mapped:
        """Shared by all that map the file."""
        if self.mapped is None or len(self.mapped) != length:
            self.mapped = Mapped(self.read(0, length).ljust(length, b"\0"))
        return self.mapped

    def pull(self) -> None:
        """Take over what was changed in the mapping: as a write of nobody (operation -1)."""
        if self.mapped is None:
            return
        data = bytes(self.mapped)  # slices of bytes are compared faster than those of a view
        for index in range(len(data) // PAGE_BYTES):
            page = data[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]
            if page != self.pages.get(index, ZERO_PAGE):
                self._put(-1, index, page)

    # ------------------------------------------------------------ durability

    def settle(self, size: int, pages: dict[int, bytes], allocated: frozenset[int]) -> None:
        """Be as an image has it: all of it durable."""
        self._size = self.kept_size = size
        self.pages, self.kept = dict(pages), dict(pages)
        self.allocated, self.kept_allocated = set(allocated), allocated

    def set_meta(self, operation: int, meta: Meta) -> None:
        if not self.dirty_metas:
            self.dirty_metas.append((0, self.kept_meta))
        self.dirty_metas.append((operation, meta))
        self._note(operation, 0, 0)
        self.meta = meta

    def sync(self, *, data_only: bool) -> None:
        """fsync, or fdatasync: all but permissions and times."""
        self.pull()
        for index, versions in self.dirty.items():
            page = versions[-1][1]
            if page is None:
                self.kept.pop(index, None)
            else:
                self.kept[index] = page
        self.dirty.clear()
        self.writes.clear()
        self.dirty_sizes.clear()
        self.kept_size = self._size
        if len(self.kept_allocated) != len(self.allocated) or self.kept_allocated != self.allocated:
            self.kept_allocated = frozenset(self.allocated)
        if not data_only:
            self.dirty_metas.clear()
            self.kept_meta = self.meta
        for operation, _ in self.dirty_metas[1:]:
            self.writes[operation] = (0, 0)

    def fail_sync(self, random: Random) -> None:
        """Some dirty pages were written, the others never will be, and all count as clean."""
        self.pull()
        for index, versions in self.dirty.items():
            page = versions[-1][1]
            if random.random() < 0.5:
                self.lost.add(index)
            elif page is None:
                self.kept.pop(index, None)
            else:
                self.kept[index] = page
        self.dirty.clear()
        if random.random() < 0.5:  # some file systems read the disk again at once
            self.drop_lost()

    def drop_lost(self) -> None:
        """Let go of cached pages that are clean: the disk has something else in these."""
        for index in sorted(self.lost):
            if index in self.kept:
                self.pages[index] = self.kept[index]
            else:
                self.pages.pop(index, None)
        self.lost.clear()

    def rot(self, index: int, position: int, flip: int) -> None:
        """One byte on the disk changes; the cache has it no more."""
        if index in self.dirty or index not in self.kept:
            return
        page = bytearray(self.kept[index])
        page[position] ^= flip
        self.kept[index] = bytes(page)
        self.pages[index] = self.kept[index]
        if self.mapped is not None:
            self.mapped[index * PAGE_BYTES : (index + 1) * PAGE_BYTES] = self.kept[index]
