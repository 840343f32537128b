"""Several sources in one command: what goes where."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chunkq.api.source import Source
from chunkq.errors import UsageError


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """The sources, and the destination if the last argument is one.

    A source has a colon before the first slash; `./a:b` is a destination. Raises `UsageError`.
    """
    *first, last = arguments
    if ":" in last.partition("/")[0]:
        return list(arguments), None
    if not first:
        Source.parse(last)  # says what is missing
    return first, last


def place(sources: Sequence[str], destination: str | None) -> list[tuple[Source, Path]]:
    """Where each source goes: a file to a path, a tree into a directory.

    One file goes to the destination itself, or into it if that is a directory; one tree's contents
    go into it; of several, each gets its own name in it. Raises `UsageError`.
    """
    parsed = [Source.parse(source) for source in sources]
    target = Path(destination) if destination is not None else None
    into = target is not None and (destination or "").endswith("/")
    if len(parsed) == 1:
        source = parsed[0]
        if target is None:
            return [(source, Path(source.name))]
        if source.tree or not (into or target.is_dir()):
            return [(source, target)]
        return [(source, target / source.name)]
    if target is not None and not (into or target.is_dir()):
        raise UsageError(
            f"{target} is no directory, and there are {len(parsed)} sources",
            hint="make it, or end its name with a slash",
        )
    placed = [(source, (target or Path()) / source.name) for source in parsed]
    seen: dict[Path, Source] = {}
    for source, path in placed:
        if path in seen:
            raise UsageError(
                f"{seen[path]} and {source} would both become {path}",
                hint="get them with two commands, to different destinations",
            )
        seen[path] = source
    return placed
