"""docs/operations.md: a section for every reason, and no command that is not there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from chunkq.cli.main import app
from chunkq.protocol.condition import Reason

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = ROOT / "docs" / "operations.md"
DOCUMENTS = [RUNBOOK, *sorted(ROOT.glob("deploy/*/README.md")), ROOT / "docs" / "embedding.md"]
#: A command in the text, or on a line of its own in a block; `cq` is the alias under systemd.
INLINE = re.compile(r"`(?:chunkq|cq) ([^`]+)`")
OWN_LINE = re.compile(r"^(?: {4})?(?:chunkq|cq) ((?!=).+)$", re.MULTILINE)


def commands(path: Path) -> list[str]:
    text = re.sub(r"\n(?=\S)", " ", path.read_text())  # a command may go over the end of a line
    inline = [" ".join(found.split()) for found in INLINE.findall(text)]
    return inline + OWN_LINE.findall(path.read_text())


def problem(root: Any, line: str) -> str | None:
    """What is wrong with a command's words and options; None if nothing is."""
    command, context = root, root.context_class(root, info_name="chunkq")
    words = shlex.split(re.sub(r"\s#.*", "", line).partition("|")[0])
    while words and hasattr(command, "get_command") and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"no command {words[0]!r} in {line!r}"
        command, context = found, root.context_class(found, info_name=words.pop(0), parent=context)
    known = {name for each in command.get_params(context) for name in each.opts}
    known |= {name for each in command.get_params(context) for name in each.secondary_opts}
    unknown = [word for word in words if word.startswith("--") and word not in known | {"--help"}]
    return f"no option {unknown[0]} in {line!r}" if unknown else None


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_every_command_that_is_named_is_there(path: Path) -> None:
    """With the options that are named; anything in capitals is to be filled in."""
    root = typer.main.get_command(app)
    found = [problem(root, line) for line in commands(path)]

    assert [] == [each for each in found if each is not None]


def test_a_command_that_is_not_there_is_found() -> None:
    """So that the test above cannot pass without having looked."""
    root = typer.main.get_command(app)

    assert len(commands(RUNBOOK)) > 60
    assert "no command 'haste' in 'haste'" == problem(root, "haste")
    assert "no command 'forgive'" in str(problem(root, "peer forgive bob"))
    assert "no option --quick" in str(problem(root, "get --quick bob:docs/x"))
    assert problem(root, "peer set bob --disk 5GiB") is None


def test_there_is_a_section_for_every_reason_and_for_no_other() -> None:
    """Under the word itself, with something to do."""
    _, _, reasons = RUNBOOK.read_text().partition("## Reasons")
    sections = re.findall(r"^#### `(\w+)`\n\n(.+?)(?=\n#|\Z)", reasons, re.MULTILINE | re.DOTALL)

    assert sorted(Reason) == sorted(word for word, _ in sections)
    assert {word for word, text in sections if len(text) < 60} == set()


def test_what_is_to_be_backed_up_is_what_there_is() -> None:
    """Each entry of the table is a name that the code knows."""
    _, _, table = RUNBOOK.read_text().partition("## Back up")
    first = re.findall(r"^\| (`.+?) \|", table.partition("\nEverything")[0], re.MULTILINE)
    names = {name.rstrip("/") for cell in first for name in re.findall(r"`([\w./]+)`", cell)}
    code = "".join(path.read_text() for path in (ROOT / "chunkq").rglob("*.py"))
    there = {name for name in names if f'"{name}"' in code or name == "tls"}

    assert names == there
