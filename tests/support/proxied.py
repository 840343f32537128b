"""A TCP proxy in a thread of its own, for benchmarks that wait for processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.proxy import Proxy


@contextmanager
def proxied(
    target_port: int, *, delay_s: float = 0.0, rate_bytes_s: float | None = None
) -> Iterator[Proxy]:
    """A proxy before a port, with a delay and a rate each way, while this is entered."""
    started: list[Proxy] = []
    ready, end = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()

    async def run() -> None:
        async with Proxy(target_port) as proxy:
            for way in (proxy.up, proxy.down):
                way.delay_s, way.rate_bytes_s = delay_s, rate_bytes_s
            started.append(proxy)
            ready.set()
            await end.wait()

    def work() -> None:
        try:
            loop.run_until_complete(run())
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    ready.wait()
    assert started, "the proxy did not start"
    try:
        yield started[0]
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()
