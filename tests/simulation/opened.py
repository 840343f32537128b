"""Open descriptors of simulated processes: who has which, and what ends with a process."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable
from typing import NoReturn

from tests.simulation.disk import NO_FAULTS, Disk
from tests.simulation.inodes import Directory, File, Inode
from tests.simulation.process import Killed, Process, current

#: Descriptors of the simulation are numbered from here: no real one ever is.
FIRST_FD = 1 << 20

#: Each kernel has a range of its own: what the garbage collector closes late, of a world that is no
#: more, must not be a descriptor of another.
_RANGES = 1000
_kernels = itertools.count()

#: Sees each system call of a process before it is done; raises `OSError` or `Killed`.
Hook = Callable[[Process, str, tuple[object, ...]], None]

#: What may fail with EIO, and with ENOSPC where it needs room. Not closing: nobody can help that.
_TAKING_ROOM = frozenset({"write", "create", "mkdir", "link", "symlink", "rename", "fallocate"})
_CHANGING = _TAKING_ROOM | {"ftruncate", "punch", "unlink", "rmdir", "fchmod", "utime"}
_READING = frozenset({"read", "readdir", "readlink", "lseek"})
_OPENING = frozenset({"open", "create", "dup"})


def fail(number: int, path: object = None) -> NoReturn:
    """Raise what the kernel says."""
    if path is None:
        raise OSError(number, os.strerror(number))
    raise OSError(number, os.strerror(number), path)


class OpenFile:
    """An open file description, shared by its duplicates. flock belongs to it."""

    __slots__ = ("append", "direct", "disk", "inode", "offset", "readable", "refs", "writable")

    def __init__(self, disk: Disk, inode: Inode, flags: int) -> None:
        self.disk = disk
        self.inode = inode
        self.offset = 0
        self.refs = 0
        mode = flags & os.O_ACCMODE
        self.readable = mode != os.O_WRONLY
        self.writable = mode != os.O_RDONLY
        self.append = bool(flags & os.O_APPEND)
        self.direct = bool(flags & os.O_DIRECT)
        inode.opened += 1


class Descriptors:
    """The table of all hosts. `before_call`, if set, sees each call of a process first."""

    def __init__(self) -> None:
        self.before_call: Hook | None = None
        self._table: dict[int, tuple[OpenFile, Process | None]] = {}
        self._first_fd = self._next_fd = FIRST_FD * (1 + next(_kernels) % _RANGES)
        self._orphaned: set[int] = set()

    # ------------------------------------------------------------ calls

    def enter(self, name: str, disk: Disk | None, *arguments: object) -> None:
        """Begin a system call: a dead process makes none; a hook or the disk may fail it."""
        process = current()
        if process is not None:
            if not process.alive:
                raise Killed
            if self.before_call is not None:
                self.before_call(process, name, arguments)
        if disk is not None and (faults := disk.faults) is not NO_FAULTS and process is not None:
            draw = disk.random.random
            if name in _CHANGING:
                if faults.write_error and draw() < faults.write_error:
                    disk.refusals += 1
                    fail(errno.EIO)
                if name in _TAKING_ROOM and faults.no_space and draw() < faults.no_space:
                    disk.refusals += 1
                    fail(errno.ENOSPC)
            elif name in _READING and faults.read_error and draw() < faults.read_error:
                disk.refusals += 1
                fail(errno.EIO)
            if name in _OPENING and faults.no_descriptor and draw() < faults.no_descriptor:
                fail(errno.EMFILE)

    # ------------------------------------------------------------ the table

    def new_fd(self, opened: OpenFile) -> int:
        fd = self._next_fd
        self._next_fd += 1
        opened.refs += 1
        self._table[fd] = opened, current()
        return fd

    def get(self, fd: int) -> OpenFile:
        """Raises EBADF, or `Killed` in a dead process."""
        entry = self._table.get(fd)
        if entry is None:
            process = current()
            if process is not None and not process.alive:
                raise Killed
            fail(errno.EBADF)
        return entry[0]

    def file(self, fd: int) -> tuple[OpenFile, File]:
        opened = self.get(fd)
        if not isinstance(opened.inode, File):
            fail(errno.EISDIR if isinstance(opened.inode, Directory) else errno.EINVAL)
        return opened, opened.inode

    def directory(self, fd: int) -> tuple[OpenFile, Directory]:
        opened = self.get(fd)
        if not isinstance(opened.inode, Directory):
            fail(errno.ENOTDIR)
        return opened, opened.inode

    def close(self, fd: int) -> None:
        """Also when a dead process's object is let go of at last: then nothing is left to do."""
        entry = self._table.get(fd)
        if entry is None:
            if fd in self._orphaned or not self._first_fd <= fd < self._next_fd:
                return
            fail(errno.EBADF)
        try:
            self.enter("close", None, fd)
        except OSError:  # it is gone all the same
            del self._table[fd]
            self._drop(entry[0])
            raise
        del self._table[fd]
        self._drop(entry[0])

    def _drop(self, opened: OpenFile) -> None:
        opened.refs -= 1
        if opened.refs == 0:
            opened.inode.locks.pop(opened, None)
            opened.inode.opened -= 1
            opened.disk.let_go(opened.inode)

    def open_fds(self, process: Process) -> list[int]:
        """What a process has open."""
        return [fd for fd, (_, owner) in self._table.items() if owner is process]

    def kill(self, process: Process) -> None:
        """kill -9: its descriptors and locks go; what it wrote stays in the page cache."""
        process.alive = False
        for fd in self.open_fds(process):
            opened, _ = self._table.pop(fd)
            self._orphaned.add(fd)
            self._drop(opened)
