"""What people and programs see: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from chunkq.errors import ChunkqError, ExitCode


def out(text: str) -> None:
    """A result, on stdout."""
    print(text)


def emit(kind: str, fields: Mapping[str, object]) -> None:
    """One JSON object on a line of stdout, with its `type`."""
    print(json.dumps({"type": kind, **fields}, default=str), flush=True)


def note(text: str) -> None:
    """Something worth knowing that is no result, on stderr."""
    print(clean(text), file=sys.stderr)


def warn(text: str) -> None:
    """Something that may be wrong, on stderr."""
    _labelled("warning", "yellow", text, sys.stderr)


def hint(text: str) -> None:
    """What to do, on stderr."""
    _labelled("hint", "cyan", text, sys.stderr)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Aligned columns on stdout, never cut."""
    if not sys.stdout.isatty():
        widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
        for row in (headings, *rows):
            print("  ".join(map(str.ljust, map(clean, row), widths)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        grid.add_row(*(Text(clean(cell), overflow="fold") for cell in row))
    Console().print(grid)


def fail(error: ChunkqError, *, as_json: bool) -> ExitCode:
    """Say what was wrong and what to do; returns the exit code."""
    if as_json:
        fields: dict[str, object] = {"error": type(error).__name__, "message": error.message}
        if error.hint:
            fields["hint"] = error.hint
        emit("error", {**fields, "retry": error.retry, "exit_code": int(error.exit_code)})
    else:
        _labelled("error", "bold red", error.message, sys.stderr)
        if error.hint:
            hint(error.hint)
    return error.exit_code


def clean(text: str) -> str:
    """The text without control characters, which a terminal might obey."""
    return "".join(char if char.isprintable() or char == "\n" else "�" for char in text)


def _labelled(label: str, style: str, text: str, stream: TextIO) -> None:
    if not stream.isatty():
        print(f"{label}: {clean(text)}", file=stream)
        return
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble((f"{label}:", style), " ", clean(text))
    Console(file=stream, highlight=False).print(line, soft_wrap=True)
