"""What the handlers of the page share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import HTMLResponse

from chunkq.api.operations import Operations
from chunkq.dashboard.access import Access, Session
from chunkq.dashboard.actions import Said
from chunkq.dashboard.addresses import Fields, fields
from chunkq.dashboard.assets import Assets
from chunkq.dashboard.elsewhere import Elsewhere
from chunkq.dashboard.events import Streams
from chunkq.dashboard.guard import MAX_BODY_BYTES
from chunkq.dashboard.lately import Lately
from chunkq.dashboard.piecebars import PieceBars
from chunkq.dashboard.refresher import Refresher
from chunkq.dashboard.templating import environment
from chunkq.dashboard.views import LISTS
from chunkq.errors import UsageError

#: Answers that wait to be shown to browsers without script; the oldest is forgotten.
_MAX_SAID: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Whose page this is, where, and who may see it.

    `origins`: allowed `Host` → origin. `log_in_refused`: called with the address of whoever tried.
    """

    site: str
    host: str
    origins: Mapping[str, str]
    cookie_name: str
    secure: bool = False
    passwords: Mapping[str, str] = field(default_factory=dict, repr=False)
    now_ms: Callable[[], int]
    log_in_refused: Callable[[str], None]


class Shared:
    """One application's."""

    def __init__(
        self, board: Operations, place: Place, access: Access, elsewhere: Elsewhere
    ) -> None:
        self.board = board
        self.place = place
        self.access = access
        self.elsewhere = elsewhere
        self.refresher = Refresher(board, elsewhere, place.now_ms)
        self.streams = Streams()
        self.lately = Lately()
        self.bars = PieceBars(board)
        self.assets = Assets()
        self._templates: Environment = environment()
        self._said: OrderedDict[str, Said] = OrderedDict()

    def page(
        self,
        request: Request,
        template: str,
        status: int = 200,
        values: Mapping[str, object] | None = None,
    ) -> HTMLResponse:
        """A whole page, with what was said to this person meanwhile."""
        session: Session | None = request.state.session
        text = self._templates.get_template(template).render(
            site=self.place.site,
            session=session,
            form_token=self.access.form_token(session) if session else "",
            version=self.assets.version,
            lists=LISTS,
            said=self._said.pop(session.number, None) if session else None,
            address=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            **(values or {}),
        )
        return HTMLResponse(text, status)

    def say(self, session: Session, said: Said) -> None:
        """Keep it for this person's next page."""
        self._said[session.number] = said
        while len(self._said) > _MAX_SAID:
            self._said.popitem(last=False)


async def form_of(request: Request) -> Fields:
    """The fields of a form. Raises `UsageError` for one that is too large or none."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind != "application/x-www-form-urlencoded":
        raise UsageError("that is no form")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise UsageError("the form is too large")
    try:
        return fields(body.decode("utf-8", "replace"))
    except ValueError as error:
        raise UsageError("the form has too many fields") from error


def fields_of(request: Request) -> Fields:
    """The fields of the address; none of them if there are too many."""
    try:
        return fields(request.url.query)
    except ValueError:
        return {}
