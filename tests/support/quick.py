"""Commands without a process of their own: no interpreter has to start."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from typing import Any

from chunkq.cli.main import main


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The lines of stdout as JSON objects."""
        return [json.loads(line) for line in self.out.splitlines()]


def run_inside(*arguments: str) -> Done:
    """Run a command in this process, to its end."""
    out, err = _stream(), _stream()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return Done(code, _text(out), _text(err))


def quick(*arguments: str) -> str:
    """Run a command in this process; it must succeed. Returns its stdout."""
    done = run_inside(*arguments)
    assert done.code == 0, done.err
    return done.out.strip()


def _stream() -> io.TextIOWrapper:
    """As strict as a pipe's."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode("utf-8", "surrogateescape")
