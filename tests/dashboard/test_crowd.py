"""Thousands of transfers: only the rows of the page are drawn, watched and sent."""

from __future__ import annotations

from typing import Any

import pytest

from chunkq.dashboard.events import SILENCE_S, changes
from chunkq.dashboard.live import Live
from chunkq.dashboard.views import VIEWS
from chunkq.dashboard.views import transfers as view
from tests.api.operating import Operated
from tests.dashboard.application import Visitor
from tests.dashboard.cost import asked, crowd

COUNT = 600


@pytest.fixture(scope="module", autouse=True)
def crowded(operated: Operated) -> None:
    """A page's worth many times over."""
    crowd(operated, COUNT)


async def test_a_page_draws_its_rows_only(
    visitor: Visitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty rows are made into cells, however many there are; the rest is counted."""
    drawn: list[str] = []
    plain = view.rows.transfer_cells

    def counted(row: Any, *given: Any) -> Any:
        drawn.append(row.id)
        return plain(row, *given)

    monkeypatch.setattr(view.rows, "transfer_cells", counted)
    visitor.log_in()
    answer = await visitor.client.get("/transfers?sort=name&page=2")

    assert 50 == len(set(drawn)) == len(drawn)
    assert f"51–100 of {COUNT}" in answer.text
    assert 50 + 1 == answer.text.count('name="id"')


async def test_a_tab_is_sent_its_rows_only(operated: Operated, visitor: Visitor) -> None:
    """The first message has the page; a change on another page is only counted on top."""
    query = {"sort": ["name"], "desc": ["0"]}
    shared = visitor.shared

    async def look() -> Live:
        return await VIEWS["transfers"].build(asked(visitor, query, shared.refresher.generation))

    stream = changes(look, shared.refresher, shared.streams)
    first: Any = await anext(stream)
    last = operated.operations.transfers(view.query_of({"q": [f"/{COUNT - 1:05d}"]})).rows[0]
    operated.store.pause(last.id, "erin")
    await shared.refresher.look()
    second: Any = await anext(stream)
    await stream.aclose()

    assert 50 == len(first["lists"]["transfers"]["order"])
    assert (1, 2) == (first["number"], second["number"])
    assert "transfers" not in second.get("lists", {})
    assert "1" == second["values"]["count-paused"]
    assert SILENCE_S < 5
