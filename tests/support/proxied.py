"""TCP proxies in a thread of their own, for programs that wait for processes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

from tests.support.proxy import Proxy


class ProxyThread:
    """A loop in a thread, and the proxies that run on it. `with ProxyThread() as proxies:`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._proxies: list[Proxy] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for proxy in self._proxies:
            asyncio.run_coroutine_threadsafe(proxy.__aexit__(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def open(self, target_port: int) -> Proxy:
        """A proxy before a port, until the end."""
        proxy = Proxy(target_port)
        asyncio.run_coroutine_threadsafe(proxy.__aenter__(), self._loop).result()
        self._proxies.append(proxy)
        return proxy

    def do(self, what: Callable[[], None]) -> None:
        """Call it where the proxies run; returns when it is done."""

        async def call() -> None:
            what()

        asyncio.run_coroutine_threadsafe(call(), self._loop).result()


@contextmanager
def proxied(
    target_port: int, *, delay_s: float = 0.0, rate_bytes_s: float | None = None
) -> Iterator[Proxy]:
    """A proxy before a port, with a delay and a rate each way, while this is entered."""
    with ProxyThread() as proxies:
        proxy = proxies.open(target_port)
        for way in (proxy.up, proxy.down):
            way.delay_s, way.rate_bytes_s = delay_s, rate_bytes_s
        yield proxy
