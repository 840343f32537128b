"""The application: its addresses, and what each does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Route
from starlette.types import ASGIApp

from chunkq.api.operations import Operations
from chunkq.dashboard import actions
from chunkq.dashboard.access import RENEW_MS, Access
from chunkq.dashboard.addresses import Fields, first
from chunkq.dashboard.elsewhere import Elsewhere
from chunkq.dashboard.events import MAX_STREAMS, SEND_TIMEOUT_S, changes, encoded
from chunkq.dashboard.guard import Guard
from chunkq.dashboard.live import Live
from chunkq.dashboard.login import Login, local_path
from chunkq.dashboard.shared import Place, Shared, fields_of, form_of
from chunkq.dashboard.views import LISTS, VIEWS
from chunkq.dashboard.views.view import Asked, View
from chunkq.errors import ChunkqError, NotFound
from chunkq.telemetry.logs import write as write_log

_TOO_MANY: Final = f"{MAX_STREAMS} pages are open already; close some.\n"


class Pages:
    """The handlers of the views, their streams and their buttons."""

    def __init__(self, shared: Shared, login: Login) -> None:
        self._shared = shared
        self._login = login

    def asked(self, given: Fields, path: str = "") -> Asked:
        shared = self._shared
        return Asked(
            board=shared.board,
            lately=shared.lately,
            bars=shared.bars,
            given=given,
            now_ms=shared.place.now_ms(),
            generation=shared.refresher.generation,
            path=path,
        )

    async def start(self, _: Request) -> Response:
        return RedirectResponse("/transfers", 303)

    async def view(self, request: Request) -> Response:
        """A page, drawn with what is known now."""
        given = dict(fields_of(request))
        name = request.url.path.split("/")[1]
        if transfer_id := request.path_params.get("id"):
            name, given = "transfer", {"id": [transfer_id]}
        view = VIEWS[name]
        asked = self.asked(given, request.url.path)
        try:
            live = await view.build(asked)
        except NotFound as error:
            return self._problem(request, error, 404)
        except ChunkqError as error:
            return self._problem(request, error, 503)
        answer = self._shared.page(
            request,
            view.template,
            values={"view": view, "live": live, "given": given, **view.frame(asked)},
        )
        session = request.state.session
        if session.until_ms - self._shared.place.now_ms() < RENEW_MS:
            self._login.let_in(answer, session.user)
        return answer

    def _problem(self, request: Request, error: ChunkqError, status: int) -> Response:
        return self._shared.page(request, "problem.html", status, {"error": error, "view": None})

    async def events(self, request: Request) -> Response:
        """The stream of one tab: `view` names the view, the rest is what its address says."""
        shared = self._shared
        given = fields_of(request)
        view = VIEWS.get(first(given, "view"))
        if view is None:
            return PlainTextResponse("No such view.\n", 404)
        if shared.streams.open >= MAX_STREAMS:
            return PlainTextResponse(_TOO_MANY, 503, headers={"Retry-After": "10"})
        return EventSourceResponse(
            self._stream(view, given), ping=0, sep="\n", send_timeout=SEND_TIMEOUT_S
        )

    async def _stream(self, view: View, given: Fields) -> AsyncGenerator[dict[str, str]]:
        shared = self._shared

        async def look() -> Live:
            return await view.build(self.asked(given))

        shared.streams.open += 1
        try:
            async with contextlib.aclosing(
                changes(look, shared.refresher, shared.streams)
            ) as messages:
                async for message in messages:
                    yield encoded(message, shared.assets.version)
        finally:
            shared.streams.open -= 1

    async def act(self, request: Request) -> Response:
        """A button. Answers a script with JSON, and a plain form with the page it came from."""
        shared = self._shared
        session = request.state.session
        as_json = "application/json" in request.headers.get("accept", "")
        status = 200
        given: Fields = {}
        try:
            given = await form_of(request)
            if not shared.access.holds(session, first(given, "token")):
                return PlainTextResponse("The form is too old, or not from here.\n", 403)
            by = f"page:{session.user}@{shared.place.host}"
            said = await actions.act(shared.board, shared.elsewhere, given, by)
        except ChunkqError as error:
            said, status = actions.refused(error), 409
        shared.refresher.soon()
        if as_json:
            return JSONResponse({"text": said.text, "ok": said.ok}, status)
        shared.say(session, said)
        return RedirectResponse(local_path(first(given, "back")), 303)

    async def failed(self, _: Request, error: Exception) -> Response:
        """A defect of ours: logged by name, and said as one."""
        what = " ".join(f"{type(error).__name__}: {error}".split())
        write_log("page_failed", level="error", detail=what)
        return PlainTextResponse("Internal error: a defect of chunkq; its log says more.\n", 500)

    async def health(self, _: Request) -> Response:
        """Whether the page serves; says nothing of the site."""
        return PlainTextResponse("ok\n")


def create_app(
    board: Operations, place: Place, access: Access, elsewhere: Elsewhere
) -> tuple[ASGIApp, Shared]:
    """The guarded application, and what ends its streams."""
    shared = Shared(board, place, access, elsewhere)
    login = Login(shared)
    pages = Pages(shared, login)

    @contextlib.asynccontextmanager
    async def refreshing(_: Starlette) -> AsyncIterator[None]:
        await shared.refresher.look()
        running = asyncio.create_task(shared.refresher.run())
        try:
            yield
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    routes = [
        Route("/", pages.start),
        *(Route(f"/{each.name}", pages.view) for each in LISTS),
        Route("/transfers/{id}", pages.view),
        Route("/events", pages.events, methods=["GET"]),
        Route("/act", pages.act, methods=["POST"]),
        Route("/login", login.show, methods=["GET"]),
        Route("/login", login.enter, methods=["POST"]),
        Route("/logout", login.leave, methods=["POST"]),
        Route("/assets/{version}/{name}", shared.assets.serve),
        Route("/healthz", pages.health),
    ]
    inner = Starlette(
        routes=routes, lifespan=refreshing, exception_handlers={Exception: pages.failed}
    )
    guarded = Guard(inner, access=access, origins=place.origins, cookie_name=place.cookie_name)
    return guarded, shared
