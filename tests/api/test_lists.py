"""Pages of the list: order, filters, search."""

from __future__ import annotations

import itertools
from typing import Any

from chunkq.api.lists import choose
from chunkq.api.views import MAX_PAGE_ROWS, Filter, Query, TransferRow
from chunkq.protocol.condition import Reason, State

NUMBERS = itertools.count(1)


def row(state: State = State.RUNNING, **fields: Any) -> TransferRow:
    number = next(NUMBERS)
    return TransferRow(**{"id": f"{number:04d}", "state": state, "created_ms": number, **fields})


def ids(rows: list[TransferRow], **query: Any) -> list[str]:
    return [each.id for each in choose(rows, Query(**query)).rows]


def test_what_needs_a_person_stands_first() -> None:
    """Stalled, failed, what cannot begin; then what moves, what waits, what is over."""
    states = [
        State.STALLED,
        State.FAILED,
        State.QUEUED,  # with a reason
        State.RECOVERING,
        State.OPENING,
        State.RUNNING,
        State.VERIFYING,
        State.PUBLISHING,
        State.PAUSED,
        State.QUEUED,
        State.DONE,
        State.CANCELLED,
    ]
    rows = [row(state) for state in states]
    rows[2] = row(State.QUEUED, reason=Reason.NO_WORKER)

    assert [each.id for each in rows] == ids(rows[::-1])


def test_the_newest_of_what_is_equal_and_the_oldest_of_what_waits() -> None:
    """Jobs stand in the order in which they are taken."""
    failed = [row(State.FAILED) for _ in range(3)]
    queued = [row(State.QUEUED) for _ in range(3)]

    assert [each.id for each in (*failed[::-1], *queued)] == ids(failed + queued)


def test_each_key_sorts_both_ways_and_keeps_the_order_of_equals() -> None:
    """Unknown sizes are the smallest, unknown times left the longest."""
    one = row(name="b", peer="x", size_bytes=5, done_bytes=1, rate_bytes_per_s=9, eta_s=3.0)
    two = row(name="A", peer="y", size_bytes=None, rate_bytes_per_s=1, retries=2, progress_ms=8)
    three = row(name="c", peer="x", size_bytes=7, eta_s=1.0, priority="urgent")
    rows = [one, two, three]
    expected = {
        "name": [two, one, three],
        "peer": [three, one, two],
        "size": [two, one, three],
        "done": [three, two, one],
        "rate": [three, two, one],
        "eta": [three, one, two],
        "age": [three, two, one],
        "progress": [three, one, two],
        "retries": [three, one, two],
        "priority": [two, one, three],
    }
    assert {key: [each.id for each in found] for key, found in expected.items()} == {
        key: ids(rows, sort=key) for key in expected
    }
    assert [each.id for each in (two, three, one)] == ids(rows, sort="peer", descending=True)


def test_filters_hold_together() -> None:
    """State, reason, peer, ids and text, letter case aside."""
    one = row(State.FAILED, reason=Reason.NOT_FOUND, peer="bob", sources=("bob:docs/Straße",))
    two = row(State.FAILED, reason=Reason.DISK_FULL, peer="bob", destination="/srv/Inbox/x")
    three = row(peer="eve")
    rows = [one, two, three]

    assert [two.id, one.id] == ids(rows, filter=Filter(states=frozenset({State.FAILED})))
    assert [two.id] == ids(rows, filter=Filter(peer="bob", reasons=frozenset({Reason.DISK_FULL})))
    assert [one.id] == ids(rows, filter=Filter(text="STRASSE"))
    assert [two.id] == ids(rows, filter=Filter(text="inbox"))
    assert [three.id] == ids(rows, filter=Filter(ids=frozenset({three.id})))
    assert [] == ids(rows, filter=Filter(peer="eve", text="docs"))


def test_pages() -> None:
    """Beyond the last there is the last; no page is larger than allowed."""
    rows = [row() for _ in range(7)]
    found = choose(rows, Query(page=9, rows=3))

    assert (1, 7, 3, 3) == (len(found.rows), found.total, found.page, found.pages)
    assert (0, 1, 1) == (choose([], Query(page=4)).total, choose([], Query(page=4)).page, 1)
    assert MAX_PAGE_ROWS == len(choose(rows * 100, Query(rows=10**9)).rows)
