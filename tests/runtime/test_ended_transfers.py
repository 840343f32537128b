"""A requester that lives for months keeps nothing of the transfers that have ended."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest

from chunkq.errors import ChunkqError
from chunkq.protocol.bundling_events import Small
from chunkq.protocol.limits import MIB
from chunkq.runtime import bundlefetch
from chunkq.runtime.bundlefetch import BundleFetch
from chunkq.runtime.fetch import FileFetch
from chunkq.transport.limited import ByteRate
from tests.runtime.sites import SHARE, Pair
from tests.support.virtual import InlineExecutor, run_virtual

FILES = 5


class Nowhere:
    """Where the files of bundles are placed, and who hears of it: only their number is noted."""

    def __init__(self) -> None:
        self.placed = 0

    def place(self, files: Sequence[object]) -> list[ChunkqError | bool]:
        self.placed += len(files)
        return [True] * len(files)

    def free_bytes(self) -> int:
        return MIB

    def record_placed(self, files: Sequence[object]) -> None:
        """Not needed here, as what follows."""

    def count_placed(self, files: Sequence[object], new: Sequence[bool]) -> None: ...

    def fail(self, file: Small, error: ChunkqError) -> None: ...

    async def go_alone(self, files: Sequence[Small]) -> None: ...


def test_a_fetch_that_has_ended_is_not_kept(tmp_path: Path) -> None:
    """Its requests stay known, so that a late reply is no stranger's, but not who asked."""

    async def run() -> list[FileFetch | None]:
        pair = Pair(tmp_path, ByteRate(8 * MIB, 0))
        ended: list[weakref.ref[FileFetch]] = []
        async with pair.at_work():
            for number in range(FILES):
                pair.offer(f"file{number}", 2)
                fetch = pair.fetch(f"file{number}", "normal")
                await fetch.run()
                ended.append(weakref.ref(fetch))
                del fetch
            gc.collect()
            return [each() for each in ended]

    assert [None] * FILES == run_virtual(run())


def test_bundles_that_have_ended_are_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is with files."""
    monkeypatch.setattr(bundlefetch, "ThreadPoolExecutor", lambda *_, **__: InlineExecutor())

    async def run() -> BundleFetch | None:
        pair, nowhere = Pair(tmp_path, ByteRate(8 * MIB, 0)), Nowhere()
        for number in range(FILES):
            (pair.files / f"file{number}").write_bytes(b"small")
        async with pair.at_work():
            bundles = BundleFetch(
                pair.peer, SHARE, nowhere, nowhere, patience_s=30, priority="normal"
            )
            await bundles.offer([Small("", (f"file{number}",), 5) for number in range(FILES)])
            bundles.end()
            await bundles.run()
            assert FILES == nowhere.placed
            ended = weakref.ref(bundles)
            del bundles
            gc.collect()
            return ended()

    assert run_virtual(run()) is None
