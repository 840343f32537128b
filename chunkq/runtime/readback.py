"""Reading a whole part file back: from behind while it grows, and the rest once it is complete.

After each commit the reader goes on to where the durable prefix ends, so that at the end only the
last commit group is left. What it has passed must never change: whoever takes back chunks that were
durable (a failed sync, a read-back that did not match, another version) calls `restart`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

from blake3 import blake3

from chunkq.errors import Stopped
from chunkq.ports import PartFile
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.limits import MIB
from chunkq.runtime.pages import Pages

#: One read: sequential and large enough that the call costs nothing.
BLOCK_BYTES: Final = 1 * MIB
#: One job on a thread of the pool that others wait for too: 50 ms on a fast disk.
STEP_BYTES: Final = 64 * MIB
_ZEROS: Final = bytes(BLOCK_BYTES)


class _Pass:
    """One reading of the file from its beginning: how far it is, and whether to go on."""

    def __init__(self) -> None:
        self.hasher = blake3()
        self.offset = 0
        self.stopped = False


class ReadBack:
    """The content digest of one version of one part file. Used on the loop; reads on a thread.

    `progress` hears the bytes done, from the thread.
    """

    def __init__(
        self,
        part: PartFile,
        geometry: Geometry,
        pool: Executor,
        pages: Pages,
        progress: Callable[[int], None],
    ) -> None:
        self._part = part
        self._geometry = geometry
        self._pool = pool
        self._pages = pages
        self._progress = progress
        self._pass = _Pass()
        self._end = 0
        self._ended = False
        self._reading: asyncio.Future[None] | None = None

    def follow(self, durable: Bitmap) -> None:
        """Read on, in the background, to the first chunk that is not durable."""
        first = self._pass.offset // self._geometry.chunk_size_bytes
        index = next(durable.missing(first), None)
        self._end = self._geometry.size_bytes if index is None else self._geometry.offset(index)
        self._go_on()

    def restart(self) -> None:
        """Chunks that were durable are in doubt: what was read does not count."""
        self._pass.stopped = True
        self._pass, self._end = _Pass(), 0

    async def digest(self) -> bytes:
        """BLAKE3 of the whole file, all of which is durable. Raises `Stopped`, `StorageError`."""
        self._end = 0
        await self._rest()
        current = self._pass
        while current.offset < self._geometry.size_bytes:
            if current.stopped:
                raise Stopped("stopped while the file was read back")
            await self._read(self._geometry.size_bytes)
        return current.hasher.digest()

    async def stop(self) -> None:
        """End what is being read; nothing is read any more."""
        self._ended = self._pass.stopped = True
        await self._rest()

    async def _rest(self) -> None:
        while self._reading is not None:
            await asyncio.wait((self._reading,))

    def _go_on(self) -> None:
        if self._reading is None and not self._ended and self._pass.offset < self._end:
            self._read(self._end)

    def _read(self, end: int) -> asyncio.Future[None]:
        """A step towards `end`, or all of the way."""
        loop = asyncio.get_running_loop()
        end = min(end, self._pass.offset + STEP_BYTES)
        reading = loop.run_in_executor(self._pool, self._read_blocking, self._pass, end)
        self._reading = reading
        reading.add_done_callback(self._on_read)
        return reading

    def _on_read(self, reading: asyncio.Future[None]) -> None:
        self._reading = None
        # What went wrong before its time is met again, and told, by `digest`.
        if not reading.cancelled() and reading.exception() is None:
            self._go_on()

    # ------------------------------------------------------------ on a thread

    def _read_blocking(self, current: _Pass, end: int) -> None:
        """Hash on to `end`; holes without being read. Raises `Stopped` soon after a stop."""
        hole_end = 0
        with self._pages.borrowed() as buffer:
            while current.offset < end:
                if current.stopped:
                    raise Stopped("stopped while the file was read back")
                offset = current.offset
                length = min(BLOCK_BYTES, end - offset)
                if hole_end <= offset:
                    hole_end = self._part.hole_end(offset)
                if hole_end > offset:
                    length = min(hole_end - offset, length)
                    data = memoryview(_ZEROS)[:length]
                else:
                    room = buffer[:length]
                    data = room[: self._part.read_into(offset, room)]
                current.hasher.update(data)
                current.offset = offset + length
                self._progress(current.offset)
                if data.nbytes < length:  # truncated behind our back: it will not match
                    current.offset = self._geometry.size_bytes
