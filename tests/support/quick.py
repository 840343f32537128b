"""Commands without a process of their own, for setting up: no interpreter has to start."""

from __future__ import annotations

import contextlib
import io

from chunkq.cli.main import main


def quick(*arguments: str) -> str:
    """Run a command in this process; it must succeed. Returns its stdout."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    assert code == 0, err.getvalue()
    return out.getvalue().strip()
