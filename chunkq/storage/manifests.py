"""Manifests that were made, kept so that a pool of workers hashes a file once.

    file    magic 8 | version u16 | identity 5 x i64 | chunk size u32 | head size u32 | leaves u32
            | signature 64 | checksum of all this and the head 32 | head | leaves, packed

Big-endian. Leaves are checked page by page against the head when they are read.
"""

from __future__ import annotations

import os
import struct
import weakref
from collections import OrderedDict
from threading import Lock
from typing import Final

from blake3 import blake3

from chunkq.errors import Malformed, StorageError
from chunkq.ports import FileIdentity
from chunkq.protocol.limits import (
    DIGEST_SIZE_BYTES,
    GIB,
    MAX_HEAD_SIZE_BYTES,
    SIGNATURE_SIZE_BYTES,
)
from chunkq.protocol.manifest import Head, decode_head, verify_page
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.hashjobs import HashLock, read_progress, take_hash_lock
from chunkq.storage.locks import is_current
from chunkq.storage.mapping import storage_errors

#: Room for manifests of some 16 TiB of files at the default chunk size.
DEFAULT_LIMIT_BYTES: Final = 2 * GIB
#: To look at every file of the store is worth it once in so many saves.
SAVES_PER_PRUNE: Final = 64
#: Open manifests: descriptors, not memory.
MAX_OPEN: Final = 64
#: A temporary or lock file so much older than the newest file was left by a crash.
_STALE_S: Final = 3600

_SUFFIX: Final = ".manifest"
_MAGIC: Final = b"CHUNKQMF"
_VERSION: Final = 1
_KEY: Final = struct.Struct(">QQQqqI")
_HEADER: Final = struct.Struct(">8sHII")
_CONTEXT: Final = "chunkq 1 kept manifest"
_FIXED_BYTES: Final = _HEADER.size + _KEY.size + SIGNATURE_SIZE_BYTES + DIGEST_SIZE_BYTES


class StoredManifest:
    """A signed head, and the leaves by position in an open file, which lives as long as this."""

    def __init__(self, fd: int, path: str, head: bytes, signature: bytes) -> None:
        self.head_bytes = head
        self.signature = signature
        self.head: Head = decode_head(head)
        self.path = path
        self._fd = fd
        self._leaves_offset = _FIXED_BYTES + len(head)
        weakref.finalize(self, close, fd)

    def is_current(self, directory_fd: int, name: str) -> bool:
        """Whether `name` still is the file that this was read from."""
        with storage_errors("stat", self.path):
            return is_current(self._fd, directory_fd, name)

    def close(self) -> None:
        """Say that this user is done; the descriptor goes when the store lets go of it, too."""

    def leaves(self, first: int, count: int) -> bytes:
        """The leaves of `count` chunks from `first` on, packed and unchecked.

        Raises `StorageError`.
        """
        if not 0 <= first <= first + count <= self.head.geometry.chunk_count:
            raise StorageError(f"{self.path}: no leaves {first}+{count} in {self.head.geometry}")
        offset = self._leaves_offset + first * DIGEST_SIZE_BYTES
        with storage_errors("read", self.path):
            found = descriptors.read_full(self._fd, offset, count * DIGEST_SIZE_BYTES)
        if len(found) != count * DIGEST_SIZE_BYTES:
            raise StorageError(f"{self.path}: cut short", hint="the file will be hashed again")
        return found

    def page(self, page: int) -> bytes:
        """Page `page` of leaves, checked against the head. Raises `StorageError` if damaged."""
        chunks = self.head.geometry.page_chunks(page)
        found = self.leaves(chunks.start, len(chunks))
        try:
            verify_page(self.head, page, found)
        except Malformed as error:
            raise StorageError(
                f"{self.path}: page {page} is damaged", hint="discard it and hash the file again"
            ) from error
        return found


