"""The loop that compares received files with what was received, on a thread of its own."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from chunkq.errors import Stopped, StorageError
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.checking import Checked, Instead, Mark, Received, Verdict, judge_page
from chunkq.protocol.fileidentity import FileIdentity
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.limits import MIB
from chunkq.protocol.manifest import Head, is_zero_page, zero_leaves
from chunkq.protocol.messages import ManifestReply

#: How far a file is, is noted so often: a second on a fast disk, some seconds on a slow one.
MARK_BYTES: Final = 512 * MIB
#: What other bytes under the same size and time mean.
DAMAGE: Final = "it is damaged: nobody wrote to it (same size, same time), and its bytes are others"


class FileNow(Protocol):
    """A received file as it is now, open. Calls block. All raise `StorageError`."""

    identity: FileIdentity

    @property
    def changed(self) -> bool:
        """Whether it was written to since it was opened."""
        ...

    def page(self, geometry: Geometry, page: int) -> bytes:
        """The digests of the chunks of a page as they are in the file, packed."""
        ...

    def in_hole(self, geometry: Geometry, page: int) -> bool:
        """Whether no byte of a page is on the disk."""
        ...

    def digest(self) -> bytes:
        """The content digest of all of it, 32 bytes."""
        ...

    def close(self) -> None: ...


class KeptManifest(Protocol):
    """The signed manifest of a received file. Calls block."""

    manifest: ManifestReply
    head: Head

    def page(self, page: int) -> bytes | None:
        """The leaves of a page, checked against the head; None if they are lost."""
        ...


class Marks(Protocol):
    """Where a comparison stands, across restarts. Calls block."""

    def get(self, path: str) -> Mark | None: ...

    def note(self, mark: Mark) -> None:
        """Kept within a second or so, and by `flush`."""
        ...

    def flush(self) -> None: ...


class Opener(Protocol):
    """The files as they are. Blocks."""

    def __call__(self, path: str, /) -> FileNow | Instead: ...


@dataclass(slots=True)
class Standing:
    """Where the comparison is; read by others while it runs. `resumed`: files taken over."""

    path: str = ""
    files_done: int = 0
    files_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    resumed: int = 0


class Verifying:
    """Compares files one after the other. All of it blocks, but `stop`.

    `load`: the kept manifest of a file, if there is one. `on_checked` hears of each.
    """

    def __init__(
        self,
        open_file: Opener,
        load: Callable[[Received], KeptManifest | None],
        marks: Marks,
        on_checked: Callable[[Checked], None],
    ) -> None:
        self._open = open_file
        self._load = load
        self._marks = marks
        self._on_checked = on_checked
        self._stopped = False
        self.standing = Standing()

    def stop(self) -> None:
        """End soon, resumably; from any thread."""
        self._stopped = True

    def on_read(self, length: int) -> None:
        """Bytes were read. Raises `Stopped` after `stop`."""
        self.standing.bytes_done += length
        self._check_stopped()

    def run(self, expected: Iterable[Received]) -> None:
        """Compare all of them. Raises `Stopped`, `StorageError` for the marks."""
        entries = list(expected)
        self.standing.files_total = len(entries)
        self.standing.bytes_total = sum(entry.size_bytes for entry in entries)
        ended_bytes = 0
        try:
            for entry in entries:
                self._check_stopped()
                self.standing.path = entry.path
                self._on_checked(self._check(entry))
                ended_bytes += entry.size_bytes
                self.standing.files_done += 1
                self.standing.bytes_done = ended_bytes
        finally:
            with suppress(StorageError):
                self._marks.flush()

    def _check_stopped(self) -> None:
        if self._stopped:
            raise Stopped("stopped", hint="run the same command to go on")

    def _check(self, entry: Received) -> Checked:
        now = self._open(entry.path)
        if isinstance(now, Instead):
            return _checked(entry, now.verdict, now.detail)
        try:
            return self._compare(entry, now)
        except StorageError as error:
            lost = isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO
            verdict = Verdict.DAMAGED if lost else Verdict.UNREADABLE
            unknown = Mark(path=entry.path, identity=now.identity, version="")
            return _checked(entry, verdict, error.message, unknown)
        finally:
            now.close()

    def _compare(self, entry: Received, now: FileNow) -> Checked:
        kept = self._load(entry) if entry.root else None
        geometry = kept.head.geometry if kept is not None else None
        mark = self._marks.get(entry.path)
        if mark is None or (mark.identity, mark.version) != (now.identity, _version(entry)):
            mark = Mark(path=entry.path, identity=now.identity, version=_version(entry))
        elif mark.verdict is not None and (mark.good is None) == (geometry is None):
            self.standing.resumed += 1
            return _checked(entry, mark.verdict, mark.detail, mark, geometry)
        if kept is None:
            mark = _judged(mark, entry, whole=now.digest().hex() == entry.blake3)
        else:
            mark = self._by_pages(kept, now, mark)
            assert mark.good is not None
            whole = mark.good.complete and now.identity.size_bytes == entry.size_bytes
            mark = _judged(mark, entry, whole=whole)
        if now.changed:  # not noted: it is read again next time
            detail = "it was written to while it was read"
            return _checked(entry, Verdict.CHANGED, detail, mark, geometry)
        self._keep(mark)
        assert mark.verdict is not None
        return _checked(entry, mark.verdict, mark.detail, mark, geometry)

    def _by_pages(self, kept: KeptManifest, now: FileNow, mark: Mark) -> Mark:
        head = kept.head
        geometry = head.geometry
        good, exact = mark.good, mark.exact
        if good is None or good.count != geometry.chunk_count:
            mark = _under_way(mark, Bitmap(geometry.chunk_count), 0, True)
            good, exact = mark.good, True
        assert good is not None
        unnoted = 0
        done = _page_bytes(geometry, range(mark.next_page))
        self.standing.bytes_done += done
        for page in range(mark.next_page, geometry.page_count):
            exact &= self._page(head, kept, now, page, good)
            unnoted += _page_bytes(geometry, range(page, page + 1))
            if unnoted >= MARK_BYTES:
                unnoted = 0
                mark = _under_way(mark, good, page + 1, exact)
                self._keep(mark)
        return _under_way(mark, good, geometry.page_count, exact)

    def _keep(self, mark: Mark) -> None:
        with suppress(StorageError):  # what cannot be noted is compared again by the next run
            self._marks.note(mark)

    def _page(self, head: Head, kept: KeptManifest, now: FileNow, page: int, good: Bitmap) -> bool:
        """Compare one page; False if it is wrong and its leaves are lost."""
        geometry = head.geometry
        chunks = geometry.page_chunks(page)
        is_zero = is_zero_page(head, page)
        if is_zero and now.in_hole(geometry, page):
            good.fill(chunks.start, len(chunks))
            self.on_read(_page_bytes(geometry, range(page, page + 1)))
            return True
        found = now.page(geometry, page)
        before = good.present
        judge_page(head, page, found, None, good)
        if good.present - before == len(chunks):
            return True
        # A page of holes is told by the head, so it was never sent.
        leaves = zero_leaves(geometry, page) if is_zero else kept.page(page)
        judge_page(head, page, found, leaves, good)
        return leaves is not None


def _page_bytes(geometry: Geometry, pages: range) -> int:
    if not pages:
        return 0
    first, last = geometry.page_chunks(pages[0]), geometry.page_chunks(pages[-1])
    end = geometry.offset(last[-1]) + geometry.length(last[-1])
    return end - geometry.offset(first[0])


def _version(entry: Received) -> str:
    return f"{entry.blake3}.{entry.root}"


def _under_way(mark: Mark, good: Bitmap, next_page: int, exact: bool) -> Mark:
    return Mark(
        path=mark.path,
        identity=mark.identity,
        version=mark.version,
        good=good,
        next_page=next_page,
        exact=exact,
    )


def _judged(mark: Mark, entry: Received, *, whole: bool) -> Mark:
    verdict, detail = Verdict.OK, ""
    if not whole:
        verdict, detail = judge(entry, mark.identity)
    return Mark(
        path=mark.path,
        identity=mark.identity,
        version=mark.version,
        verdict=verdict,
        detail=detail,
        good=mark.good,
        next_page=mark.next_page,
        exact=mark.exact,
    )


def judge(entry: Received, now: FileIdentity) -> tuple[Verdict, str]:
    """What it means that a file is not as received: somebody wrote to it, or nobody did."""
    if now.size_bytes != entry.size_bytes:
        sizes = f"{now.size_bytes} bytes, were {entry.size_bytes}"
        return Verdict.CHANGED, f"it was changed after it was received: {sizes}"
    if entry.mtime_ns is None:
        changed = now.mtime_ns // 1_000_000 > entry.at_ms
    else:
        changed = now.mtime_ns != entry.mtime_ns
    if changed:
        return Verdict.CHANGED, "it was changed after it was received: its time is another"
    return Verdict.DAMAGED, DAMAGE


def _checked(
    entry: Received,
    verdict: Verdict,
    detail: str,
    mark: Mark | None = None,
    geometry: Geometry | None = None,
) -> Checked:
    return Checked(
        path=entry.path,
        verdict=verdict,
        detail=detail,
        source=entry.source,
        blake3=entry.blake3,
        good=None if mark is None else mark.good,
        geometry=geometry,
        exact=mark is None or mark.exact,
        size_bytes=entry.size_bytes,
        identity=None if mark is None else mark.identity,
    )
