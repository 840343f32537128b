"""How a person names what is to be fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chunkq.errors import UsageError
from chunkq.protocol.names import check_path
from chunkq.settings import MAX_ORIGINS


@dataclass(frozen=True, slots=True)
class Source:
    """`SITE:SHARE/PATH`; with a slash at the end, a directory."""

    peer: str
    share: str
    path: str
    tree: bool

    @classmethod
    def parse(cls, text: str) -> Source:
        """Raises `UsageError` naming what is missing, `UnsafeName` for a path that cannot be."""
        peer, colon, rest = text.partition(":")
        if not colon or not peer or not rest or rest.startswith("/"):
            raise UsageError(
                f"{text!r} names no source",
                hint="write SITE:SHARE/PATH, for instance bob:docs/report.pdf, or bob:docs/",
            )
        share, slash, path = rest.partition("/")
        bare = path.rstrip("/")
        if not slash:
            raise UsageError(
                f"{text!r} names a share, not a file",
                hint=f"write {text}/ to get all of it, or {text}/PATH for one file",
            )
        check_path(bare)
        return cls(peer, share, bare, tree=text.endswith("/"))

    def __str__(self) -> str:
        return f"{self.peer}:{self.share}/{self.path}" + ("/" if self.tree and self.path else "")

    @property
    def name(self) -> str:
        """What it is called when it arrives."""
        return self.path.rpartition("/")[2] or self.share


def check_alike(first: Source, others: Sequence[Source]) -> None:
    """Whether these can be one thing at several peers. Raises `UsageError`."""
    if len(others) >= MAX_ORIGINS:
        raise UsageError(
            f"{1 + len(others)} sources of one file are too many, at most {MAX_ORIGINS}"
        )
    peers = {first.peer: first}
    for source in others:
        if source.peer in peers:
            raise UsageError(
                f"{peers[source.peer]} and {source} are at one site",
                hint="several sources of one file are at different sites",
            )
        if source.tree != first.tree:
            raise UsageError(
                f"{first} and {source}: one is a directory, the other is not",
                hint="write a slash at the end of both, or of neither",
            )
        peers[source.peer] = source
