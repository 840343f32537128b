"""The page's application over a real site, without a server: requests go straight to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from chunkq.api.operations import Operations
from chunkq.dashboard.access import Access
from chunkq.dashboard.app import create_app
from chunkq.dashboard.elsewhere import Elsewhere
from chunkq.dashboard.shared import Place, Shared

ORIGIN = "http://127.0.0.1:8137"
COOKIE = "chunkq-8137"


@dataclass(slots=True)
class Visitor:
    """Somebody with a browser that is not one. `form` posts as a form of the page would."""

    client: httpx.AsyncClient
    access: Access
    shared: Shared
    refused: list[str]
    cookie: str = ""

    def log_in(self, user: str = "erin") -> None:
        self.cookie = self.access.cookie(user)
        self.client.cookies.set(COOKIE, self.cookie)

    @property
    def token(self) -> str:
        session = self.access.session(self.cookie)
        assert session is not None
        return self.access.form_token(session)

    async def form(self, path: str, **fields: Any) -> httpx.Response:
        origin = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}
        return await self.client.post(path, data={"token": self.token, **fields}, headers=origin)


@dataclass(slots=True)
class Clock:
    """Milliseconds that stand until they are moved."""

    ms: int = 1_700_000_000_000
    moved: list[int] = field(default_factory=list)

    def __call__(self) -> int:
        return self.ms


@asynccontextmanager
async def visited(
    board: Operations,
    clock: Clock | None = None,
    *,
    elsewhere: Elsewhere | None = None,
    **place: Any,
) -> AsyncIterator[Visitor]:
    """The application over `board`, and somebody who is not logged in yet."""
    now_ms = clock or Clock()
    access = Access(bytes(32), now_ms)
    refused: list[str] = []
    given: dict[str, Any] = {
        "site": "alice",
        "host": "here",
        "origins": {"127.0.0.1:8137": ORIGIN},
        "cookie_name": COOKIE,
        "now_ms": now_ms,
        "log_in_refused": refused.append,
    }
    app, shared = create_app(board, Place(**{**given, **place}), access, elsewhere or Elsewhere())
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield Visitor(client, access, shared, refused)
