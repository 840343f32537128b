"""The manifests of received files, kept so that what is on the disk can be compared with them.

    <path digest>.kept  leaves, packed | signer 32 | manifest | manifest size u32 | magic 8
                        | checksum 32 of signer and manifest
    <path digest>.new   the same while the file is being fetched: leaves only

A page of leaves is written where it belongs as it comes; one that never came, was lost, or is of
another version, is told from a right one by the signed head. Files of one chunk need none of this.
What was not used for longest goes first, so the store is bounded; a file whose manifest is gone is
compared as a whole, with the digest in the log of what was received.
"""

from __future__ import annotations

import os
import struct
import weakref
from contextlib import suppress
from typing import Final

from blake3 import blake3

from chunkq.errors import Malformed, PacketError
from chunkq.protocol import cbor
from chunkq.protocol.identity import verify
from chunkq.protocol.limits import DIGEST_SIZE_BYTES, GIB, KEY_SIZE_BYTES, LEAVES_PER_PAGE
from chunkq.protocol.manifest import HEAD_DOMAIN, Head, decode_head, verify_page
from chunkq.protocol.messages import ManifestReply
from chunkq.storage import descriptors
from chunkq.storage.mapping import storage_errors
from chunkq.storage.staging import MAX_MANIFEST_SIZE_BYTES

#: Room for the manifests of some 8 TiB of files at the default chunk size.
DEFAULT_LIMIT_BYTES: Final = 1 * GIB
#: To look at every file of the store is worth it once in so many.
KEPT_PER_PRUNE: Final = 64

_SUFFIX: Final = ".kept"
_NEW: Final = ".new"
_MAGIC: Final = b"CHUNKQKM"
_FOOT: Final = struct.Struct(">I8s32s")
_CONTEXT: Final = "chunkq 1 received manifest"
_PATH_CONTEXT: Final = "chunkq 1 received path"
_NAME_BYTES: Final = 16
_PAGE_BYTES: Final = LEAVES_PER_PAGE * DIGEST_SIZE_BYTES


class Kept:
    """One kept manifest, open as long as this lives."""

    def __init__(self, fd: int, path: str, manifest: ManifestReply, head: Head) -> None:
        self.path = path
        self.manifest = manifest
        self.head = head
        self._fd = fd
        weakref.finalize(self, os.close, fd)

    def page(self, page: int) -> bytes | None:
        """The leaves of a page, checked against the head; None if they are lost or damaged."""
        chunks = self.head.geometry.page_chunks(page)
        with storage_errors("read", self.path):
            found = descriptors.read_full(
                self._fd, page * _PAGE_BYTES, len(chunks) * DIGEST_SIZE_BYTES
            )
        try:
            verify_page(self.head, page, found)
        except Malformed:
            return None
        return found


