"""A requester that runs already: fetches what its standard input says, and tells what it took.

    python -m tests.bench.requester CONFIG_DIR STATE_DIR PEER

Prints `ready` once its link is open. Then, for each line `SOURCE [MIRROR...]<tab>DESTINATION`, a
line of JSON: `seconds` from `Site.fetch` until the file is published and durable, this process's
`cpu_s`, and `origins`, the bytes that each peer brought.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from pathlib import Path

from chunkq.api import Site
from chunkq.settings import load


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def quiet(_event: str, /, **_fields: object) -> None:
    """Standard output is for the results."""


async def serve(config: str, state: str, peer: str) -> None:
    settings = load(config_dir=Path(config), state_dir=Path(state)).settings
    async with Site.open(settings, log=quiet) as site:
        async for _ in site.list(f"{peer}:files/"):
            pass
        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            sources, destination = line.rstrip("\n").split("\t")
            source, *mirrors = sources.split(" ")
            began, cpu = time.monotonic(), cpu_s()
            result = await site.fetch(source, destination, mirrors=mirrors)
            taken = {"seconds": time.monotonic() - began, "cpu_s": cpu_s() - cpu}
            print(json.dumps({**taken, "origins": dict(result.origins)}), flush=True)


if __name__ == "__main__":
    asyncio.run(serve(*sys.argv[1:]))
