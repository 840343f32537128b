"""Where files appear: one directory, opened once, and nothing outside it.

Every step below it goes through the descriptor of the directory before, without following links,
so that neither a peer's names nor somebody who swaps a directory for a link leads anywhere else.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, Self

from chunkq.errors import DestinationExists, DestinationUnusable, UnsafeName
from chunkq.protocol.limits import MAX_PATH_DEPTH
from chunkq.protocol.names import STAGING_NAME, check_link_target, check_name, fold_key
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.kinds import Kind, kind_of, lstat_at
from chunkq.storage.mapping import storage_errors, translate
from chunkq.storage.room import NO_FLOOR, Floor

_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_ROOT_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY
#: The owner can always enter and clear what he received, whatever the origin's modes were.
_OWNER_MODE: Final = 0o700
#: What a new link is called until it replaces another; no peer may send a name ending like that.
_LINK_SUFFIX: Final = ".chunkq-link"


class Destination:
    """A root directory, and below it whatever `parts` name.

    `own_name` is the final name that the user gave for a single file: it need not please Windows.
    `floor`: what stays free on its disk.
    """

    def __init__(
        self, directory_fd: int, path: str, own_name: str | None, floor: Floor = NO_FLOOR
    ) -> None:
        self.directory_fd = directory_fd
        self.path = path
        self.own_name = own_name
        self.floor = floor
        self._claimed: dict[tuple[str, ...], dict[str, str]] = {}
        self._found: dict[tuple[str, ...], frozenset[str]] = {}

    @classmethod
    def for_file(cls, path: str | os.PathLike[str], floor: Floor = NO_FLOOR) -> Self:
        """The directory that will hold `path`, which must exist. Raises `DestinationUnusable`."""
        whole = os.path.abspath(path)
        parent, name = os.path.split(whole)
        if not name or "\0" in whole or os.fspath(path).endswith(os.sep):
            raise DestinationUnusable(f"{os.fspath(path)!a} names no file")
        if fold_key(name) == STAGING_NAME:
            raise DestinationUnusable(f"{whole} is where unfinished transfers are kept")
        return cls(_open_root(parent), parent, name, floor)

    @classmethod
    def for_tree(
        cls, path: str | os.PathLike[str], create: bool = True, floor: Floor = NO_FLOOR
    ) -> Self:
        """The directory `path` itself, created with its parents if need be and wanted."""
        whole = os.path.abspath(path)
        if create:
            with storage_errors("mkdir", whole, destination=True):
                os.makedirs(whole, exist_ok=True)
        return cls(_open_root(whole), whole, None, floor)

    def close(self) -> None:
        fd, self.directory_fd = self.directory_fd, -1
        if fd >= 0:
            close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def path_of(self, parts: Sequence[str]) -> str:
        """For messages and logs."""
        return os.path.join(self.path, *parts)

    # ------------------------------------------------------------ what is there

    def exists(self, parts: Sequence[str]) -> Kind:
        """What stands at `parts`; `Kind.NOTHING` also if a directory before it is missing.

        Raises `UnsafeName`, and `DestinationUnusable` if a link or a file is in the way.
        """
        status = self.status(parts)
        return Kind.NOTHING if status is None else kind_of(status)

    def status(self, parts: Sequence[str]) -> os.stat_result | None:
        """lstat of what stands at `parts`, or None. Raises as `exists`."""
        try:
            with self.open_parent(parts) as (fd, name), storage_errors("stat", self.path_of(parts)):
                return lstat_at(fd, name)
        except DestinationUnusable as error:
            cause = error.__cause__
            if isinstance(cause, FileNotFoundError):
                return None
            raise

    # ------------------------------------------------------------ directories and links

    def make_dirs(self, parts: Sequence[str]) -> None:
        """Make the directory `parts` and those before it; what is there stays as it is.

        Raises `UnsafeName`, `DestinationUnusable`, `DiskFull`.
        """
        close(self._walk(self._checked(parts), create=True))

    def make_link(self, parts: Sequence[str], target: str, *, overwrite: bool = False) -> None:
        """Make a symbolic link that leads to somewhere inside the tree.

        One with the same target may be there. Raises `UnsafeName`, `DestinationExists`,
        `DestinationUnusable`.
        """
        check_link_target(parts, target)
        path = self.path_of(parts)
        with self.open_parent(parts) as (fd, name):
            with storage_errors("symlink", path, destination=True):
                if self._link_new(fd, name, target):
                    descriptors.sync_directory(fd)
                    return
            with storage_errors("readlink", path, destination=True):
                status = lstat_at(fd, name)
                kind = Kind.NOTHING if status is None else kind_of(status)
                if kind is Kind.LINK and os.readlink(name, dir_fd=fd) == target:
                    return
            if kind in {Kind.DIRECTORY, Kind.SPECIAL}:
                raise DestinationUnusable(f"{path} is a {kind}; a link cannot replace it")
            if not overwrite:
                raise DestinationExists(f"{path} exists", hint="use --overwrite to replace it")
            with storage_errors("symlink", path, destination=True):
                temporary = f".{os.getpid()}{_LINK_SUFFIX}"
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=fd)
                os.symlink(target, temporary, dir_fd=fd)
                os.rename(temporary, name, src_dir_fd=fd, dst_dir_fd=fd)
                descriptors.sync_directory(fd)

    @staticmethod
    def _link_new(fd: int, name: str, target: str) -> bool:
        try:
            os.symlink(target, name, dir_fd=fd)
        except FileExistsError:
            return False
        return True

    def set_meta(self, parts: Sequence[str], mode: int, mtime_ns: int, is_dir: bool) -> None:
        """Give a file or directory its permissions (0o777 only) and time.

        A directory keeps its owner's rights. What the file system cannot keep is let be.
        """
        kind_flag = os.O_DIRECTORY if is_dir else os.O_NONBLOCK
        path = self.path_of(parts)
        wanted = (mode & 0o777) | (_OWNER_MODE if is_dir else 0)
        with self._open_at(parts) as (parent_fd, name):
            with storage_errors("open", path, destination=True):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | kind_flag, dir_fd=parent_fd)
            try:
                descriptors.set_mode_and_time(fd, path, wanted, mtime_ns)
            finally:
                close(fd)

    # ------------------------------------------------------------ names that meet

    def claim_in(self, parent: tuple[str, ...], name: str) -> bool:
        """Take a name of a directory for one file of this run; True if it is on the disk now.

        Raises `UnsafeName`, also if another name that differs only in case or Unicode form was
        claimed before, or stood on the disk when the first name there was claimed.
        """
        self._checked((name,))
        names = self._claimed.get(parent)
        if names is None:
            names = self._claimed[parent] = self._names_on_disk(parent)
            self._found[parent] = frozenset(names.values())
        other = names.setdefault(fold_key(name), name)
        if other != name:
            raise _twins(self.path_of((*parent, name)), other)
        return name in self._found[parent]

    def release_names(self, parent: tuple[str, ...]) -> None:
        """No more names of this directory will be claimed."""
        self._claimed.pop(parent, None)
        self._found.pop(parent, None)

    def _names_on_disk(self, parts: tuple[str, ...]) -> dict[str, str]:
        try:
            fd = self._walk(parts, create=False)
        except DestinationUnusable as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return {}
            raise
        try:
            with storage_errors("readdir", self.path_of(parts)):
                return {fold_key(name): name for name in os.listdir(fd)}
        finally:
            close(fd)

    # ------------------------------------------------------------ walking

    def open_directory(self, parts: Sequence[str]) -> int:
        """A new descriptor of the directory `parts`, the caller's to close.

        Raises `UnsafeName`, and `DestinationUnusable` naming what is in the way.
        """
        return self._walk(self._checked(parts), create=False)

    @contextmanager
    def open_parent(self, parts: Sequence[str]) -> Iterator[tuple[int, str]]:
        """A descriptor of the directory that holds `parts`, and the last name.

        Raises `UnsafeName`, and `DestinationUnusable` naming what is in the way.
        """
        checked = self._checked(parts)
        if not checked:
            raise UnsafeName("an empty path names the tree itself")
        fd = self._walk(checked[:-1], create=False)
        try:
            yield fd, checked[-1]
        finally:
            close(fd)

    @contextmanager
    def _open_at(self, parts: Sequence[str]) -> Iterator[tuple[int, str]]:
        """As `open_parent`, but the empty path is the root itself."""
        if parts:
            with self.open_parent(parts) as at:
                yield at
        else:
            yield self.directory_fd, "."

    def _checked(self, parts: Sequence[str]) -> tuple[str, ...]:
        checked = tuple(parts)
        if self.own_name is not None and checked == (self.own_name,):
            return checked
        if len(checked) > MAX_PATH_DEPTH:
            raise UnsafeName(f"a path {len(checked)} deep; the most is {MAX_PATH_DEPTH}")
        for name in checked:
            check_name(name)
            if name.endswith(_LINK_SUFFIX):
                raise UnsafeName(f"{name!a} is a name that is needed here")
        return checked

    def _walk(self, parts: tuple[str, ...], *, create: bool) -> int:
        """A new descriptor of the directory `parts`."""
        with storage_errors("dup", self.path):
            fd = os.dup(self.directory_fd)
        try:
            for depth, name in enumerate(parts):
                path = self.path_of(parts[: depth + 1])
                below = self._step(fd, name, path, create=create)
                close(fd)
                fd = below
        except BaseException:
            close(fd)
            raise
        return fd

    def _step(self, fd: int, name: str, path: str, *, create: bool) -> int:
        try:
            return os.open(name, _DIRECTORY_FLAGS, dir_fd=fd)
        except FileNotFoundError as error:
            if not create:
                raise translate(error, "open", path, destination=True) from error
        except OSError as error:
            raise _in_the_way(error, fd, name, path) from error
        with storage_errors("mkdir", path, destination=True):
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=fd)
            descriptors.sync_directory(fd)
        try:
            return os.open(name, _DIRECTORY_FLAGS, dir_fd=fd)
        except OSError as error:
            raise _in_the_way(error, fd, name, path) from error


def _twins(path: str, other: str) -> UnsafeName:
    return UnsafeName(
        f"{path!a} and {other!a} differ only in case or Unicode form:"
        " some systems take them for one",
        hint="rename one of them at the origin, or move the one here away",
    )


def _open_root(path: str) -> int:
    with storage_errors("open", path, destination=True):
        return os.open(path, _ROOT_FLAGS)


def _in_the_way(error: OSError, fd: int, name: str, path: str) -> Exception:
    """Say what stands where a directory should: ENOTDIR and ELOOP alone do not."""
    if error.errno in {errno.ENOTDIR, errno.ELOOP}:
        with suppress(OSError):
            status = lstat_at(fd, name)
            if status is not None:
                return DestinationUnusable(
                    f"{path} is a {kind_of(status)}, not a directory",
                    hint="move it away; links are not followed below the destination",
                )
    return translate(error, "open", path, destination=True)
