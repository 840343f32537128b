"""What a view is: how it is drawn, and what on it is alive."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from chunkq.api.operations import Operations
from chunkq.api.views import Page, Query
from chunkq.dashboard.addresses import Fields, encoded
from chunkq.dashboard.lately import Lately
from chunkq.dashboard.live import Live, Value
from chunkq.dashboard.piecebars import PieceBars


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One look at a view. `given`: the address's fields; `generation`: of the last refresh."""

    board: Operations
    lately: Lately
    bars: PieceBars
    given: Fields
    now_ms: int
    generation: int = 0
    path: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """`build` may take a while and raises `ChunkqError`; `frame` is what does not change while the
    page is open, for the template.
    """

    name: str
    title: str
    build: Callable[[Asked], Awaitable[Live]]
    frame: Callable[[Asked], Mapping[str, object]] = lambda _: {}

    @property
    def template(self) -> str:
        return f"{self.name}.html"


def pager(page: Page[Any], query: Query, path: str, plain: Query) -> dict[str, Value]:
    """Where in the list one is, and the addresses of the pages around it."""
    first = (page.page - 1) * query.rows + 1 if page.rows else 0
    last = first + len(page.rows) - 1 if page.rows else 0

    def link(number: int, there: bool) -> Value:
        wanted = Query(
            filter=query.filter,
            sort=query.sort,
            descending=query.descending,
            page=number,
            rows=query.rows,
        )
        return {"href": _joined(path, encoded(wanted, plain)), "hidden": not there}

    return {
        "range": f"{first}–{last} of {page.total}" if page.rows else "none",
        "total": str(page.total),
        "before": link(page.page - 1, page.page > 1),
        "after": link(page.page + 1, page.page < page.pages),
        "pager": {"hidden": page.pages <= 1},
        "empty": {"hidden": bool(page.rows)},
    }


def _joined(path: str, query: str) -> str:
    return f"{path}?{query}" if query else path


def headers(
    query: Query, path: str, plain: Query, columns: tuple[tuple[str, str, bool], ...]
) -> list[dict[str, str]]:
    """The heads of a table's columns: `(sort key, words, first click descends)` to their links."""
    heads = []
    for key, words, down in columns:
        here = query.sort == key
        wanted = Query(
            filter=query.filter,
            sort=key,  # type: ignore[arg-type]
            descending=not query.descending if here else down,
            rows=query.rows,
        )
        heads.append(
            {
                "key": key,
                "words": words,
                "href": _joined(path, encoded(wanted, plain)),
                "sorted": ("descending" if query.descending else "ascending") if here else "",
            }
        )
    return heads
