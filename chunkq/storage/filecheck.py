"""Received files as they are now: opened without following links, holes stepped over.

A path is a root, which is the user's own word and may lead through links, and the names below it,
none of which may: a link that was put in a file's place is told, not followed.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import suppress
from typing import Final

from blake3 import blake3

from chunkq.protocol.checking import NO_DIGEST, Instead, Verdict
from chunkq.protocol.digest import add_zeros, digest
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.limits import MAX_CHUNK_SIZE_BYTES
from chunkq.protocol.manifest import zero_leaf
from chunkq.protocol.names import STAGING_NAME
from chunkq.storage import descriptors
from chunkq.storage.kinds import Kind, identity_of, kind_of, lstat_at
from chunkq.storage.mapping import describe, storage_errors

_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
#: Not blocking, so that a FIFO put in a file's place cannot hold the reader.
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
#: What stands in a file's place, or in that of a directory before it.
_NOT_A_FILE: Final = frozenset({errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.EISDIR})


class CheckedFile:
    """One open file. Calls block. Raises `StorageError`, and what `on_read` raises."""

    def __init__(
        self, fd: int, path: str, buffer: memoryview, on_read: Callable[[int], None]
    ) -> None:
        self.path = path
        self._fd = fd
        self._buffer = buffer
        self._on_read = on_read
        self.identity = identity_of(os.fstat(fd))
        with suppress(OSError):  # what is in memory says nothing about what the disk has
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    @property
    def changed(self) -> bool:
        """Whether it is another version, or has no name any more, since it was opened."""
        with storage_errors("stat", self.path):
            return identity_of(os.fstat(self._fd)) != self.identity

    def page(self, geometry: Geometry, page: int) -> bytes:
        """The digests of the chunks of a page as they are in the file, packed."""
        digests = bytearray()
        hole_end = 0
        for index in geometry.page_chunks(page):
            offset, length = geometry.offset(index), geometry.length(index)
            if hole_end < offset + length:
                hole_end = self._hole_end(offset)
            is_hole = hole_end >= offset + length
            digests += zero_leaf(geometry, index) if is_hole else self._chunk(offset, length)
            self._on_read(length)
        return bytes(digests)

    def in_hole(self, geometry: Geometry, page: int) -> bool:
        """Whether no byte of a page is on the disk."""
        chunks = geometry.page_chunks(page)
        start = geometry.offset(chunks.start)
        last = chunks.stop - 1
        return self._hole_end(start) >= geometry.offset(last) + geometry.length(last)

    def digest(self) -> bytes:
        """The content digest of all of it, 32 bytes."""
        hasher, offset, size = blake3(), 0, self.identity.size_bytes
        while offset < size:
            hole_end = self._hole_end(offset)
            if hole_end > offset:
                length = min(hole_end - offset, MAX_CHUNK_SIZE_BYTES)
                add_zeros(hasher, length)
            else:
                with storage_errors("read", self.path):
                    length = descriptors.read_into(self._fd, offset, self._buffer[: size - offset])
                if not length:
                    break  # cut while it is read; its identity tells
                hasher.update(self._buffer[:length])
            offset += length
            self._on_read(length)
        return hasher.digest()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _hole_end(self, offset: int) -> int:
        """Where the hole ends; a file that ends there has no hole, but nothing."""
        with storage_errors("lseek", self.path):
            return descriptors.hole_end(self._fd, offset, self.identity.size_bytes)

    def _chunk(self, offset: int, length: int) -> bytes:
        room = self._buffer[:length]
        try:
            return digest(room[: descriptors.read_into(self._fd, offset, room)])
        except OSError as error:
            if error.errno == errno.EIO:  # the disk has lost it: a bad chunk as any other
                return NO_DIGEST
            with storage_errors("read", self.path):
                raise


class Tree:
    """What is below one directory, by the names below it. One file is read at a time.

    `on_read` hears of bytes that were read or stepped over, and may end the reading by raising.
    """

    def __init__(self, root: str, on_read: Callable[[int], None]) -> None:
        self.root = os.path.abspath(root)
        self._on_read = on_read
        self._buffer = memoryview(mmap.mmap(-1, MAX_CHUNK_SIZE_BYTES))

    def open(self, path: str) -> CheckedFile | Instead:
        """The regular file with this absolute path below the root, or why there is none to read."""
        parts = tuple(os.path.relpath(path, self.root).split(os.sep))
        try:
            fd = self._open(parts)
        except FileNotFoundError:
            return Instead(Verdict.MISSING, "it is not there")
        except OSError as error:
            if error.errno in _NOT_A_FILE:
                return Instead(Verdict.CHANGED, self._in_the_way(parts))
            return Instead(Verdict.UNREADABLE, describe(error, "open", path))
        kind = kind_of(os.fstat(fd))
        if kind is not Kind.FILE:
            os.close(fd)
            return Instead(Verdict.CHANGED, f"a {kind} is in its place")
        return CheckedFile(fd, path, self._buffer, self._on_read)

    def _open(self, parts: tuple[str, ...]) -> int:
        *directories, name = parts
        fd = self._open_parent(directories)
        try:
            # A look before opening: to open a device can have effects of its own.
            status = lstat_at(fd, name)
            if status is not None and kind_of(status) is Kind.SPECIAL:
                raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))
            return os.open(name, _FILE_FLAGS, dir_fd=fd)
        finally:
            os.close(fd)

    def _open_parent(self, directories: Sequence[str]) -> int:
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for directory in directories:
                below = os.open(directory, _DIRECTORY_FLAGS, dir_fd=fd)
                os.close(fd)
                fd = below
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _in_the_way(self, parts: tuple[str, ...]) -> str:
        path = self.root
        for part in parts[:-1]:
            path = os.path.join(path, part)
            with suppress(OSError):
                kind = kind_of(os.lstat(path))
                if kind is not Kind.DIRECTORY:
                    return f"a {kind} is in the place of the directory {path}"
        with suppress(OSError):
            return f"a {kind_of(os.lstat(os.path.join(self.root, *parts)))} is in its place"
        return "something else is in its place"

    def strangers(self, known: Container[str]) -> Iterator[str]:
        """Files, and what is no directory, below the root that are not among these paths."""
        for where, directories, files, _ in os.fwalk(self.root, follow_symlinks=False):
            if STAGING_NAME in directories:
                directories.remove(STAGING_NAME)
            for name in sorted(files):
                path = os.path.join(where, name)
                if path not in known:
                    yield path

    def status(self, path: str) -> os.stat_result | None:
        """lstat of that path, no link followed on the way; None if it is not to be had."""
        parts = os.path.relpath(path, self.root).split(os.sep)
        try:
            fd = self._open_parent(parts[:-1])
        except OSError:
            return None
        try:
            return lstat_at(fd, parts[-1])
        except OSError:
            return None
        finally:
            os.close(fd)
