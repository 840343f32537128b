"""A requester with many transfers that wait for a silent peer, driven by `growth`.

    python -m tests.bench.pending CONFIG_DIR STATE_DIR INBOX COUNT

Takes a line, does it, answers with a line of JSON: `wait` begins COUNT transfers of
`silent:files/N` and tells what they cost until each has said that it waits; `idle S` what S seconds
of waiting cost; `live` how long a file of another peer takes meanwhile; `finish` what all cost
until they are published.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from chunkq.api import Site, Transfer
from chunkq.settings import load
from tests.bench.requester import cpu_s, quiet

#: Longer than any of this takes.
PATIENCE_S = 3600.0
#: Long, as looking at a thousand transfers costs something itself.
POLL_S = 0.5


def resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * resource.getpagesize() / (1 << 20)


class Pending:
    """The site and its transfers."""

    def __init__(self, site: Site, inbox: Path, count: int) -> None:
        self._site = site
        self._inbox = inbox
        self._count = count
        self._waiting: list[Transfer] = []
        self._live = 0

    async def wait(self) -> None:
        for number in range(self._count):
            source, target = f"silent:files/{number}", self._inbox / str(number)
            self._waiting.append(self._site.fetch(source, target, patience_s=PATIENCE_S))
        while not all(each.progress().waiting for each in self._waiting):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)

    async def idle(self, seconds: str) -> None:
        await asyncio.sleep(float(seconds))

    async def live(self) -> None:
        self._live += 1
        await self._site.fetch("bob:files/file", self._inbox / f"live{self._live}")

    async def finish(self) -> None:
        await asyncio.gather(*self._waiting)


async def serve(config: str, state: str, inbox: str, count: str) -> None:
    settings = load(config_dir=Path(config), state_dir=Path(state)).settings
    async with Site.open(settings, log=quiet) as site:
        pending = Pending(site, Path(inbox), int(count))
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            name, *arguments = line.split()
            step: Callable[..., object] = getattr(pending, name)
            began, cpu = time.monotonic(), cpu_s()
            await step(*arguments)  # type: ignore[misc]
            taken = {"seconds": time.monotonic() - began, "cpu_s": cpu_s() - cpu}
            print(json.dumps({**taken, "resident_mib": resident_mib()}), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
