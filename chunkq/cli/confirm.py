"""A question before what cannot be undone."""

from __future__ import annotations

import sys

import typer

from chunkq.errors import UsageError


def confirm(what: str, *, yes: bool) -> None:
    """Return if the person agrees, or gave --yes. Raises `UsageError` where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{what}: this cannot be undone", hint="give --yes if it is meant")
    typer.confirm(f"{what}. This cannot be undone. Go on?", abort=True, err=True)
