"""Logging in, by a printed address or by a password, and out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from chunkq.dashboard.access import SESSION_LIFETIME_MS
from chunkq.dashboard.addresses import fields, first
from chunkq.dashboard.attempts import Attempts
from chunkq.dashboard.passwords import right
from chunkq.dashboard.shared import Shared, fields_of, form_of
from chunkq.errors import UsageError

_WRONG: Final = "That was not right: a log-in address is good once, and for an hour."
_TOO_OFTEN: Final = "Too many attempts. Try again in {wait} s."


class Login:
    """The handlers of `/login` and `/logout`."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._attempts = Attempts()

    async def show(self, request: Request) -> Response:
        """The form; or straight in, by a printed address."""
        given = fields_of(request)
        if token := first(given, "once"):
            if request.state.session is not None:
                return RedirectResponse("/", 303)
            return self._try(request, lambda: self._shared.access.redeem(token), "/")
        return self._form(request)

    async def enter(self, request: Request) -> Response:
        """What the form says."""
        try:
            given = await form_of(request)
        except UsageError as error:
            return self._form(request, error.message, 400)
        user, word = first(given, "user"), first(given, "word").strip()
        # the whole printed address may have been pasted
        token = first(fields(word.partition("?")[2]), "once") or word

        def who() -> str | None:
            if right(self._shared.place.passwords, user, word):
                return user
            return self._shared.access.redeem(token)

        return self._try(request, who, local_path(first(given, "to")))

    async def leave(self, request: Request) -> Response:
        """Forget the session in this browser."""
        session = request.state.session
        given = await form_of(request)
        if not self._shared.access.holds(session, first(given, "token")):
            return self._form(request, "That form was too old.", 403)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(self._shared.place.cookie_name)
        return answer

    def _try(self, request: Request, who: Callable[[], str | None], to: str) -> Response:
        address = request.client.host if request.client else "unknown"
        now = time.monotonic()
        if not self._attempts.allowed(address, now):
            wait = self._attempts.wait_s(address)
            answer = self._form(request, _TOO_OFTEN.format(wait=wait), 429)
            answer.headers["Retry-After"] = str(wait)
            return answer
        user = who()
        if user is None:
            self._attempts.failed(address, now)
            self._shared.place.log_in_refused(address)
            return self._form(request, _WRONG, 403)
        return self.let_in(RedirectResponse(to, 303), user)

    def let_in(self, answer: Response, user: str) -> Response:
        """Give it the cookie of a new session."""
        place = self._shared.place
        answer.set_cookie(
            place.cookie_name,
            self._shared.access.cookie(user),
            max_age=SESSION_LIFETIME_MS // 1000,
            httponly=True,
            samesite="strict",
            secure=place.secure,
        )
        return answer

    def _form(self, request: Request, problem: str = "", status: int = 200) -> Response:
        return self._shared.page(
            request,
            "login.html",
            status,
            {
                "view": None,
                "problem": problem,
                "passwords": bool(self._shared.place.passwords),
                "to": local_path(first(fields_of(request), "to")),
            },
        )


def local_path(text: str) -> str:
    """A path of this site; the start page for anything else."""
    plain = text.startswith("/") and not text.startswith(("//", "/\\")) and text.isprintable()
    return text if plain and len(text) < 2048 else "/"
