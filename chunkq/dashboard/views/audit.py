"""Audit: who did what, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from chunkq.api.views import Query
from chunkq.dashboard import wording
from chunkq.dashboard.addresses import query_of, transfer_path
from chunkq.dashboard.live import Cells, Live
from chunkq.dashboard.views.transfer import moment_cells, moment_keys
from chunkq.dashboard.views.view import Asked, View, pager
from chunkq.storage.journal import Event

PATH: Final = "/audit"
_PLAIN: Final = Query()


async def build(asked: Asked) -> Live:
    query = query_of(asked.given)
    page = await asyncio.to_thread(asked.board.audit, query.page, query.rows)
    names = await asked.lately.get(("names", asked.generation), 60.0, lambda: _names(asked))
    return Live(
        values=pager(page, query, PATH, _PLAIN),
        lists={
            "audit": {
                key: _cells(each, names)
                for key, each in zip(moment_keys(page.rows), page.rows, strict=True)
            }
        },
    )


async def _names(asked: Asked) -> Mapping[str, str]:
    return {row.id: row.name for row in asked.board.rows()}


def _cells(moment: Event, names: Mapping[str, str]) -> Cells:
    about = names.get(moment.transfer) or moment.transfer or moment.subject
    return {
        **moment_cells(moment),
        "about": {
            "text": wording.shown(about) or wording.NONE,
            "href": transfer_path(moment.transfer) if moment.transfer else "/audit",
        },
    }


VIEW: Final = View(name="audit", title="Audit", build=build)
