"""The address of a page and what it asks for: filters, order and page of a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, get_args
from urllib.parse import parse_qsl, quote, urlencode

from chunkq.api.views import MAX_PAGE_ROWS, PAGE_ROWS, Filter, Query, SortKey
from chunkq.protocol.condition import Reason, State

SORT_KEYS: Final[tuple[SortKey, ...]] = get_args(SortKey)
#: Most fields of an address or a form: a full page of chosen rows, and some.
MAX_FIELDS: Final = MAX_PAGE_ROWS + 100
#: Nobody pages so far; keeps numbers small.
_MAX_PAGE: Final = 1_000_000
MAX_SEARCH_CHARS: Final = 200

#: The list of transfers as it opens: what is stuck comes first.
PLAIN: Final = Query()

Fields = Mapping[str, Sequence[str]]


def fields(query: str) -> dict[str, list[str]]:
    """The fields of a query string. Raises `ValueError` for too many."""
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(query, max_num_fields=MAX_FIELDS, errors="replace"):
        found.setdefault(name, []).append(value)
    return found


def first(given: Fields, name: str) -> str:
    """The first value of a field, or an empty text."""
    return next(iter(given.get(name, ())), "")


def filter_of(given: Fields) -> Filter:
    """What the fields let through; words that are none of ours are passed over."""
    return Filter(
        states=frozenset(State(each) for each in given.get("state", ()) if each in list(State)),
        reasons=frozenset(Reason(each) for each in given.get("reason", ()) if each in list(Reason)),
        peer=first(given, "peer")[:MAX_SEARCH_CHARS],
        text=first(given, "q")[:MAX_SEARCH_CHARS],
    )


def query_of(given: Fields, plain: Query = PLAIN) -> Query:
    """The page of a list that the fields ask for; the order of `plain` where they ask for none."""
    wanted = first(given, "sort")
    sort = next((key for key in SORT_KEYS if key == wanted), None)
    return Query(
        filter=filter_of(given),
        sort=sort or plain.sort,
        descending=first(given, "desc") == "1" if sort else plain.descending,
        page=number(first(given, "page"), 1, _MAX_PAGE),
        rows=number(first(given, "rows"), PAGE_ROWS, MAX_PAGE_ROWS),
    )


def number(text: str, default: int, largest: int) -> int:
    """A count from 1 to `largest`."""
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        return default
    return min(max(1, int(text)), largest)


def filter_fields(which: Filter) -> list[tuple[str, str]]:
    """The fields that `filter_of` reads back."""
    return [
        *(("state", each.value) for each in sorted(which.states)),
        *(("reason", each.value) for each in sorted(which.reasons)),
        *([("peer", which.peer)] if which.peer else []),
        *([("q", which.text)] if which.text else []),
    ]


def encoded(query: Query, plain: Query = PLAIN) -> str:
    """The address's query string for `query`, without `?`; says only what differs from `plain`."""
    rest: list[tuple[str, str]] = []
    if (query.sort, query.descending) != (plain.sort, plain.descending):
        rest += [("sort", query.sort), ("desc", str(int(query.descending)))]
    if query.page != 1:
        rest.append(("page", str(query.page)))
    if query.rows != PAGE_ROWS:
        rest.append(("rows", str(query.rows)))
    return urlencode([*filter_fields(query.filter), *rest])


def transfers_path(**given: str) -> str:
    """The list of transfers, filtered."""
    return _with("/transfers", given)


def transfer_path(transfer_id: str) -> str:
    return f"/transfers/{quote(transfer_id, safe='')}"


def _with(path: str, given: Mapping[str, str]) -> str:
    query = urlencode([(name, value) for name, value in given.items() if value])
    return f"{path}?{query}" if query else path