class ManifestStore:
    """The manifests in one directory, shared by the worker processes of a host."""

    def __init__(
        self, directory: str | os.PathLike[str], *, limit_bytes: int = DEFAULT_LIMIT_BYTES
    ) -> None:
        """Create the directory (0700) if need be. Raises `StorageError`."""
        self.path = os.path.abspath(directory)
        self._limit_bytes = limit_bytes
        self._saves = 0
        self._open: OrderedDict[str, StoredManifest] = OrderedDict()
        self._lock = Lock()
        with storage_errors("mkdir", self.path):
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self._directory_fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        weakref.finalize(self, close, self._directory_fd)

    # ------------------------------------------------------------ manifests

    def load(self, identity: FileIdentity, chunk_size_bytes: int) -> StoredManifest | None:
        """The manifest of that version and chunk size; None also if what is kept is damaged."""
        name = _name(identity, chunk_size_bytes)
        with self._lock:
            known = self._open.pop(name, None)
            # Another worker may have discarded it and made another.
            if known is not None and known.is_current(self._directory_fd, name):
                self._open[name] = known
                return known
        found = self._read(name, _key(identity, chunk_size_bytes))
        return found and self._remember(name, found)

    def save(
        self,
        identity: FileIdentity,
        chunk_size_bytes: int,
        head_bytes: bytes,
        signature: bytes,
        leaves: bytes,
    ) -> StoredManifest:
        """Keep a manifest, durably and for all workers. Raises `DiskFull`, `StorageError`."""
        name, key = _name(identity, chunk_size_bytes), _key(identity, chunk_size_bytes)
        temporary = f"{name}.{os.urandom(8).hex()}{descriptors.TEMPORARY_SUFFIX}"
        path = os.path.join(self.path, name)
        fixed = _HEADER.pack(_MAGIC, _VERSION, len(head_bytes), len(leaves) // DIGEST_SIZE_BYTES)
        fixed += key + signature
        buffers = [fixed, _checksum(fixed, head_bytes), head_bytes, leaves]
        try:
            descriptors.write_new(self._directory_fd, temporary, path, buffers, mode=0o600)
            with storage_errors("open", path):
                fd = os.open(temporary, os.O_RDONLY, dir_fd=self._directory_fd)
            saved = StoredManifest(fd, path, head_bytes, signature)
            with storage_errors("rename", path):
                at = {"src_dir_fd": self._directory_fd, "dst_dir_fd": self._directory_fd}
                os.rename(temporary, name, **at)
        finally:
            descriptors.remove_if_there(self._directory_fd, temporary)
        self._saves += 1
        if self._saves % SAVES_PER_PRUNE == 1:
            self.prune()
        return self._remember(name, saved)

    def discard(self, identity: FileIdentity, chunk_size_bytes: int) -> None:
        """Forget a manifest that turned out not to be that of the file: it is hashed again."""
        name = _name(identity, chunk_size_bytes)
        with self._lock:
            self._open.pop(name, None)
        descriptors.remove_if_there(self._directory_fd, name)

    def prune(self) -> None:
        """Remove the manifests that were not used for longest, down to the limit; and leftovers."""
        files: list[tuple[float, int, str]] = []
        with storage_errors("readdir", self.path), os.scandir(self._directory_fd) as found:
            for each in found:
                status = _status(each)
                if status is not None:
                    files.append((status.st_mtime, status.st_size, each.name))
        files.sort(reverse=True)
        total, newest = 0, files[0][0] if files else 0.0
        for mtime, size, name in files:
            if name.endswith(_SUFFIX):
                total += size
                too_much = total > self._limit_bytes
            else:
                too_much = mtime < newest - _STALE_S
            if too_much:
                descriptors.remove_if_there(self._directory_fd, name)

    # ------------------------------------------------------------ who hashes

    def try_lock(self, identity: FileIdentity, chunk_size_bytes: int) -> HashLock | None:
        """The right to hash that version, for this host; None if another worker has it."""
        return take_hash_lock(self._directory_fd, self.path, _name(identity, chunk_size_bytes))

    def progress(self, identity: FileIdentity, chunk_size_bytes: int) -> tuple[int, int] | None:
        """`(done, total)` bytes of whoever hashes that version; None if nobody does."""
        name = _name(identity, chunk_size_bytes)
        return read_progress(self._directory_fd, self.path, name, identity.size_bytes)

    # ------------------------------------------------------------ inside

    def _remember(self, name: str, manifest: StoredManifest) -> StoredManifest:
        with self._lock:
            self._open[name] = manifest
            self._open.move_to_end(name)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        return manifest

    def _read(self, name: str, key: bytes) -> StoredManifest | None:
        path = os.path.join(self.path, name)
        with storage_errors("open", path):
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._directory_fd)
            except FileNotFoundError:
                return None
        try:
            with storage_errors("read", path):
                found = _parse(fd, key)
                if found is not None:
                    os.utime(fd)  # used now: pruned later
            if found is not None:
                owned, fd = fd, -1
                return StoredManifest(owned, path, *found)
        except Malformed:
            return None
        finally:
            if fd >= 0:
                close(fd)
        return None


def _parse(fd: int, key: bytes) -> tuple[bytes, bytes] | None:
    """Head and signature, if the file is whole and of `key`."""
    fixed = descriptors.read_full(fd, 0, _FIXED_BYTES)
    if len(fixed) != _FIXED_BYTES:
        return None
    magic, version, head_size, leaf_count = _HEADER.unpack_from(fixed)
    if (magic, version) != (_MAGIC, _VERSION) or head_size > MAX_HEAD_SIZE_BYTES:
        return None
    if os.fstat(fd).st_size != _FIXED_BYTES + head_size + leaf_count * DIGEST_SIZE_BYTES:
        return None
    head = descriptors.read_full(fd, _FIXED_BYTES, head_size)
    body, checksum = fixed[:-DIGEST_SIZE_BYTES], fixed[-DIGEST_SIZE_BYTES:]
    if checksum != _checksum(body, head) or body[_HEADER.size :][: _KEY.size] != key:
        return None
    if decode_head(head).geometry.chunk_count != leaf_count:
        return None
    return head, body[-SIGNATURE_SIZE_BYTES:]


def _key(identity: FileIdentity, chunk_size_bytes: int) -> bytes:
    return _KEY.pack(
        identity.device,
        identity.inode,
        identity.size_bytes,
        identity.mtime_ns,
        identity.ctime_ns,
        chunk_size_bytes,
    )


def _name(identity: FileIdentity, chunk_size_bytes: int) -> str:
    return blake3(_key(identity, chunk_size_bytes)).hexdigest() + _SUFFIX


def _checksum(fixed: bytes, head: bytes) -> bytes:
    return blake3(fixed, derive_key_context=_CONTEXT).update(head).digest()


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
