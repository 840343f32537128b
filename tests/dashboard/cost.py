"""What 10,000 transfers cost the page, in CPU time: `make bench-dashboard`.

A look at the site with nothing changed, the list as a page, and what an open tab costs a second.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from chunkq.dashboard.live import difference
from chunkq.dashboard.views import VIEWS
from chunkq.dashboard.views.view import Asked
from tests.api.operating import Operated
from tests.dashboard.application import Visitor, visited

TRANSFERS = 10_000
REPEATED = 5


def crowd(operated: Operated, count: int) -> None:
    """So many jobs, of files with plain names."""
    for number in range(count):
        operated.job(f"bob:docs/{number:05d}", f"{number:05d}", number)
    operated.refresh()


async def cpu_ms(act: Callable[[], Awaitable[object]]) -> float:
    """The best of some runs: what else the machine does takes caches, not our time."""
    best = float("inf")
    for _ in range(REPEATED):
        before = time.process_time()
        await act()
        best = min(best, time.process_time() - before)
    return best * 1000


def asked(visitor: Visitor, query: dict[str, list[str]], generation: int) -> Asked:
    """A look of a tab at the list, after a refresh of its own."""
    shared = visitor.shared
    return Asked(
        board=shared.board,
        lately=shared.lately,
        bars=shared.bars,
        given=query,
        now_ms=shared.place.now_ms(),
        generation=generation,
    )


async def measure(operated: Operated) -> dict[str, float]:
    """Milliseconds of CPU time, by what they are of."""
    found: dict[str, float] = {}
    async with visited(operated.operations) as visitor:
        visitor.log_in()
        numbers = iter(range(1_000_000))

        async def look() -> None:
            operated.refresh()

        async def tick() -> None:
            now = asked(visitor, {}, next(numbers))
            live = await VIEWS["transfers"].build(now)
            difference(live, live)

        for path in (
            "/transfers",
            "/transfers?sort=name",
            "/transfers?q=0042",
            "/transfers?page=99",
        ):
            found[f"GET {path}"] = await cpu_ms(lambda: visitor.client.get(path))  # noqa: B023
        found["a second of an open tab"] = await cpu_ms(tick)
        found["a look at the site, nothing new"] = await cpu_ms(look)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        operated = Operated(Path(root))
        try:
            crowd(operated, TRANSFERS)
            for what, ms in asyncio.run(measure(operated)).items():
                print(f"{ms:8.1f} ms  {what}", file=sys.stdout)
        finally:
            operated.close()


if __name__ == "__main__":
    main()
