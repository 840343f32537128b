"""History: what ended, kept over restarts, failures longer than successes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from chunkq.api.views import Query
from chunkq.dashboard import rows
from chunkq.dashboard.addresses import query_of
from chunkq.dashboard.live import Live
from chunkq.dashboard.views.view import Asked, View, headers, pager
from chunkq.protocol.condition import State

PATH: Final = "/history"
#: The newest first.
PLAIN: Final = Query(sort="age")
COLUMNS: Final = (
    ("state", "State", False),
    ("name", "Name", False),
    ("peer", "Peer", False),
    ("size", "Size", True),
    ("age", "Age", False),
    ("retries", "Retries", True),
)


async def build(asked: Asked) -> Live:
    query = query_of(asked.given, PLAIN)
    page = await asyncio.to_thread(asked.board.history, query)
    return Live(
        values=pager(page, query, PATH, PLAIN),
        lists={"history": {row.id: rows.transfer_cells(row, asked.now_ms) for row in page.rows}},
    )


def frame(asked: Asked) -> Mapping[str, object]:
    query = query_of(asked.given, PLAIN)
    return {
        "query": query,
        "heads": headers(query, PATH, PLAIN, COLUMNS),
        "states": [state for state in State if state.ended],
    }


VIEW: Final = View(name="history", title="History", build=build, frame=frame)
