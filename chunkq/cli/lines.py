"""A line that was given as text, in a file, or on stdin."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from chunkq.errors import NotFound, UsageError


def read_line(
    given: str, *, prefixes: Sequence[str], what: str, printed_by: str, largest: int
) -> str:
    """The line without its white space. Raises `UsageError`, `NotFound`.

    `what` it is, for messages, and which command has `printed_by` it.
    """
    if given == "-":
        text = sys.stdin.read(largest + 1)
    elif given.lstrip().startswith(tuple(prefixes)):
        text = given
    else:
        try:
            with Path(given).open(encoding="utf-8", errors="replace") as file:
                text = file.read(largest + 1)
        except FileNotFoundError:
            raise NotFound(
                f"{given!r} is neither a {what} nor a file with one",
                hint=f"give the line that {printed_by} prints; it begins with {prefixes[0]}:",
            ) from None
        except OSError as error:
            raise UsageError(f"cannot read {given}: {error.strerror}") from error
    if len(text) > largest:
        raise UsageError(f"this is no {what}: it is longer than one can be")
    return "".join(text.split())
