"""What the documents name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*/*.md")])
#: `tests/a/test_b.py::test_c`, or `::test_d` of the file that was named last.
TEST = re.compile(r"`(tests/[\w/]+\.py)?(?:::(test_\w+))?[^`\n]*`")
PLACE = re.compile(r"`((?:chunkq|workers|tests|deploy|docs|\.ci)/[\w./-]+)[^`\n]*`")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")


def named_tests(text: str) -> list[tuple[str, str]]:
    """Each (file, function) that is named; a name without a file is of the file before it."""
    found, last = [], ""
    for file, function in TEST.findall(text):
        last = file or last
        if function:
            found.append((last, function))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_a_document_names_is_there(document: Path) -> None:
    """Under that name, in that file."""
    missing = [
        f"{file}::{function}"
        for file, function in named_tests(document.read_text())
        if f"def {function}(" not in (ROOT / file).read_text()
    ]

    assert [] == missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    """In backquotes from the project's root, or as a link from where the document is."""
    text = document.read_text()
    missing = [each for each in PLACE.findall(text) if not (ROOT / each.rstrip("/.")).exists()]
    missing += [each for each in LINK.findall(text) if not (document.parent / each).exists()]

    assert [] == missing


def test_the_cases_are_many() -> None:
    """So that the tests above have something to look at."""
    assert len(named_tests((ROOT / "docs" / "cases.md").read_text())) > 80
