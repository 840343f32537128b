"""The tree that a directory's transfer builds, as its driver sees it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from chunkq.errors import DestinationUnusable, StorageError, UnsafeName
from chunkq.ports import Taken
from chunkq.protocol.limits import MAX_PATH_DEPTH
from chunkq.protocol.messages import Entry
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.destination import Destination
from chunkq.storage.kinds import Kind, kind_of, lstat_at
from chunkq.storage.mapping import storage_errors


class TreePlace:
    """Entries of a listing, placed below one destination directory."""

    def __init__(self, destination: Destination, *, overwrite: bool) -> None:
        self._destination = destination
        self._overwrite = overwrite

    def take(
        self, parent: tuple[str, ...], entries: Sequence[Entry], *, links: bool
    ) -> list[Taken | StorageError]:
        """Place directories and, if wanted, links; tell of each entry what it means here.

        New names are durable afterwards: one fsync for all of them. Raises what concerns the
        directory itself.
        """
        taken: list[Taken | StorageError] = []
        fd = self._destination.open_directory(parent)
        try:
            for entry in entries:
                try:
                    taken.append(self._take(fd, parent, entry, links))
                except StorageError as error:
                    taken.append(error)
            if Taken.DIRECTORY in taken:
                path = self._destination.path_of(parent)
                with storage_errors("fsync", path, destination=True, sync=True):
                    descriptors.sync_directory(fd)
        finally:
            close(fd)
        return taken

    def leave(self, parent: tuple[str, ...]) -> None:
        """All entries of that directory were taken."""
        self._destination.release_names(parent)

    def set_meta(self, parts: tuple[str, ...], entry: Entry) -> None:
        self._destination.set_meta(parts, entry.mode, entry.mtime_ns, is_dir=True)

    def _take(self, fd: int, parent: tuple[str, ...], entry: Entry, links: bool) -> Taken:
        """Raises `UnsafeName` for a twin in case or Unicode form, `StorageError`."""
        if entry.type == "link" and not links:
            return Taken.LINK_LEFT
        if len(parent) >= MAX_PATH_DEPTH:
            raise UnsafeName(f"deeper than {MAX_PATH_DEPTH} directories")
        there = self._destination.claim_in(parent, entry.name)
        if entry.type == "dir":
            self._make_dir(fd, (*parent, entry.name), there)
            return Taken.DIRECTORY
        if entry.type == "link":
            self._destination.make_link(
                (*parent, entry.name), entry.target or "", overwrite=self._overwrite
            )
            return Taken.LINK
        return Taken.UNCHANGED if there and self._has(fd, parent, entry) else Taken.WANTED

    def _make_dir(self, fd: int, parts: tuple[str, ...], there: bool) -> None:
        """Make a directory; its name is not durable yet."""
        if not there:
            try:
                with storage_errors("mkdir", self._destination.path_of(parts), destination=True):
                    os.mkdir(parts[-1], dir_fd=fd)
                return
            except DestinationUnusable as error:
                if not isinstance(error.__cause__, FileExistsError):
                    raise
        self._destination.make_dirs(parts)

    def _has(self, fd: int, parent: tuple[str, ...], entry: Entry) -> bool:
        """Whether a file of that size and time is there: then it came with an earlier run."""
        path = self._destination.path_of((*parent, entry.name))
        with storage_errors("stat", path):
            status = lstat_at(fd, entry.name)
        if status is None:
            return False
        if kind_of(status) is Kind.DIRECTORY:
            raise DestinationUnusable(
                f"{path} is a directory; a file cannot take its place",
                hint="move it away, or give another destination",
            )
        return (
            kind_of(status) is Kind.FILE
            and status.st_size == entry.size
            and status.st_mtime_ns == entry.mtime_ns
        )
