"""Commands without a process of their own: no interpreter has to start."""

from __future__ import annotations

import contextlib
import io

from chunkq.cli.main import main


def said(*arguments: str) -> tuple[int, str, str]:
    """Run a command in this process. Returns its exit code, stdout and stderr."""
    out, err = _stream(), _stream()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, _text(out), _text(err)


def quick(*arguments: str) -> str:
    """Run a command in this process; it must succeed. Returns its stdout."""
    code, out, err = said(*arguments)
    assert code == 0, err
    return out.strip()


def _stream() -> io.TextIOWrapper:
    """As strict as a pipe's."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue().decode("utf-8", "surrogateescape")
