"""Every state that a crash may leave of a simulated disk: nothing is drawn, nothing left out.

Of each operation that was not synced any part may be there: of a write none, all, or the sectors
that a `PATTERNS` entry says; of a file's size and permissions any version; of the changes of names
every subset that `survival.closed` allows. States that are the same to every process are one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from itertools import product

from tests.simulation.disk import Disk
from tests.simulation.inodes import (
    SECTOR_BYTES,
    SECTORS_PER_PAGE,
    ZERO_PAGE,
    Directory,
    File,
    Inode,
    PageVersion,
)
from tests.simulation.process import Process
from tests.simulation.survival import EntryChange, FileImage, Image, closed, file_image, image_of

#: Whether the sector `number` of a write of `count` sectors is kept.
Pattern = Callable[[int, int], bool]
PATTERNS: Mapping[str, Pattern] = {
    "none": lambda number, count: False,
    "all": lambda number, count: True,
    "first half": lambda number, count: number < count // 2,
    "second half": lambda number, count: number >= count // 2,
    "first only": lambda number, count: number == 0,
    "last only": lambda number, count: number == count - 1,
    "all but the first": lambda number, count: number > 0,
    "all but the last": lambda number, count: number < count - 1,
    "every other": lambda number, count: number % 2 == 0,
    "every other page": lambda number, count: number // SECTORS_PER_PAGE % 2 == 0,
    "the others": lambda number, count: number % 2 == 1,
    "the other pages": lambda number, count: number // SECTORS_PER_PAGE % 2 == 1,
}
#: More changes of names than this at once would be 2^n subsets to look at.
MAX_ENTRY_CHANGES = 14
#: Of changes made in a mapping nobody knows which was when: they are one operation.
_MAPPED = -1


class Chosen:
    """A `survival.Survival` that was decided beforehand."""

    def __init__(self, kept: Sequence[EntryChange], files: Mapping[int, FileImage]) -> None:
        self._kept = kept
        self._files = files

    def file(self, file: File) -> FileImage:
        return self._files[file.number]

    def entries(self, log: Sequence[EntryChange]) -> Sequence[EntryChange]:
        return self._kept


def crash_images(disk: Disk) -> Iterator[Image]:
    """What a crash at this moment may leave; some of them may be equal."""
    variants: dict[int, list[FileImage]] = {}
    for kept in kept_names(disk.entry_log):
        files = _reachable(disk.root, kept)
        for file in files:
            if file.number not in variants:
                variants[file.number] = file_variants(file)
        for chosen in product(*(variants[file.number] for file in files)):
            images = {file.number: image for file, image in zip(files, chosen, strict=True)}
            yield image_of(disk.root, disk.entry_log, Chosen(kept, images))


def kept_names(log: Sequence[EntryChange]) -> Iterator[tuple[EntryChange, ...]]:
    """Every set of changes of names that may be there, each in its order."""
    assert len(log) <= MAX_ENTRY_CHANGES, f"{len(log)} changes of names without a sync"
    for bits in range(1 << len(log)):
        wanted = {each for each in range(len(log)) if bits >> each & 1}
        kept = closed(log, wanted, grow=False)
        if kept is not None:
            yield kept


def _reachable(root: Directory, kept: Sequence[EntryChange]) -> list[File]:
    changes: dict[int, dict[str, Inode | None]] = {}
    for change in kept:
        changes.setdefault(change.directory.number, {})[change.name] = change.inode
    found: dict[int, File] = {}
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        entries = {**directory.kept, **changes.get(directory.number, {})}
        for inode in entries.values():
            if isinstance(inode, Directory):
                waiting.append(inode)
            elif isinstance(inode, File):
                found[inode.number] = inode
    return list(found.values())


def file_variants(file: File) -> list[FileImage]:
    """What may be there of a file, each outcome once."""
    file.pull()
    operations = sorted({op for versions in file.dirty.values() for op, _ in versions[1:]})
    sizes = sorted({size for _, size in file.dirty_sizes} or {file.kept_size})
    metas = list(dict.fromkeys(meta for _, meta in file.dirty_metas)) or [file.kept_meta]
    contents: dict[tuple[tuple[int, bytes | None], ...], dict[int, bytes | None]] = {}
    for patterns in product(PATTERNS.values(), repeat=len(operations)):
        chosen = dict(zip(operations, patterns, strict=True))
        pages = {
            index: _page(file, index, versions, chosen) for index, versions in file.dirty.items()
        }
        contents.setdefault(tuple(pages.items()), pages)
    found: dict[Hashable, FileImage] = {}
    for pages, size, meta in product(contents.values(), sizes, metas):
        image = file_image(file, pages, size=size, meta=meta)
        found.setdefault((meta, size, tuple(sorted(image.pages.items()))), image)
    return list(found.values())


def _page(
    file: File, index: int, versions: Sequence[PageVersion], chosen: Mapping[int, Pattern]
) -> bytes | None:
    """Of each sector the latest version whose operation changed it and is kept there."""
    sectors = []
    hole = True
    for sector in range(SECTORS_PER_PAGE):
        begin = sector * SECTOR_BYTES
        content = versions[0][1]
        before = versions[0][1]
        for operation, page in versions[1:]:
            changed = (page or ZERO_PAGE)[begin : begin + SECTOR_BYTES] != (before or ZERO_PAGE)[
                begin : begin + SECTOR_BYTES
            ]
            if changed and _is_kept(file, operation, index * SECTORS_PER_PAGE + sector, chosen):
                content = page
            before = page
        hole = hole and content is None
        sectors.append((content or ZERO_PAGE)[begin : begin + SECTOR_BYTES])
    return None if hole else b"".join(sectors)


def _is_kept(file: File, operation: int, sector: int, chosen: Mapping[int, Pattern]) -> bool:
    start, stop = file.writes.get(operation, (0, 0))
    if operation == _MAPPED or stop <= start:
        return chosen[operation](0, 1)
    first, end = start // SECTOR_BYTES, -(-stop // SECTOR_BYTES)
    if not first <= sector < end:  # past the end of what is written: a truncation
        return chosen[operation](0, 1)
    return chosen[operation](sector - first, end - first)


class Recorder:
    """Takes down every state that a crash may leave, before each call of a host's processes.

    `told()` says what the world has been told by then, which must hold after the crash: a state is
    another one if that differs.
    """

    def __init__(self, disk: Disk, host: str, told: Callable[[], Hashable]) -> None:
        self.states: dict[tuple[bytes, Hashable], Image] = {}
        self.prefixes = 0
        self.enumerated = 0
        self._disk = disk
        self._host = host
        self._told = told
        self._last: Hashable = None

    def before_call(self, process: Process, name: str, arguments: tuple[object, ...]) -> None:
        """The kernel's hook."""
        if process.host == self._host:
            self.take()

    def take(self) -> None:
        """The states of this moment."""
        self.prefixes += 1
        told = self._told()
        moment = (self._disk.operation, _unsynced(self._disk), told)
        if moment == self._last:
            return
        self._last = moment
        for image in crash_images(self._disk):
            self.enumerated += 1
            self.states.setdefault((image.key(), told), image)


def _unsynced(disk: Disk) -> Hashable:
    """Changes with each sync."""
    return disk.syncs, len(disk.entry_log)
