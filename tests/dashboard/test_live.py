"""What changed on a page, as messages; and what comes of them on the other side."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from chunkq.dashboard.live import Live, difference, whole

#: As in the product: a list's rows all have the same cells.
ROWS = st.dictionaries(
    st.sampled_from("pqrs"), st.fixed_dictionaries({"x": st.sampled_from("12")}), max_size=4
)
LIVES = st.builds(
    Live,
    values=st.fixed_dictionaries({"v": st.sampled_from("12")}),
    lists=st.fixed_dictionaries({"rows": ROWS}),
)


class Reader:
    """What the script of the page does with messages, without a page."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.rows: dict[str, dict[str, object]] = {}

    def hear(self, message: dict) -> None:
        self.values.update(message.get("values", {}))
        change = message.get("lists", {}).get("rows", {})
        for key, cells in change.get("set", {}).items():
            self.rows.setdefault(key, {}).update(cells)
        if "order" in change:
            self.rows = {key: self.rows[key] for key in change["order"]}


@given(st.lists(LIVES, min_size=1, max_size=6))
def test_messages_lead_to_what_is_shown(lives: list[Live]) -> None:
    """The first whole, then differences: after each of them a reader has what the site has."""
    reader, before = Reader(), None
    for now in lives:
        reader.hear(whole(now) if before is None else difference(before, now))
        before = now

        assert dict(now.values) == reader.values
        assert {key: dict(cells) for key, cells in now.lists["rows"].items()} == reader.rows
        assert list(now.lists["rows"]) == list(reader.rows)


def test_nothing_new_says_nothing() -> None:
    """An idle page costs an empty message."""
    live = Live(values={"v": "1"}, lists={"rows": {"p": {"x": "1"}}})

    assert difference(live, live) == {}


def test_a_change_names_only_the_cell() -> None:
    """One of fifty rows changed: its cell is all that is sent."""
    rows = {str(number): {"x": "1", "y": "2"} for number in range(50)}
    after = {**rows, "7": {"x": "1", "y": "3"}}

    assert difference(Live(lists={"rows": rows}), Live(lists={"rows": after})) == {
        "lists": {"rows": {"set": {"7": {"y": "3"}}}}
    }
