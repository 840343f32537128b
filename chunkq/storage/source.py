"""What an origin offers: a directory, or one file, read without following links out of it."""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Literal

from chunkq.errors import NotFound, UnsafeName
from chunkq.ports import FileIdentity, ListingPage, SmallFile
from chunkq.protocol.limits import MAX_FILE_SIZE_BYTES, MAX_LISTING_ENTRIES
from chunkq.protocol.messages import Entry, RefusalReason
from chunkq.protocol.names import STAGING_NAME, check_link_target, check_name, check_path
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.kinds import Kind, identity_of, kind_of, time_ns
from chunkq.storage.mapping import storage_errors, translate
from chunkq.storage.smallfiles import read_small

#: What a peer may not tell from "not there".
_ABSENT: Final = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ELOOP,
        errno.EACCES,
        errno.EPERM,
        errno.ENXIO,
        errno.ENODEV,
        errno.ENAMETOOLONG,
        errno.EISDIR,
        errno.ESTALE,
    }
)
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
#: Not blocking, so that a FIFO put in a file's place cannot hold a worker.
_FILE_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

#: What a link that leads out of the share is said to lead to.
OUTSIDE: Final = "/"


class PosixSourceFile:
    """One open version of a file (`ports.SourceFile`).

    `current` tells the status of what the path names now, or None.
    """

    def __init__(self, fd: int, path: str, current: Callable[[], os.stat_result | None]) -> None:
        self.path = path
        self._fd = fd
        self._current = current
        status = os.fstat(fd)
        self._identity = identity_of(status)
        self._mode = stat.S_IMODE(status.st_mode) & 0o777

    @property
    def identity(self) -> FileIdentity:
        return self._identity

    @property
    def mode(self) -> int:
        return self._mode

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes, fewer only at the end of the file. Raises `StorageError`."""
        with storage_errors("read", self.path):
            return descriptors.read_full(self._fd, offset, length)

    def hole_end(self, offset: int) -> int:
        """Where the hole at `offset` ends (the file's size at the last), or `offset` if none."""
        with storage_errors("lseek", self.path):
            return descriptors.hole_end(self._fd, offset, self._identity.size_bytes)

    def changed(self) -> bool:
        """Whether this file was touched, or another has its path by now."""
        with storage_errors("fstat", self.path):
            if identity_of(os.fstat(self._fd)) != self._identity:
                return True
        status = self._current()
        return status is None or identity_of(status) != self._identity

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close(fd)


class DirectoryShare:
    """A directory, or a single file, as a share (`ports.Share`).

    `follow_links`: links that stay inside the share are offered as what they lead to; else they are
    listed as links. `hidden`: whether names that begin with a dot are offered. A single file goes
    by its own name, and nothing else is there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        follow_links: bool = False,
        hidden: bool = True,
    ) -> None:
        self.path = os.path.abspath(path)
        self._follow_links = follow_links
        self._hidden = hidden

    # ------------------------------------------------------------ one file

    def open(self, path: str) -> PosixSourceFile:
        """Open a regular file. Raises `NotFound`; `StorageError` if the share itself is gone."""
        parts = self._parts(path)
        if not parts:
            raise _not_found()
        with _hiding(), self._parent(parts) as (parent_fd, name):
            # A look before opening: to open a device can have effects of its own.
            if not stat.S_ISREG(_lstat(parent_fd, name).st_mode):
                raise _not_found()
            fd = os.open(name, _FILE_FLAGS, dir_fd=parent_fd)
        shown = self._shown(parts)
        try:
            with storage_errors("fstat", shown):
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise _not_found()
                return PosixSourceFile(fd, shown, lambda: self._current(parts))
        except BaseException:
            close(fd)
            raise

    def _current(self, parts: tuple[str, ...]) -> os.stat_result | None:
        try:
            with _hiding(), self._parent(parts) as (parent_fd, name):
                return _lstat(parent_fd, name)
        except NotFound:
            return None

    # ------------------------------------------------------------ small files

    def read_small(
        self, directory: str, names: Sequence[str], largest_bytes: int
    ) -> Iterator[SmallFile | RefusalReason]:
        """As `ports.SmallFiles.read_small` says. Raises `StorageError` if the share is gone."""
        with self._root() as (root_fd, only):
            if self._follow_links or only is not None:
                for name in names:
                    yield self._read_apart(directory, name, largest_bytes)
                return
            try:
                with _hiding():
                    fd = self._descend(root_fd, self._parts(directory))
            except NotFound:
                for _ in names:
                    yield RefusalReason.NOT_FOUND
                return
            try:
                for name in names:
                    if self._is_visible(name):
                        yield read_small(fd, name, largest_bytes)
                    else:
                        yield RefusalReason.NOT_FOUND
            finally:
                close(fd)

    def _read_apart(
        self, directory: str, name: str, largest_bytes: int
    ) -> SmallFile | RefusalReason:
        try:
            if not self._is_visible(name):
                return RefusalReason.NOT_FOUND
            parts = (*self._parts(directory), name)
            with _hiding(), self._parent(parts) as (parent_fd, real):
                return read_small(parent_fd, real, largest_bytes)
        except NotFound:
            return RefusalReason.NOT_FOUND

    def _is_visible(self, name: str) -> bool:
        try:
            self._check_visible((check_name(name),))
        except (UnsafeName, NotFound):
            return False
        return True

    # ------------------------------------------------------------ one directory

    def list(self, path: str, cursor: str | None, limit: int) -> ListingPage:
        """Entries after `cursor`, at most `limit`, in the order of their names' UTF-8 bytes.

        Left out and counted: names that are no UTF-8, FIFOs, sockets, devices. A name that no peer
        would take is listed all the same, and so is a link that leads out (without saying where
        to): whoever misses them is told which they are.
        Raises `NotFound`; `StorageError` if the share itself is gone.
        """
        parts = self._parts(path)
        limit = max(1, min(limit, MAX_LISTING_ENTRIES))
        after = b"" if cursor is None else cursor.encode(errors="surrogatepass")
        with self._root() as (root_fd, only):
            if only is not None:
                return self._list_single(root_fd, only, parts, after)
            with _hiding():
                fd = self._walk(root_fd, parts)
            try:
                with storage_errors("readdir", self._shown(parts)), os.scandir(fd) as found:
                    names = heapq.nsmallest(limit + 1, self._offered(found, after))
                chosen = [name.decode() for name in names[:limit]]
                entries = [self._entry(fd, parts, name) for name in chosen]
                with storage_errors("readdir", self._shown(parts)):
                    unnamed = self._unnamed(fd) if cursor is None else 0
            finally:
                close(fd)
        going_on = chosen[-1] if len(names) > limit else None
        offered = tuple(entry for entry in entries if entry is not None)
        omitted = len(entries) - len(offered) + unnamed
        return ListingPage(offered, going_on, omitted)

    @staticmethod
    def _unnamed(fd: int) -> int:
        """How many names of a directory are no UTF-8."""
        with os.scandir(fd) as found:
            return sum(1 for each in found if not _is_text(each.name))

    def _list_single(
        self, root_fd: int, only: str, parts: tuple[str, ...], after: bytes
    ) -> ListingPage:
        if parts:
            raise _not_found()
        entry = self._entry(root_fd, (), only) if only.encode() > after else None
        return ListingPage((entry,) if entry else (), None)

    def _offered(self, found: Iterator[os.DirEntry[str]], after: bytes) -> Iterator[bytes]:
        for each in found:
            if each.name.startswith(".") and not self._hidden:
                continue
            if not _is_text(each.name) or each.name == STAGING_NAME:
                continue
            if (name := each.name.encode()) > after:
                yield name

    def _entry(self, fd: int, parts: tuple[str, ...], name: str) -> Entry | None:
        """What to say of one name, or None: of another kind, or gone while we were listing."""
        try:
            status = _lstat(fd, name)
            kind, target = kind_of(status), None
            if kind is Kind.LINK and self._follow_links:
                status = self._followed((*parts, name))
                kind = kind_of(status)
            elif kind is Kind.LINK:
                target = _shown_target((*parts, name), os.readlink(name, dir_fd=fd))
        except (OSError, NotFound, UnsafeName):
            return None
        if kind is Kind.FILE and status.st_size > MAX_FILE_SIZE_BYTES:
            return None
        types: dict[Kind, Literal["file", "dir", "link"]] = {
            Kind.FILE: "file",
            Kind.DIRECTORY: "dir",
            Kind.LINK: "link",
        }
        if kind not in types:
            return None
        return Entry(
            name=name,
            type=types[kind],
            size=status.st_size if kind is Kind.FILE else 0,
            mode=stat.S_IMODE(status.st_mode) & 0o777,
            mtime_ns=time_ns(status.st_mtime_ns),
            target=target,
        )

    # ------------------------------------------------------------ walking

    def _parts(self, path: str) -> tuple[str, ...]:
        try:
            parts = check_path(path)
        except UnsafeName:
            raise _not_found() from None
        self._check_visible(parts)
        return parts

    def _check_visible(self, parts: tuple[str, ...]) -> None:
        for name in parts:
            if name == STAGING_NAME or (name.startswith(".") and not self._hidden):
                raise _not_found()

    def _shown(self, parts: tuple[str, ...]) -> str:
        return os.path.join(self.path, *parts)

    @contextmanager
    def _root(self) -> Iterator[tuple[int, str | None]]:
        """The share's directory, and the only name in it that counts if it is a single file.

        Opened anew each time, so that a share on a disk that is mounted later comes to life.
        """
        with storage_errors("open share", self.path):
            single = stat.S_ISREG(os.stat(self.path).st_mode)
            where, name = os.path.split(self.path) if single else (self.path, None)
            fd = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
        try:
            yield fd, name
        finally:
            close(fd)

    @contextmanager
    def _parent(self, parts: tuple[str, ...]) -> Iterator[tuple[int, str]]:
        """The directory that holds `parts`, and the name in it, no link unless they are followed.

        Raises `OSError` for what is not there.
        """
        with self._root() as (root_fd, only):
            if only is not None and parts != (only,):
                raise _not_found()
            real = self._resolved(parts) if self._follow_links and only is None else parts
            fd = self._descend(root_fd, real[:-1])
            try:
                yield fd, real[-1]
            finally:
                close(fd)

    def _walk(self, root_fd: int, parts: tuple[str, ...]) -> int:
        return self._descend(root_fd, self._resolved(parts) if self._follow_links else parts)

    @staticmethod
    def _descend(root_fd: int, parts: tuple[str, ...]) -> int:
        fd = os.dup(root_fd)
        try:
            for name in parts:
                below = os.open(name, _DIRECTORY_FLAGS, dir_fd=fd)
                close(fd)
                fd = below
        except BaseException:
            close(fd)
            raise
        return fd

    def _resolved(self, parts: tuple[str, ...]) -> tuple[str, ...]:
        """`parts` with links followed; what is found is walked again without following any."""
        root = os.path.realpath(self.path)
        real = os.path.realpath(os.path.join(root, *parts), strict=True)
        inside = os.path.join(root, "")
        if real == root:
            return ()
        if not real.startswith(inside):
            raise _not_found()
        found = tuple(real.removeprefix(inside).split(os.sep))
        self._check_visible(found)
        return found

    def _followed(self, parts: tuple[str, ...]) -> os.stat_result:
        with self._root() as (root_fd, _):
            real = self._resolved(parts)
            if not real:
                raise _not_found()
            fd = self._descend(root_fd, real[:-1])
            try:
                return _lstat(fd, real[-1])
            finally:
                close(fd)


def _shown_target(parts: tuple[str, ...], target: str) -> str:
    """The target of a link inside the share; of another, one that every requester refuses."""
    try:
        check_link_target(parts, target)
    except UnsafeName:
        return OUTSIDE
    return target


def _is_text(name: str) -> bool:
    """Whether a name from the file system is UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _lstat(fd: int, name: str) -> os.stat_result:
    return os.stat(name, dir_fd=fd, follow_symlinks=False)


def _not_found() -> NotFound:
    return NotFound("no such file in this share")


@contextmanager
def _hiding() -> Iterator[None]:
    """Turn every way of not being there into the same `NotFound`."""
    try:
        yield
    except OSError as error:
        if error.errno in _ABSENT:
            raise _not_found() from None
        raise translate(error, "open", "a file of the share") from error
