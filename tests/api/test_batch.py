"""Several sources in one command: which of them are one thing, and where each goes."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkq.api.batch import place
from chunkq.errors import UsageError


def placed(sources: list[str], destination: str | None = None) -> list[tuple[str, str]]:
    return [(str(each), str(each.path)) for each in place(sources, destination)]


def test_one_name_at_several_sites_is_one_thing(tmp_path: Path) -> None:
    """Into the working directory, to a path, into a directory; files and trees."""
    both = ["bob:docs/f", "eve:copies/x/f"]
    one = " ".join(both)
    assert [(one, "f")] == placed(both)
    assert [(one, f"{tmp_path}/new")] == placed(both, f"{tmp_path}/new")
    assert [(one, f"{tmp_path}/f")] == placed(both, str(tmp_path))
    assert [(one, "in/f")] == placed(both, "in/")
    assert [("bob:docs/d/ eve:d/", "to")] == placed(["bob:docs/d/", "eve:d/"], "to")


def test_names_that_differ_are_several_things() -> None:
    """Those of one name among them are one."""
    sources = ["bob:docs/a", "bob:docs/b", "eve:docs/a"]
    assert [("bob:docs/a eve:docs/a", "in/a"), ("bob:docs/b", "in/b")] == placed(sources, "in/")
    with pytest.raises(UsageError, match="is no directory, and there are 3 sources"):
        placed(sources, "missing")


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["bob:docs/a", "bob:docs/x/a"], "bob:docs/a and bob:docs/x/a are at one site"),
        (["bob:docs/a", "eve:docs/a/"], "one is a directory"),
        ([f"p{number}:docs/a" for number in range(17)], "17 sources of one file"),
    ],
)
def test_what_cannot_be_one_thing_is_told(sources: list[str], words: str) -> None:
    """And that both would become the same."""
    with pytest.raises(UsageError) as raised:
        placed(sources, "in/")

    assert words in raised.value.message
    assert "would both become in/a" in raised.value.message
