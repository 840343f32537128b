"""Work on open descriptors that several files of this floor share."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final

from chunkq.errors import StorageError
from chunkq.ports import Buffer
from chunkq.storage import linux
from chunkq.storage.closing import close
from chunkq.storage.kinds import is_regular, lstat_at
from chunkq.storage.mapping import storage_errors, translate

#: Linux's IOV_MAX: so many buffers in one call.
MAX_BUFFERS_PER_CALL: Final = 1024
#: Where the kernel cannot copy between two files, memory does it in such pieces.
COPY_PIECE_BYTES: Final = 1 << 20
#: What it says then: other file systems, or one that has no such thing.
_NO_COPY: Final = linux.UNSUPPORTED | {errno.EXDEV, errno.EBADF, errno.EPERM}
#: What is being written and is not yet there under its name; left behind by a crash only.
TEMPORARY_SUFFIX: Final = ".tmp"
#: What file systems without hard links say to `link` (FAT: EPERM).
NO_LINKS: Final = linux.UNSUPPORTED | {errno.EPERM, errno.EMLINK}
#: Directories whose file system has no fsync for them say this; EIO is another matter.
_NO_DIRECTORY_SYNC: Final = frozenset({errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.ENOSYS})


def read_full(fd: int, offset: int, length: int) -> bytes:
    """`length` bytes at `offset`, fewer only at the end of the file. Raises `OSError`."""
    first = os.pread(fd, length, offset)
    if len(first) == length or not first:
        return first
    parts, got = [first], len(first)
    while got < length:
        part = os.pread(fd, length - got, offset + got)
        if not part:
            break
        parts.append(part)
        got += len(part)
    return b"".join(parts)


def read_into(fd: int, offset: int, data: memoryview) -> int:
    """Fill `data`; how much, less only at the end of the file. Raises `OSError`."""
    done = 0
    while done < data.nbytes:
        got = os.preadv(fd, [data[done:]], offset + done)
        if not got:
            break
        done += got
    return done


def write_full(fd: int, offset: int, buffers: Sequence[Buffer]) -> None:
    """Write all buffers one behind the other at `offset`, however short each call turns out.

    Raises `OSError`.
    """
    views = [view for view in (memoryview(each).cast("B") for each in buffers) if view.nbytes]
    at = 0
    while at < len(views):
        try:
            written = os.pwritev(fd, views[at : at + MAX_BUFFERS_PER_CALL], offset)
        except InterruptedError:
            continue
        if written <= 0:
            raise OSError(errno.EIO, "nothing was written")
        offset += written
        while at < len(views) and written >= views[at].nbytes:
            written -= views[at].nbytes
            at += 1
        if written:
            views[at] = views[at][written:]


def copy_range(source_fd: int, target_fd: int, start: int, stop: int) -> None:
    """Copy a run of bytes to the same place of another file, in the kernel where it can.

    Ends early at the end of the source. Raises `OSError`.
    """
    while start < stop:
        try:
            done = os.copy_file_range(source_fd, target_fd, stop - start, start, start)
        except OSError as error:
            if error.errno not in _NO_COPY:
                raise
            data = os.pread(source_fd, min(COPY_PIECE_BYTES, stop - start), start)
            write_full(target_fd, start, [data])
            done = len(data)
        if not done:
            return
        start += done


def hole_end(fd: int, offset: int, size_bytes: int) -> int:
    """Where the hole at `offset` ends (`size_bytes` at the last), or `offset` if there is none.

    A file system that does not know holes says that there is none. Raises `OSError`.
    """
    if offset >= size_bytes:
        return offset
    try:
        return min(os.lseek(fd, offset, os.SEEK_DATA), size_bytes)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size_bytes
        if error.errno in {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}:
            return offset
        raise


def data_extents(fd: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The `(start, stop)` runs of bytes that are not holes, between two offsets of the file."""
    while start < stop:
        start = hole_end(fd, start, stop)
        if start >= stop:
            return
        try:
            end = min(os.lseek(fd, start, os.SEEK_HOLE), stop)
        except OSError as error:
            if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS}:
                raise
            end = stop
        yield start, end
        start = end


def sync_directory(fd: int) -> None:
    """fsync a directory, where its file system has that. Raises `OSError`."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_DIRECTORY_SYNC:
            raise


def set_mode_and_time(fd: int, path: str, mode: int, mtime_ns: int) -> None:
    """Set permissions and both times by descriptor, where the file system keeps them."""
    changes: tuple[tuple[str, Callable[[], None]], ...] = (
        ("fchmod", lambda: os.fchmod(fd, mode)),
        ("futimens", lambda: os.utime(fd, ns=(mtime_ns, mtime_ns))),
    )
    for call, change in changes:
        try:
            change()
        except PermissionError:
            continue
        except OSError as error:
            if error.errno not in linux.UNSUPPORTED:
                raise translate(error, call, path) from error


def read_file(directory_fd: int, name: str, path: str, largest_bytes: int) -> bytes | None:
    """The content of a small file; None if it is not there, no regular file, or larger.

    Raises `StorageError`; `path` is for its message.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with storage_errors("read", path):
        try:
            fd = os.open(name, flags, dir_fd=directory_fd)
        except FileNotFoundError:
            return None
        try:
            if not is_regular(fd) or os.fstat(fd).st_size > largest_bytes:
                return None
            return read_full(fd, 0, largest_bytes)
        finally:
            close(fd)


def replace_file(
    directory_fd: int,
    name: str,
    path: str,
    buffers: Sequence[Buffer],
    *,
    mode: int = 0o600,
    durable: bool = True,
    temporary: str | None = None,
) -> None:
    """Write a small file so that either the old or the new content is there.

    `temporary`: what it is called until it is whole; it must be this process's alone, and whoever
    gives it removes it after a crash. Not `durable`: a power cut may lose either; the caller syncs
    later, or can do without. Raises `DiskFull`, `SyncFailed`, `StorageError`.
    """
    temporary = temporary or f"{name}.{os.getpid()}{TEMPORARY_SUFFIX}"
    try:
        write_new(directory_fd, temporary, path, buffers, mode=mode, durable=durable)
        with storage_errors("rename", path, destination=True):
            os.rename(temporary, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    except StorageError:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory_fd)
        raise
    if durable:
        with storage_errors("fsync", path, sync=True):
            sync_directory(directory_fd)


def write_new(
    directory_fd: int,
    name: str,
    path: str,
    buffers: Sequence[Buffer],
    *,
    mode: int,
    durable: bool = True,
) -> None:
    """Write a file that only its name's owner knows yet, and make its content durable."""
    with storage_errors("write", path, destination=True):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory_fd)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        fd = os.open(name, flags, mode, dir_fd=directory_fd)
    try:
        with storage_errors("write", path, destination=True):
            write_full(fd, 0, buffers)
        if durable:
            with storage_errors("fsync", path, sync=True):
                os.fsync(fd)
    finally:
        close(fd)


def remove_if_there(directory_fd: int, name: str) -> None:
    """Unlink a file of ours that may be gone already. Raises `StorageError`."""
    with storage_errors("unlink", name), suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory_fd)


def link_no_clobber(source_fd: int, source: str, target_fd: int, target: str) -> None:
    """Give a file another name, or a new one; `FileExistsError` if that is taken.

    A hard link where the file system has them, else a rename that refuses to replace. With neither
    (some FUSE) it looks first and then renames: something that appears in between is replaced.
    """
    try:
        os.link(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
    else:
        return
    try:
        linux.rename_no_replace(source_fd, source, target_fd, target)
    except linux.Unsupported:
        if lstat_at(target_fd, target) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        os.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd)
