"""What is here of one version of a file, and what of that is in doubt.

Bits go from absent to present when the chunk is in the part file; what is durable is the driver's
business at `Commit`. A doubtful chunk may be right in the part file: it is compared with its leaf
before it is asked for.
"""

from __future__ import annotations

from chunkq.protocol import transfer_events as ev
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import to_ranges
from chunkq.protocol.leaves import Leaves
from chunkq.protocol.manifest import Head, is_zero_page


class Holding:
    """Nothing at first; then one version, and in its place another."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.bitmap = Bitmap(0)
        self.doubtful = Bitmap(0)
        #: Comparisons under way.
        self._rechecking = 0

    def resume(self, head: Head, present: Bitmap, *, doubt: bool) -> None:
        """What staging knew. `doubt`: what is absent may be in the part file all the same."""
        self.head, self.bitmap = head, present.copy()
        self.doubtful = Bitmap(present.count)
        if doubt:
            for index in self.bitmap.missing():
                self.doubtful.add(index)
        self._mark_zero_pages()

    def begin(self, head: Head, *, doubt: bool) -> None:
        """Another version. `doubt`: chunks of it may be in the part file."""
        self.head = head
        self.bitmap = Bitmap(head.geometry.chunk_count)
        self.doubtful = Bitmap(head.geometry.chunk_count)
        self._rechecking = 0
        if doubt:
            self.doubtful.fill(0, self.doubtful.count)
        self._mark_zero_pages()

    def doubt_all(self) -> None:
        """What was present may be wrong."""
        self.bitmap = Bitmap(self.bitmap.count)
        self.doubtful.fill(0, self.doubtful.count)

    @property
    def whole(self) -> bool:
        return self.bitmap.complete and not self.doubtful.present and not self._rechecking

    @property
    def size_bytes(self) -> int:
        return 0 if self.head is None else self.head.geometry.size_bytes

    def lacks(self, index: int) -> bool:
        """Whether there is such a chunk and it is not present."""
        return self.head is not None and index < self.bitmap.count and index not in self.bitmap

    def add(self, index: int) -> int:
        """The chunk is in the part file; its bytes, 0 if it was there."""
        assert self.head is not None
        return self.head.geometry.length(index) if self.bitmap.add(index) else 0

    def page_of(self, index: int) -> int:
        assert self.head is not None
        return self.head.geometry.page_of(index)

    # ------------------------------------------------------------ doubt and holes

    def open_page(self, page: int, leaves: Leaves) -> list[ev.Effect]:
        """Leaves of `page` are here: mark its holes, and recheck what is doubtful."""
        assert self.head is not None
        doubtful = [i for i in self.head.geometry.page_chunks(page) if i in self.doubtful]
        holes = [
            index
            for index in leaves.holes(page)
            if index not in self.doubtful and self.bitmap.add(index)
        ]
        effects = self.recheck(doubtful, leaves)
        if holes:
            effects.append(ev.Punch(tuple(to_ranges(holes))))
        leaves.drop_if_done(page, self.bitmap)
        return effects

    def recheck(self, indices: list[int], leaves: Leaves) -> list[ev.Effect]:
        """Compare these chunks of one page, whose leaves are here."""
        assert self.head is not None
        if not indices:
            return []
        self._rechecking += 1
        page = self.page_of(indices[0])
        first = self.head.geometry.page_chunks(page).start
        return [ev.Recheck(tuple(indices), first, leaves.page(page))]

    def rechecked(self, event: ev.Rechecked) -> None:
        """A comparison ended: there is no doubt about these."""
        self._rechecking -= 1
        for index in (*event.good, *event.bad):
            self.doubtful.clear(index)

    def _mark_zero_pages(self) -> None:
        """Pages that hold nothing but holes are known from the head alone."""
        assert self.head is not None
        if self.doubtful.present:
            return
        for page in range(self.head.geometry.page_count):
            if is_zero_page(self.head, page):
                chunks = self.head.geometry.page_chunks(page)
                self.bitmap.fill(chunks.start, len(chunks))
