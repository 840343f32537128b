"""Cutting a source file into a manifest: one sequential pass.

A time stamp has a grain: a file that is changed twice within it looks the same. So the pass begins
only when the last change lies further back than that; any later one is seen at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Final

from chunkq.errors import SourceChanging, Stopped
from chunkq.ports import FileIdentity, SourceFile
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.limits import MIB
from chunkq.protocol.manifest import Head, ManifestBuilder
from chunkq.storage.wallclock import wall_ms as wall_clock_ms

#: One read: large enough that the system call costs nothing, small enough for the L2 cache.
READ_SIZE_BYTES: Final = 2 * MIB
#: Two seconds: the stamps of FAT. Those of ext4, XFS and btrfs are some milliseconds apart.
COARSE_GRAIN_MS: Final = 2000
FINE_GRAIN_MS: Final = 20


def settling_ms(identity: FileIdentity, now_ms: int) -> int:
    """How long until a change of the file would be seen in its stamps; 0 if it would be now."""
    # Whole milliseconds are the mark of a file system that keeps no finer stamps.
    fine = identity.ctime_ns % 1_000_000 != 0
    grain_ms = FINE_GRAIN_MS if fine else COARSE_GRAIN_MS
    # Not mtime: it can be set to anything, and each change moves ctime as well.
    left_ms = identity.ctime_ns // 1_000_000 + grain_ms - now_ms
    # A stamp well in the future is of another clock; no wait would help.
    return left_ms if 0 < left_ms <= 2 * grain_ms else 0


def build_manifest(
    source: SourceFile,
    geometry: Geometry,
    on_progress: Callable[[int], None],
    should_stop: Callable[[], bool],
    *,
    wall_ms: Callable[[], int] = wall_clock_ms,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Head, bytes]:
    """The head of `source` and its leaves, packed. Whole chunks of holes are not read.

    `on_progress` gets the bytes done after each read. Raises `SourceChanging` if the file is not
    the same at the end, `Stopped` soon after `should_stop()`, `StorageError`. Blocks.
    """
    if wait_ms := settling_ms(source.identity, wall_ms()):
        sleep(wait_ms / 1000)
    if geometry.size_bytes != source.identity.size_bytes:
        raise _changing(source)
    builder = ManifestBuilder(geometry)
    with ThreadPoolExecutor(1, thread_name_prefix="chunkq-hash") as helper:
        batch_size = max(READ_SIZE_BYTES, geometry.chunk_size_bytes)
        content = _Content(builder, helper if geometry.size_bytes > batch_size else None)
        offset = 0
        while offset < geometry.size_bytes:
            if should_stop():
                raise Stopped("hashing was stopped")
            if (end := _hole_end(source, geometry, offset)) > offset:
                content.wait()
                builder.add_hole(-(-(end - offset) // geometry.chunk_size_bytes))
            else:
                length = min(batch_size, geometry.size_bytes - offset)
                data = memoryview(source.read(offset, length))
                if len(data) != length:
                    raise _changing(source)
                content.add(data)
                for at in range(0, length, geometry.chunk_size_bytes):
                    builder.add_leaf(data[at : at + geometry.chunk_size_bytes])
                end = offset + length
            offset = end
            on_progress(offset)
        content.wait()
    if source.changed():
        raise _changing(source)
    return builder.finish()


class _Content:
    """The content digest, a block behind on a thread of its own, if there is one: half the work."""

    def __init__(self, builder: ManifestBuilder, helper: Executor | None) -> None:
        self._builder = builder
        self._helper = helper
        self._under_way: Future[None] | None = None

    def add(self, block: memoryview) -> None:
        if self._helper is None:
            self._builder.add_content(block)
            return
        self.wait()
        self._under_way = self._helper.submit(self._builder.add_content, block)

    def wait(self) -> None:
        if self._under_way is not None:
            self._under_way.result()


def _hole_end(source: SourceFile, geometry: Geometry, offset: int) -> int:
    """Where the whole chunks of a hole that begins at `offset` end; `offset` if there are none."""
    end = source.hole_end(offset)
    if end < geometry.size_bytes:
        end -= end % geometry.chunk_size_bytes
    return max(offset, min(end, geometry.size_bytes))


def _changing(source: SourceFile) -> SourceChanging:
    return SourceChanging(
        f"the source (inode {source.identity.inode}) changed while it was read",
        hint="it is read again as soon as it rests",
    )
