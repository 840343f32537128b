"""Jinja as the page uses it: everything escaped, nothing undefined passed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from chunkq.dashboard.live import ATTRIBUTES, Value


class _Blank(Mapping[str, str]):
    """Cells of a row that is not there yet: the script fills in a copy of it."""

    def __getitem__(self, name: str) -> str:
        return ""

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


BLANK: Final = _Blank()


def text(value: Value) -> str:
    """What stands in the element."""
    return value if isinstance(value, str) else str(value.get("text", ""))


def attributes(value: Value) -> Markup:
    """What the element carries besides, as markup."""
    if isinstance(value, str):
        return Markup("")
    found = []
    for name, each in value.items():
        if name not in ATTRIBUTES:
            raise ValueError(f"{name} is no attribute that a page changes")
        if name == "hidden":
            found.append(" hidden" if each else "")
        elif name != "text":
            found.append(f' {name}="{escape(each)}"')
    return Markup("".join(found))  # noqa: S704 - escaped just above


def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("chunkq.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["t"] = text
    made.filters["a"] = attributes
    made.globals["blank"] = BLANK
    return made
