"""What is alive on a page: named values, and lists of rows of named values; and what changed.

The templates draw a page from it, and the script changes the same places as messages come: both
find a place by its name. A value is a text, or attributes of its element (`text` among them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: The attributes that the script will set; `text` is the element's text, `hidden` a boolean.
ATTRIBUTES: Final = frozenset(
    {"text", "hidden", "title", "href", "d", "value", "data-tone", "aria-label", "viewBox"}
)

Value = str | Mapping[str, str | bool]
Cells = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Live:
    """`lists`: name → key of a row → its cells, in the order of the page.

    The cell `row` of a row is about the row's own element.
    """

    values: Cells = field(default_factory=dict)
    lists: Mapping[str, Mapping[str, Cells]] = field(default_factory=dict)


def whole(live: Live) -> dict[str, object]:
    """A message after which the page shows `live`, whatever it showed before."""
    return {
        "full": True,
        "values": dict(live.values),
        "lists": {
            name: {"order": list(rows), "set": {key: dict(rows[key]) for key in rows}}
            for name, rows in live.lists.items()
        },
    }


def difference(before: Live, after: Live) -> dict[str, object]:
    """A message that brings a page from one to the other; empty if nothing changed."""
    message: dict[str, object] = {}
    if values := _changed(before.values, after.values):
        message["values"] = values
    lists = {
        name: change
        for name, rows in after.lists.items()
        if (change := _list_change(before.lists.get(name, {}), rows))
    }
    if lists:
        message["lists"] = lists
    return message


def _list_change(before: Mapping[str, Cells], after: Mapping[str, Cells]) -> dict[str, object]:
    change: dict[str, object] = {}
    changed = {key: _changed(before.get(key, {}), cells) for key, cells in after.items()}
    if changed := {key: cells for key, cells in changed.items() if cells}:
        change["set"] = changed
    if list(before) != list(after):
        change["order"] = list(after)
    return change


def _changed(before: Cells, after: Cells) -> dict[str, Value]:
    return {name: value for name, value in after.items() if before.get(name) != value}
