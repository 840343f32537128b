"""A site's dashboard as a process: what it shows, whom it lets in, and where."""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import Callable
from typing import Final

from chunkq.api.operations import Operations
from chunkq.dashboard.access import Access, plain_user
from chunkq.dashboard.app import create_app
from chunkq.dashboard.elsewhere import Elsewhere
from chunkq.dashboard.listening import Listening
from chunkq.dashboard.secret import load_secret
from chunkq.dashboard.serving import serve
from chunkq.dashboard.shared import Place
from chunkq.settings import Settings
from chunkq.storage.journal import Event, Journal, What
from chunkq.storage.wallclock import wall_ms
from chunkq.telemetry.logs import write as write_log

#: Who acts where nobody is logged in; the page's own deeds in the audit.
_BY: Final = "page"


def login_address(settings: Settings, listening: Listening, port: int) -> str:
    """An address that logs in once, within an hour, for a dashboard on that port.

    Raises `IdentityError` or `StorageError` if the secret cannot be had.
    """
    token = _access(settings).login_token(_user())
    return f"{listening.address(port)}/login?once={token}"


async def run(
    settings: Settings,
    listening: Listening,
    bound: socket.socket,
    *,
    on_ready: Callable[[], None],
) -> None:
    """Serve the page on a socket that listens, until cancelled. Raises `ChunkqError`."""
    port = bound.getsockname()[1]
    host = socket.gethostname()
    elsewhere = Elsewhere()
    operations = await asyncio.to_thread(
        Operations, settings, by=f"{_BY}@{host}", send=elsewhere.send
    )

    journal = Journal(settings.directories.state)

    def note(what: What, detail: str) -> None:
        journal.add(Event(at_ms=wall_ms(), what=what, by=f"{_BY}@{host}", detail=detail))

    def log_in_refused(address: str) -> None:
        write_log("login_refused", level="warning", address=address)
        note("login_refused", f"from {address}")

    place = Place(
        site=settings.site_name,
        host=host,
        origins=listening.origins(port),
        cookie_name=f"chunkq-{port}",
        secure=listening.tls or (listening.behind_proxy and not listening.loopback),
        passwords=listening.passwords,
        now_ms=wall_ms,
        log_in_refused=log_in_refused,
    )
    app, shared = create_app(operations, place, _access(settings), elsewhere)

    await asyncio.to_thread(note, "dashboard_started", listening.address(port))

    def on_end() -> None:
        shared.streams.ending = True
        shared.refresher.soon()

    try:
        async with elsewhere.listening(settings):
            await serve(app, listening, bound, on_ready=on_ready, on_end=on_end)
    finally:
        operations.close()


def _access(settings: Settings) -> Access:
    return Access(load_secret(settings.directories.state), wall_ms)


def _user() -> str:
    """Who runs this, for the audit."""
    try:
        return plain_user(getpass.getuser())
    except (KeyError, OSError):
        return plain_user("")
