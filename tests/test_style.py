"""Style as a test: what no linter of ours says."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = sorted((ROOT / "chunkq").rglob("*.py"))
WORKERS = sorted((ROOT / "workers").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
SOURCES = PACKAGE + WORKERS + TESTS

LINE_LENGTH = 100
FUNCTION_LENGTH = 70
#: Room for one state machine whole; most files stay far under 300.
FILE_LENGTH = 550
#: Written in pieces, so that this file does not find itself.
UNFINISHED = re.compile(
    "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX", "NotImplemented" + "Error"))
)
#: Who may read the environment besides settings, and why.
READS_ENVIRONMENT = {
    "chunkq/settings",
}


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_there_is_something_to_check() -> None:
    """The lists are not empty because of a wrong path."""
    assert len(PACKAGE) > 20
    assert Path(__file__).resolve() in TESTS


def test_lines_are_short() -> None:
    """100 columns, also where the formatter gives up."""
    assert [
        f"{shown(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if len(line) > LINE_LENGTH
    ] == []


def test_functions_are_short() -> None:
    """No function over 70 lines."""
    assert [
        f"{shown(path)}:{node.lineno} {node.name}"
        for path in PACKAGE + WORKERS
        for node in functions(path)
        if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LENGTH
    ] == []


def test_files_are_short() -> None:
    """One idea a file."""
    assert [
        f"{shown(path)}: {length}"
        for path in PACKAGE + WORKERS
        if (length := len(path.read_text().splitlines())) > FILE_LENGTH
    ] == []


def test_nothing_is_left_unfinished() -> None:
    """What is not done is an issue, not a comment."""
    assert [
        f"{shown(path)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if UNFINISHED.search(line)
    ] == []


def test_nobody_inside_imports_the_package_root() -> None:
    """Circles begin there."""
    found = []
    for path in PACKAGE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots = [alias.name for alias in node.names if alias.name == "chunkq"]
            elif isinstance(node, ast.ImportFrom):
                roots = ["chunkq"] if node.module == "chunkq" and node.level == 0 else []
                # `from chunkq import cli` names a room, not the root's own names
                rooms = {each.stem for each in (ROOT / "chunkq").iterdir()}
                if roots and all(alias.name in rooms for alias in node.names):
                    roots = []
            else:
                continue
            found += [f"{shown(path)}:{node.lineno}" for _ in roots]

    assert found == []


def test_only_settings_read_the_environment() -> None:
    """Whatever can be configured can be seen in `config show`."""
    found = []
    for path in PACKAGE + WORKERS:
        if any(shown(path).startswith(allowed) for allowed in READS_ENVIRONMENT):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
            imported = isinstance(node, ast.ImportFrom) and any(
                alias.name in {"environ", "getenv"} for alias in node.names
            )
            if named or imported:
                found.append(f"{shown(path)}:{node.lineno}")

    assert found == []


@pytest.mark.parametrize("path", TESTS, ids=shown)
def test_tests_say_what_they_hold_and_hold_it(path: Path) -> None:
    """Each test has a docstring and asserts something."""
    without = []
    for node in functions(path):
        if not node.name.startswith("test_"):
            continue
        if not ast.get_docstring(node):
            without.append(f"{path.name}:{node.lineno} {node.name}: no docstring")
        if not any(_asserts(each) for each in ast.walk(node)):
            without.append(f"{path.name}:{node.lineno} {node.name}: asserts nothing")

    assert without == []


def _asserts(node: ast.AST) -> bool:
    """`assert`, `pytest.raises` or a function whose name says that it asserts."""
    if isinstance(node, ast.Assert):
        return True
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name == "raises" or name.startswith(("assert_", "check_", "expect_"))


def test_no_test_is_skipped() -> None:
    """What cannot run fails, saying what is missing."""
    words = re.compile(r"pytest\.(mark\.)?(skip|skipif|xfail|importorskip)\b")

    assert [
        f"{shown(path)}:{number}"
        for path in TESTS
        if path != Path(__file__).resolve()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if words.search(line)
    ] == []