class KeptManifests:
    """The store in a state directory. Raises `StorageError`."""

    def __init__(
        self, state_dir: str | os.PathLike[str], *, limit_bytes: int = DEFAULT_LIMIT_BYTES
    ) -> None:
        self.path = os.path.join(os.path.abspath(state_dir), "kept")
        self._limit_bytes = limit_bytes
        self._kept = 0

    def add_page(self, path: str, head: Head, page: int, leaves: bytes) -> None:
        """Keep a page of a file under way; it is durable only with `keep`.

        Raises `Malformed` if it is not of that head.
        """
        verify_page(head, page, leaves)
        fd = self._open(path)
        try:
            with storage_errors("write", self.path):
                descriptors.write_full(fd, page * _PAGE_BYTES, [leaves])
        finally:
            os.close(fd)

    def keep(self, path: str, head: Head, manifest: bytes, signer: bytes) -> None:
        """The file was published: keep its manifest, durably, instead of any other of that path.

        `manifest`: the body of the manifest reply; `signer`: the verify key of whoever signed it.
        """
        if not self._begun(path) and self.load(path, head.root) is not None:
            return  # nothing of it was fetched anew
        fd = self._open(path)
        try:
            offset = head.geometry.chunk_count * DIGEST_SIZE_BYTES
            checksum = blake3(signer + manifest, derive_key_context=_CONTEXT).digest()
            foot = _FOOT.pack(len(manifest), _MAGIC, checksum)
            with storage_errors("write", self.path):
                os.ftruncate(fd, offset)
                descriptors.write_full(fd, offset, [signer, manifest, foot])
                os.fsync(fd)
        finally:
            os.close(fd)
        with storage_errors("rename", self.path):
            directory_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                at = {"src_dir_fd": directory_fd, "dst_dir_fd": directory_fd}
                os.rename(_stem(path) + _NEW, _stem(path) + _SUFFIX, **at)
                descriptors.sync_directory(directory_fd)
            finally:
                os.close(directory_fd)
        self._kept += 1
        if self._kept % KEPT_PER_PRUNE == 1:
            self.prune()

    def load(self, path: str, root: bytes) -> Kept | None:
        """The manifest of that path and version; None also if what is kept does not hold."""
        whole = os.path.join(self.path, _stem(path) + _SUFFIX)
        with storage_errors("open", whole):
            try:
                fd = os.open(whole, os.O_RDONLY | os.O_NOFOLLOW)
            except FileNotFoundError:
                return None
        try:
            with storage_errors("read", whole):
                found = _parse(fd, root)
            if found is not None:
                with suppress(OSError):
                    os.utime(fd)  # used now: pruned later
        except BaseException:
            os.close(fd)
            raise
        if found is None:
            os.close(fd)
            return None
        return Kept(fd, whole, *found)

    def forget(self, path: str) -> None:
        """Remove what is kept of a path."""
        for suffix in (_SUFFIX, _NEW):
            self._remove(_stem(path) + suffix)

    def prune(self) -> None:
        """Remove what was not used for longest, down to the limit."""
        files: list[tuple[float, int, str]] = []
        for name in self._names():
            with suppress(OSError):
                status = os.stat(os.path.join(self.path, name), follow_symlinks=False)
                files.append((status.st_mtime, status.st_size, name))
        total = 0
        for _, size, name in sorted(files, reverse=True):
            total += size
            if total > self._limit_bytes:
                self._remove(name)

    def _remove(self, name: str) -> None:
        with storage_errors("unlink", name), suppress(FileNotFoundError):
            os.unlink(os.path.join(self.path, name))

    def _names(self) -> list[str]:
        with storage_errors("readdir", self.path):
            try:
                return os.listdir(self.path)
            except FileNotFoundError:
                return []

    def _begun(self, path: str) -> bool:
        return os.path.lexists(os.path.join(self.path, _stem(path) + _NEW))

    def _open(self, path: str) -> int:
        """The file that is being made, with what an earlier run wrote."""
        name = os.path.join(self.path, _stem(path) + _NEW)
        with storage_errors("open", name):
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)


def _parse(fd: int, root: bytes) -> tuple[ManifestReply, Head] | None:
    """What is in a kept file, if it is whole, and signed, and of that version."""
    size = os.fstat(fd).st_size
    foot = descriptors.read_full(fd, max(0, size - _FOOT.size), _FOOT.size)
    if len(foot) != _FOOT.size:
        return None
    length, magic, checksum = _FOOT.unpack(foot)
    start = size - _FOOT.size - length - KEY_SIZE_BYTES
    if magic != _MAGIC or length > MAX_MANIFEST_SIZE_BYTES or start < 0:
        return None
    body = descriptors.read_full(fd, start, KEY_SIZE_BYTES + length)
    if blake3(body, derive_key_context=_CONTEXT).digest() != checksum:
        return None
    try:
        manifest = cbor.decode(ManifestReply, body[KEY_SIZE_BYTES:])
        verify(body[:KEY_SIZE_BYTES], HEAD_DOMAIN, manifest.head, manifest.signature)
        head = decode_head(manifest.head)
    except PacketError:
        return None
    if head.root != root or head.geometry.chunk_count * DIGEST_SIZE_BYTES != start:
        return None
    return manifest, head


def _stem(path: str) -> str:
    encoded = os.fsencode(os.path.abspath(path))
    return blake3(encoded, derive_key_context=_PATH_CONTEXT).hexdigest(_NAME_BYTES)
