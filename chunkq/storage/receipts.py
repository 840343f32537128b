"""The record of one received file: its manifest, and its line in the log (`recording.Record`)."""

from __future__ import annotations

import os
from collections.abc import Callable

from chunkq.errors import ChunkqError
from chunkq.ports import Log
from chunkq.protocol import cbor
from chunkq.protocol.checking import Received
from chunkq.protocol.manifest import Head
from chunkq.protocol.messages import ManifestReply
from chunkq.storage.kept import KeptManifests
from chunkq.storage.received import ReceivedLog


class FileRecord:
    """Keeps what comes of the manifest of a file to `path`; `source`: as a person names it."""

    def __init__(
        self,
        kept: KeptManifests,
        received: ReceivedLog,
        *,
        path: str,
        source: str,
        wall_ms: Callable[[], int],
        log: Log,
    ) -> None:
        self._kept = kept
        self._received = received
        self._path = path
        self._source = source
        self._wall_ms = wall_ms
        self._log = log

    def page(self, head: Head, page: int, leaves: bytes) -> None:
        """A page of leaves came. That it cannot be kept is no reason to fail."""
        if head.geometry.chunk_count > 1:
            try:
                self._kept.add_page(self._path, head, page, leaves)
            except ChunkqError as error:
                self._log("manifest_not_kept", level="warning", detail=error.message)

    def published(self, head: Head, manifest: ManifestReply, signer: bytes) -> None:
        """The file is at its place; its staging is not removed yet. Raises `StorageError`."""
        root = ""
        if head.geometry.chunk_count > 1:
            try:
                self._kept.keep(self._path, head, cbor.encode(manifest), signer)
                root = head.root.hex()
            except ChunkqError as error:
                self._log("manifest_not_kept", level="warning", detail=error.message)
        self._received.add(
            Received(
                path=self._path,
                source=self._source,
                size_bytes=head.geometry.size_bytes,
                blake3=head.content_digest.hex(),
                at_ms=self._wall_ms(),
                mtime_ns=time_of(self._path),
                root=root,
            )
        )


def time_of(path: str) -> int | None:
    """A file's time as its file system has kept it."""
    try:
        return os.stat(path, follow_symlinks=False).st_mtime_ns
    except OSError:
        return None
