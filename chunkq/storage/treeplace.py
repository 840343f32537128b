"""The tree that a directory's transfer builds, as its driver sees it."""

from __future__ import annotations

from chunkq.errors import DestinationUnusable
from chunkq.protocol.messages import Entry
from chunkq.storage.destination import Destination
from chunkq.storage.kinds import Kind, kind_of


class TreePlace:
    """Entries of a listing, placed below one destination directory."""

    def __init__(self, destination: Destination, *, overwrite: bool) -> None:
        self._destination = destination
        self._overwrite = overwrite

    def claim(self, parts: tuple[str, ...]) -> None:
        """Raises `UnsafeName` for a twin in case or Unicode form."""
        self._destination.claim_name(parts)

    def make_dir(self, parts: tuple[str, ...]) -> None:
        self._destination.make_dirs(parts)

    def has(self, parts: tuple[str, ...], entry: Entry) -> bool:
        """Whether a file of that size and time is there: then it came with an earlier run."""
        status = self._destination.status(parts)
        if status is None:
            return False
        if kind_of(status) is Kind.DIRECTORY:
            raise DestinationUnusable(
                f"{self._destination.path_of(parts)} is a directory; a file cannot take its place",
                hint="move it away, or give another destination",
            )
        return (
            kind_of(status) is Kind.FILE
            and status.st_size == entry.size
            and status.st_mtime_ns == entry.mtime_ns
        )

    def make_link(self, parts: tuple[str, ...], target: str) -> None:
        self._destination.make_link(parts, target, overwrite=self._overwrite)

    def set_meta(self, parts: tuple[str, ...], entry: Entry) -> None:
        self._destination.set_meta(parts, entry.mode, entry.mtime_ns, is_dir=True)
