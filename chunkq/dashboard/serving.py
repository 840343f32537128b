"""The server process: the socket, the application, and its clean end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn
from starlette.types import ASGIApp

from chunkq.dashboard.listening import Listening

#: Connections at once: the streams of all tabs and what their browsers load besides.
MAX_CONNECTIONS: Final = 256
#: Streams end at once when asked to; whoever takes longer than this to read an answer loses it.
SHUTDOWN_S: Final = 3
#: An idle connection is closed after so long.
KEEP_ALIVE_S: Final = 15


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it, and says when it serves."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()


async def serve(
    app: ASGIApp,
    listening: Listening,
    bound: socket.socket,
    *,
    on_ready: Callable[[], None],
    on_end: Callable[[], None],
) -> None:
    """Serve until cancelled. `on_end` is called then, to end what would go on for ever."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_S,
        proxy_headers=listening.behind_proxy,
        ws="none",
        lifespan="on",
        ssl_certfile=str(listening.tls_cert) if listening.tls_cert else None,
        ssl_keyfile=str(listening.tls_key) if listening.tls_key else None,
    )
    server = _Server(config, on_ready)
    serving = asyncio.ensure_future(server.serve(sockets=[bound]))
    try:
        await asyncio.shield(serving)
    except asyncio.CancelledError:
        on_end()
        server.should_exit = True
        await serving
        raise
