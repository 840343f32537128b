"""What comes before a version's first chunk: its manifest kept, older bits taken back, room made.

In this order. A crash behind the first step finds a manifest and a root that do not belong
together, and doubts everything; only once no bit is on disk any more may the part file be cut, or
lengthened again to a size at which bits would be believed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from chunkq.errors import DestinationExists, DiskFull, IntegrityError
from chunkq.ports import PartFile, Staging
from chunkq.protocol.manifest import Head, is_zero_page
from chunkq.runtime.asking import Order
from chunkq.runtime.committing import Committer


class Preparing:
    """The staging of one transfer, made ready. `in_thread`: runs what blocks."""

    def __init__(
        self,
        staging: Staging,
        committer: Committer,
        in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        self._staging = staging
        self._committer = committer
        self._in_thread = in_thread

    async def is_there(self, head: Head, order: Order) -> bool:
        """Whether an equal file is at the final path already, durably.

        Raises `DestinationExists` for another one that may not be replaced, `IntegrityError` for a
        manifest that says of this very content that it has another length, `StorageError`.
        """
        existing = await self._in_thread(self._staging.destination_content)
        if existing is not None and existing[1] == head.content_digest:
            if existing[0] != head.geometry.size_bytes:
                raise IntegrityError(
                    f"{order.path}: the origin's manifest contradicts itself: content of"
                    f" {existing[0]} bytes and a size of {head.geometry.size_bytes}",
                    hint="tell the peer's operator: its origin signs what is not so",
                )
            # It may be what a run before published, and not durable: nobody asks after this one.
            await self._in_thread(self._staging.settle_published)
            return True
        if existing is not None and not order.overwrite:
            raise DestinationExists(
                f"{order.path}: another file is at the destination already",
                hint="give another destination, or --overwrite to replace it",
            )
        return False

    async def begin(self, head: Head, manifest: bytes) -> None:
        """A version: nothing of it is known to be there. Raises `DiskFull`, `StorageError`."""
        await self._in_thread(lambda: self._staging.save_manifest(manifest))
        await self._committer.restart(head)
        await self._in_thread(lambda: make_room(self._staging.part, head))

    async def mend(self, head: Head) -> None:
        """The part file is gone, or was cut, behind its bits' back. Raises `StorageError`."""
        try:
            await self._committer.restart(head)
            await self._in_thread(lambda: make_room(self._staging.part, head))
        except DiskFull:  # the writes will tell, and wait for room
            await self._in_thread(lambda: self._staging.part.resize(head.geometry))


def make_room(part: PartFile, head: Head) -> None:
    """Give the part file its size, and room for all of it unless it is sparse.

    Where whole pages are holes, little of the others may be data, too: then what lacks room is
    told by the write itself. Raises `DiskFull`.
    """
    if any(is_zero_page(head, page) for page in range(head.geometry.page_count)):
        part.resize(head.geometry)
    else:
        part.allocate(head.geometry, None)
