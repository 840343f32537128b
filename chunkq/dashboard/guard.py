"""What every request passes: its host, where it came from, who sent it; and what every answer says.

Plain ASGI around the application. Nothing behind it runs for a request that does not pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chunkq.dashboard.access import Access

#: Only what this site's own files draw; no frame, no plug-in, no inline script or style, no markup
#: that a script makes of text.
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
#: A form with a full page of chosen rows has some 40 KiB.
MAX_BODY_BYTES: Final = 64 * 1024
MAX_TARGET_CHARS: Final = 8 * 1024
_READ: Final = frozenset({"GET", "HEAD"})
#: What is there without a session.
_OPEN: Final = ("/login", "/assets/", "/healthz")


class Guard:
    """Lets through who may come in. `origins`: allowed `Host` → its origin."""

    def __init__(
        self, app: ASGIApp, *, access: Access, origins: Mapping[str, str], cookie_name: str
    ) -> None:
        self._app = app
        self._access = access
        self._origins = origins
        self._cookie_name = cookie_name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self._app)(scope, receive, answer)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        origin = self._origins.get(headers.get("host", "").lower())
        if origin is None:
            return _said(421, "This page is not served under that name: see --host.")
        if scope["method"] not in _READ | {"POST"}:
            return _said(405, "Only GET, HEAD and POST.")
        if len(scope["path"]) + len(scope["query_string"]) > MAX_TARGET_CHARS:
            return _said(414, "The address is too long.")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:9]) > MAX_BODY_BYTES:
            return _said(413, "The request is too large.")
        if scope["method"] == "POST" and not _same_origin(headers, origin):
            return _said(403, "The request came from another site.")
        return self._stranger(scope, headers)

    def _stranger(self, scope: Scope, headers: Headers) -> Response | None:
        """Who is not logged in is sent to where that is done."""
        cookie = Request(scope).cookies.get(self._cookie_name, "")
        session = self._access.session(cookie)
        scope.setdefault("state", {})["session"] = session
        if session is not None or scope["path"].startswith(_OPEN):
            return None
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            return RedirectResponse(f"/login?to={quote(scope['path'], safe='')}", 303)
        return _said(401, "Log in first.")


def _same_origin(headers: Headers, origin: str) -> bool:
    """A browser says where a form came from; what says nothing is no browser, and no person.

    With our referrer policy a plain form's origin is `null`: then the other word must hold.
    """
    site = headers.get("sec-fetch-site")
    if headers.get("origin") == "null":
        return site == "same-origin"
    return headers.get("origin") == origin and site in (None, "same-origin")


def _said(status: int, text: str) -> Response:
    return PlainTextResponse(f"{text}\n", status)
