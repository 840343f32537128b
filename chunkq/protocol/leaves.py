"""The leaves at hand: pages of them, kept while one of their chunks is missing, no longer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from chunkq.errors import PacketError
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.limits import DIGEST_SIZE_BYTES
from chunkq.protocol.manifest import (
    Head,
    is_zero_page,
    page_digest,
    verify_page,
    zero_leaf,
    zero_leaves,
)

#: Pages kept or asked for at once: 32 x 16 KiB, 4 GiB of file at the default chunk size.
MAX_PAGES: Final = 32


class Leaves:
    """Pages of one version of a file."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self._geometry = head.geometry
        self._pages: dict[int, bytes] = {}
        self._again: dict[int, None] = {}
        self._next = 0

    def __contains__(self, page: int) -> bool:
        return page in self._pages

    def __len__(self) -> int:
        return len(self._pages)

    @property
    def urgent(self) -> bool:
        """Whether a page that was passed over is needed after all."""
        return bool(self._again)

    def leaf(self, index: int) -> bytes | None:
        """The verified leaf of a chunk, if its page is here."""
        page = self._geometry.page_of(index)
        leaves = self._pages.get(page)
        if leaves is None:
            return None
        at = (index - self._geometry.page_chunks(page).start) * DIGEST_SIZE_BYTES
        return leaves[at : at + DIGEST_SIZE_BYTES]

    def page(self, page: int) -> bytes:
        """The packed leaves of a page that is here."""
        return self._pages[page]

    def add(self, page: int, leaves: bytes) -> None:
        """Take a page in. Raises `Malformed` if it is not what the head says."""
        verify_page(self._head, page, leaves)
        self._pages[page] = leaves

    def prove(self, page: int, leaves: bytes) -> bool:
        """Whether there is such a page, and it is what the head says."""
        if page >= self._geometry.page_count:
            return False
        try:
            verify_page(self._head, page, leaves)
        except PacketError:
            return False
        return True

    def add_known(self, page: int) -> bool:
        """Make a page that need not be asked for, because the head tells it; True if it is one.

        Pages of nothing but holes, and the one of a single chunk, whose leaf is the content digest.
        """
        if is_zero_page(self._head, page):
            self._pages[page] = zero_leaves(self._geometry, page)
        elif self._geometry.chunk_count == 1 and self._single_leaf_holds:
            self._pages[page] = self._head.content_digest
        return page in self._pages

    @property
    def _single_leaf_holds(self) -> bool:
        """False if the head contradicts itself; then the page is asked for, and tells."""
        return page_digest(self._head.content_digest) == self._head.page_digest(0)

    def holes(self, page: int) -> list[int]:
        """The chunks of a page that is here which hold nothing but zeros."""
        return [
            index
            for index in self._geometry.page_chunks(page)
            if self.leaf(index) == zero_leaf(self._geometry, index)
        ]

    def drop_if_done(self, page: int, present: Bitmap) -> None:
        if page in self._pages and self._done(page, present):
            del self._pages[page]

    def want(self, page: int) -> None:
        """A chunk of this page is missing (again): see that its leaves come."""
        self._again[page] = None

    def take_wanted(self, page: int) -> bool:
        """True if this page was to be had again and is not here: no need to ask for it, then."""
        if page in self._pages or page not in self._again:
            return False
        del self._again[page]
        return True

    def wanted(self, present: Bitmap) -> Iterator[int]:
        """Pages to be had again, then the next ones with a chunk missing; each is told once."""
        while self._again:
            page = next(iter(self._again))
            del self._again[page]
            yield page
        while self._next < self._geometry.page_count:
            self._next += 1
            if not self._done(self._next - 1, present):
                yield self._next - 1

    def _done(self, page: int, present: Bitmap) -> bool:
        chunks = self._geometry.page_chunks(page)
        return next(present.missing(chunks.start, chunks.stop), None) is None
