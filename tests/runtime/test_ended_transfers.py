"""A requester that lives for months keeps nothing of the transfers that have ended."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

from chunkq.protocol.limits import MIB
from chunkq.runtime.fetch import FileFetch
from chunkq.transport.limited import ByteRate
from tests.runtime.sites import Pair
from tests.support.virtual import run_virtual

FILES = 5


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
