"""Transfers: what is moving, what is stuck and why, and the list of all."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from chunkq.dashboard import rows, summary, wording
from chunkq.dashboard.addresses import PLAIN, filter_fields, query_of
from chunkq.dashboard.live import Cells, Live, Value
from chunkq.dashboard.views.view import Asked, View, headers, pager
from chunkq.protocol.condition import Reason, State

PATH: Final = "/transfers"
#: Sort key, words, whether the first click shows the largest first.
COLUMNS: Final = (
    ("state", "State", False),
    ("name", "Name", False),
    ("peer", "Peer", False),
    ("size", "Size", True),
    ("done", "Done", True),
    ("rate", "Rate", True),
    ("eta", "ETA", False),
    ("age", "Age", True),
    ("progress", "Last progress", False),
    ("retries", "Retries", True),
    ("priority", "Priority", False),
)


async def strip(asked: Asked) -> tuple[Cells, Mapping[str, Cells]]:
    """The summary, found out once a refresh for all tabs."""

    async def find() -> tuple[Cells, Mapping[str, Cells]]:
        all_rows = asked.board.rows()
        links = {peer.alias: peer.link for peer in asked.board.peers()}
        groups = summary.groups_of(all_rows)
        rate = sum(row.rate_bytes_per_s for row in all_rows)
        stuck = sum(group.count for group in groups)
        more = sum(group.count for group in groups[summary.MAX_GROUPS :])
        cells: dict[str, Value] = {
            **summary.count_cells(asked.board.counts()),
            "total-rate": wording.rate(rate) if rate else "nothing arrives",
            "stuck": wording.count(stuck),
            "stuck-box": {"data-tone": "stalled" if stuck else "done"},
            "all-well": {"hidden": stuck > 0},
            "more-groups": {"text": f"and {more} more", "hidden": not more},
        }
        return cells, summary.group_cells(groups, links)

    return await asked.lately.get(("strip", asked.generation), 60.0, find)


async def build(asked: Asked) -> Live:
    query = query_of(asked.given)
    page = asked.board.transfers(query)
    cells, groups = await strip(asked)
    bars = await asyncio.to_thread(asked.bars.of, page.rows)
    return Live(
        values={**cells, **pager(page, query, PATH, PLAIN)},
        lists={
            "groups": groups,
            "transfers": {
                row.id: rows.transfer_cells(row, asked.now_ms, bars.get(row.id, ()))
                for row in page.rows
            },
        },
    )


def frame(asked: Asked) -> Mapping[str, object]:
    query = query_of(asked.given)
    return {
        "query": query,
        "where": filter_fields(query.filter),
        "heads": headers(query, PATH, PLAIN, COLUMNS),
        "chips": summary.chips(),
        "states": list(State),
        "reasons": list(Reason),
        "peers": sorted(peer.alias for peer in asked.board.peers()),
    }


VIEW: Final = View(name="transfers", title="Transfers", build=build, frame=frame)
