"""Several sources in one command: what goes where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chunkq.api.source import Source, check_alike
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


@dataclass(frozen=True, slots=True)
class Placed:
    """One thing to get: where it is to be had, the first choice first, and where it goes."""

    sources: tuple[Source, ...]
    path: Path

    @property
    def source(self) -> Source:
        return self.sources[0]

    def __str__(self) -> str:
        return " ".join(map(str, self.sources))


def place(sources: Sequence[str], destination: str | None) -> list[Placed]:
    """Where each source goes: a file to a path, a tree into a directory.

    One file goes to the destination itself, or into it if that is a directory; one tree's contents
    go into it; of several, each gets its own name in it. Sources of one name and from different
    sites are one thing, to be had from all of them. Raises `UsageError`.
    """
    parsed = [Source.parse(source) for source in sources]
    target = Path(destination) if destination is not None else None
    into = target is not None and (destination or "").endswith("/")
    if len({source.name for source in parsed}) == 1 and not _twice_from(parsed):
        source = parsed[0]
        if target is None:
            path = Path(source.name)
        elif source.tree or not (into or target.is_dir()):
            path = target
        else:
            path = target / source.name
        return [Placed(_alike(parsed, path), path)]
    if target is not None and not (into or target.is_dir()):
        raise UsageError(
            f"{target} is no directory, and there are {len(parsed)} sources",
            hint="make it, or end its name with a slash; what is to become one file has the same"
            " name at each site",
        )
    placed: dict[Path, list[Source]] = {}
    for source in parsed:
        placed.setdefault((target or Path()) / source.name, []).append(source)
    return [Placed(_alike(found, path), path) for path, found in placed.items()]


def _twice_from(sources: Sequence[Source]) -> bool:
    return len({source.peer for source in sources}) < len(sources)


def _alike(sources: Sequence[Source], path: Path) -> tuple[Source, ...]:
    """Sources of one thing. Raises `UsageError` if they cannot be."""
    try:
        check_alike(sources[0], sources[1:])
    except UsageError as error:
        raise UsageError(
            f"{error.message}, and would both become {path}",
            hint="get them with two commands, to different destinations",
        ) from None
    return tuple(sources)
