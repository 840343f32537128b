"""What a crash leaves of a simulated disk.

Of each page, size and permission that was changed since its last sync, and of each change of a
directory, a `Survival` says what is there afterwards. An `Image` is the outcome: a disk can be
loaded with it. `Draw` throws dice; crash states are enumerated by others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from blake3 import blake3

from tests.simulation.inodes import (
    SECTOR_BYTES,
    SECTORS_PER_PAGE,
    ZERO_PAGE,
    Directory,
    File,
    Inode,
    Link,
    Meta,
    PageVersion,
)


@dataclass(eq=False, slots=True)
class EntryChange:
    """A name in a directory leads to `inode`, or to nothing. `after`: never kept without that."""

    operation: int
    directory: Directory
    name: str
    inode: Inode | None
    after: EntryChange | None = None

    @property
    def place(self) -> tuple[int, str]:
        return self.directory.number, self.name


class Survival(Protocol):
    """What is there after a crash."""

    def file(self, file: File) -> FileImage: ...

    def entries(self, log: Sequence[EntryChange]) -> Sequence[EntryChange]:
        """Those that are kept, in their order, closed as `closed` says."""
        ...


def closed(
    log: Sequence[EntryChange], wanted: set[int], *, grow: bool
) -> tuple[EntryChange, ...] | None:
    """The changes whose positions are `wanted`, if no kept one lacks what it builds upon.

    One name's changes are kept in their order, and the removal of a rename's old name never
    without the new one. `grow`: what is lacking is added instead.
    """
    kept = set(wanted)
    names: set[tuple[int, str]] = set()
    needed: set[int] = set()
    for position in range(len(log) - 1, -1, -1):
        change = log[position]
        if position not in kept and (change.place in names or id(change) in needed):
            if not grow:
                return None
            kept.add(position)
        if position in kept:
            names.add(change.place)
            if change.after is not None:
                needed.add(id(change.after))
    return tuple(log[position] for position in sorted(kept))


class Draw:
    """Each on its own draw; as often as not what a journaling file system would leave.

    `garbage`: how likely a sector that was allocated and never written has an old file's bytes.
    """

    def __init__(self, random: Random, *, garbage: float = 0.0) -> None:
        self._random = random
        self._garbage = garbage

    def file(self, file: File) -> FileImage:
        file.pull()
        choice = self._random.choice
        return file_image(
            file,
            {index: self._page(versions) for index, versions in file.dirty.items()},
            size=choice(file.dirty_sizes)[1] if file.dirty_sizes else file.kept_size,
            meta=choice(file.dirty_metas)[1] if file.dirty_metas else file.kept_meta,
        )

    def _page(self, versions: Sequence[PageVersion]) -> bytes | None:
        draw = self._random.random()
        if draw < 0.25:
            return versions[-1][1]
        if draw < 0.5 and not self._garbage:
            return versions[0][1]
        sectors = []
        for sector in range(SECTORS_PER_PAGE):
            chosen = versions[self._random.randrange(len(versions))][1]
            if chosen is None and self._garbage and self._random.random() < self._garbage:
                sectors.append(self._random.randbytes(SECTOR_BYTES))
            else:
                start = sector * SECTOR_BYTES
                sectors.append((chosen or ZERO_PAGE)[start : start + SECTOR_BYTES])
        return b"".join(sectors)

    def entries(self, log: Sequence[EntryChange]) -> Sequence[EntryChange]:
        count = self._random.randrange(len(log) + 1)
        if self._random.random() < 0.5:  # a journal: all up to some moment
            return log[:count]
        wanted = {each for each in range(len(log)) if self._random.random() < 0.5}
        return closed(log, wanted, grow=True) or ()


# ---------------------------------------------------------------- images


@dataclass(frozen=True, slots=True)
class FileImage:
    """A file as it is durable."""

    meta: Meta
    ctime_ns: int
    size: int
    pages: dict[int, bytes]
    allocated: frozenset[int]


@dataclass(frozen=True, slots=True)
class LinkImage:
    target: str
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class DirectoryImage:
    meta: Meta
    ctime_ns: int
    entries: dict[str, int]


@dataclass(slots=True)
class Image:
    """A whole disk; inodes by number, `root` is the first."""

    root: int
    inodes: dict[int, FileImage | LinkImage | DirectoryImage] = field(default_factory=dict)

    def key(self) -> bytes:
        """Equal for disks on which every process would see the same, inode numbers included."""
        hasher = blake3()
        for number in sorted(self.inodes):
            inode = self.inodes[number]
            match inode:
                case FileImage():
                    hasher.update(repr((number, inode.meta, inode.size)).encode())
                    for index in sorted(inode.pages):
                        hasher.update(index.to_bytes(8, "big")).update(inode.pages[index])
                case LinkImage():
                    hasher.update(repr((number, inode.target)).encode())
                case DirectoryImage():
                    entries = sorted(inode.entries.items())
                    hasher.update(repr((number, inode.meta, entries)).encode())
        return hasher.digest()


def image_of(root: Directory, log: Sequence[EntryChange], survival: Survival) -> Image:
    """What is left of the tree below `root`. Nothing is changed."""
    changes: dict[int, dict[str, Inode | None]] = {}
    for change in survival.entries(log) if log else ():
        changes.setdefault(change.directory.number, {})[change.name] = change.inode
    image = Image(root.number)
    waiting: list[Inode] = [root]
    while waiting:
        inode = waiting.pop()
        if inode.number in image.inodes:
            continue
        if isinstance(inode, Directory):
            kept: dict[str, Inode] = dict(inode.kept)
            for name, leads_to in changes.get(inode.number, {}).items():
                if leads_to is None:
                    kept.pop(name, None)
                else:
                    kept[name] = leads_to
            entries = {name: each.number for name, each in kept.items()}
            image.inodes[inode.number] = DirectoryImage(inode.meta, inode.ctime_ns, entries)
            waiting.extend(reversed(kept.values()))
        elif isinstance(inode, Link):
            image.inodes[inode.number] = LinkImage(inode.target, inode.ctime_ns)
        elif isinstance(inode, File):
            image.inodes[inode.number] = survival.file(inode)
    return image


def file_image(
    file: File, changed: Mapping[int, bytes | None], *, size: int, meta: Meta
) -> FileImage:
    """The durable pages, some of them changed; what lies past the end is never seen again."""
    pages = dict(file.kept)
    for index, page in changed.items():
        if page is None:
            pages.pop(index, None)
        else:
            pages[index] = page
    edge, rest = divmod(size, len(ZERO_PAGE))
    for index in [each for each in pages if each > edge or (each == edge and not rest)]:
        del pages[index]
    if rest and edge in pages:
        pages[edge] = pages[edge][:rest].ljust(len(ZERO_PAGE), b"\0")
    return FileImage(meta, file.ctime_ns, size, pages, file.kept_allocated | pages.keys())
