"""The directories of a spool: making them, opening them without following links, and the errors.

Every call blocks. Directories are opened anew for each piece of work, by name: so a medium that was
pulled is noticed, one that was swapped is not written to by an old handle, and none is kept busy
by a publisher.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from chunkq.errors import BrokerRefused, BrokerUnreachable, Nacked
from chunkq.transport.spool.names import CUR, DEAD, FREE, MARKER, NEW, TMP
from chunkq.transport.spool.options import SpoolOptions

_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_A_DIRECTORY: Final = (errno.ENOTDIR, errno.ELOOP)
_NO_LOCKS: Final = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def translate(error: OSError, doing: str) -> BrokerRefused | BrokerUnreachable | Nacked:
    """The error of chunkq that `error` means for a spool; `doing` names the path."""
    message = f"{doing}: {error.strerror or error}"
    if error.errno in _NO_ROOM:
        return Nacked(message, hint="make room on the spool's file system, or let a consumer run")
    if error.errno in _FORBIDDEN:
        return BrokerRefused(message, hint="give this user the right to write there")
    if error.errno in _NOT_A_DIRECTORY:
        return BrokerRefused(
            message, hint="a spool has real directories, no links; remove what is in their place"
        )
    if error.errno in _NO_LOCKS:
        return BrokerRefused(message, hint="put the spool on a file system that has locks")
    return BrokerUnreachable(message, hint="create the directory, or mount or plug in its medium")


def open_directory(name: str, parent: int | None = None) -> int:
    """A descriptor of a real directory; a link in its place is an error."""
    return os.open(name, _DIRECTORY_FLAGS, dir_fd=parent)


@dataclass(frozen=True, slots=True)
class Places:
    """Descriptors of the directories of one mailbox, for one piece of work.

    `free` is None in a mailbox of an earlier release.
    """

    tmp: int
    new: int
    cur: int
    dead: int
    free: int | None


class SpoolDirectories:
    """The root and what is under it."""

    def __init__(self, options: SpoolOptions) -> None:
        self.root = os.fspath(options.root)
        self._dir_mode = options.dir_mode
        self.file_mode: Final = options.dir_mode & 0o666
        #: The umask takes the group's bits away; then they are set once more.
        self.shared: Final = bool(options.dir_mode & 0o077)

    def prepare(self) -> None:
        """Mark the root as a spool. Raises `BrokerUnreachable`, `BrokerRefused`."""
        doing = f"opening the spool {self.root}"
        try:
            if not stat.S_ISDIR(os.stat(self.root).st_mode):
                raise NotADirectoryError(errno.ENOTDIR, "it is not a directory")
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            marker = os.open(os.path.join(self.root, MARKER), flags, self.file_mode)
            os.close(marker)
            if not os.access(self.root, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, "no right to write")
        except OSError as error:
            refusal = translate(error, doing)
            if isinstance(refusal, Nacked):
                raise BrokerUnreachable(refusal.message, hint=refusal.hint) from error
            raise refusal from error

    def absence(self) -> str:
        """Why the spool cannot be used now, as a sentence for a person; empty if it is there."""
        marker = os.path.join(self.root, MARKER)
        try:
            os.lstat(marker)
        except OSError as error:
            return (
                f"the spool {self.root} is not there ({marker}: {error.strerror});"
                " mount or plug in its medium"
            )
        return ""

    def create_mailbox(self, directory: str) -> None:
        """Make what is missing of a mailbox; `tmp` last, as publishers look for that."""
        self.make(os.path.join(self.root, directory))
        for name in (NEW, CUR, DEAD, FREE, TMP):
            self.make(os.path.join(self.root, directory, name))

    def make(self, path: str, parent: int | None = None) -> None:
        """mkdir with the spool's mode; nothing happens if there is something."""
        try:
            os.mkdir(path, self._dir_mode, dir_fd=parent)
        except FileExistsError:
            return
        if self.shared:
            os.chmod(path, self._dir_mode, dir_fd=parent)

    @contextmanager
    def opened(self, directory: str) -> Iterator[Places]:
        """The directories of a mailbox, open for as long as the block runs. Raises OSError."""
        with ExitStack() as stack:
            mailbox = open_directory(os.path.join(self.root, directory))
            stack.callback(os.close, mailbox)
            descriptors = []
            for name in (TMP, NEW, CUR, DEAD):
                descriptor = open_directory(name, mailbox)
                stack.callback(os.close, descriptor)
                descriptors.append(descriptor)
            free = None
            with suppress(FileNotFoundError):
                free = open_directory(FREE, mailbox)
                stack.callback(os.close, free)
            tmp, new, cur, dead = descriptors
            yield Places(tmp, new, cur, dead, free)

    def create_file(self, name: str, parent: int) -> int:
        """A descriptor, to write, of a file that did not exist."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, self.file_mode, dir_fd=parent)
        if self.shared:
            os.fchmod(descriptor, self.file_mode)
        return descriptor
