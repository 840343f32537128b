"""System calls on names: opening, linking, renaming, removing, listing.

Rights are not checked: everything runs as the owner.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass

from tests.simulation.disk import Disk
from tests.simulation.filecalls import FileCalls, room_of
from tests.simulation.inodes import Directory, File, Inode, Link, Meta
from tests.simulation.opened import OpenFile, fail

#: Where the disks are: `/sim/<host>`.
ROOT = "/sim"
_ROOT_SLASH = ROOT + "/"
_PROC_FD = "/proc/self/fd/"
MAX_NAME_BYTES = 255
#: So many links are followed in one path (Linux).
MAX_LINKS_FOLLOWED = 40
_UMASK = 0o022


@dataclass(slots=True)
class Place:
    """A name in a directory, and what it leads to. No name: the directory itself."""

    disk: Disk
    parent: Directory
    name: str
    inode: Inode | None


class NameCalls(FileCalls):
    """Each as the real one of its name, for paths below `ROOT` and descriptors of ours."""

    def __init__(self, disks: Mapping[str, Disk]) -> None:
        super().__init__()
        self.disks = disks
        self._above = Disk(random=next(iter(disks.values())).random, device=0x800)
        for host, disk in disks.items():
            self._above.root.entries[host] = disk.root

    # ------------------------------------------------------------ walking

    def place(self, path: str, dir_fd: int | None, *, follow: bool) -> Place:
        """Raises `OSError` as the walk of a path does."""
        if path.startswith("/"):
            return self._absolute(path, follow, 0)
        if dir_fd is None:
            fail(errno.ENOENT, path)
        opened = self.get(dir_fd)
        if not isinstance(opened.inode, Directory):
            fail(errno.ENOTDIR, path)
        if not path:
            fail(errno.ENOENT, path)
        if path != "." and "/" not in path:  # by far the most frequent
            inode = self._look(opened.inode, path)
            if path != ".." and not (follow and isinstance(inode, Link)):
                return Place(opened.disk, opened.inode, path, inode)
        return self._walk(opened.disk, opened.inode, path, follow, 0)

    def _absolute(self, path: str, follow: bool, followed: int) -> Place:
        names = [each for each in path.split("/") if each and each != "."]
        if not names or f"/{names[0]}" != ROOT:
            fail(errno.ENOENT, path)
        if len(names) == 1:
            return Place(self._above, self._above.root, "", self._above.root)
        disk = self.disks.get(names[1])
        if disk is None:
            return Place(self._above, self._above.root, names[1], None)
        dot = path.rstrip("/").endswith("/.")
        rest = "/".join(names[2:] + ["."] * dot) + ("/" if path.endswith("/") else "")
        return self._walk(disk, disk.root, rest or ".", follow, followed)

    def _walk(self, disk: Disk, at: Directory, path: str, follow: bool, followed: int) -> Place:
        names = [each for each in path.split("/") if each and each != "."]
        follow = follow or path.endswith(("/", "/."))
        inode: Inode | None = at
        for position, name in enumerate(names):
            last = position == len(names) - 1
            if not isinstance(inode, Directory):
                fail(errno.ENOENT if inode is None else errno.ENOTDIR, path)
            at = inode
            inode = at.parent if name == ".." else self._look(at, name)
            if isinstance(inode, Link) and (follow or not last):
                if followed >= MAX_LINKS_FOLLOWED:
                    fail(errno.ELOOP, path)
                rest = "/".join([inode.target, *names[position + 1 :]])
                if rest.startswith("/"):
                    return self._absolute(rest, follow, followed + 1)
                return self._walk(disk, at, rest, follow, followed + 1)
        if not names or path.rstrip("/").endswith(("/.", "/..")) or path in {".", ".."}:
            if not isinstance(inode, Directory):
                fail(errno.ENOENT if inode is None else errno.ENOTDIR, path)
            return Place(disk, inode, "", inode)
        if path.endswith("/") and inode is not None and not isinstance(inode, Directory):
            fail(errno.ENOTDIR, path)
        return Place(disk, at, names[-1], inode)

    @staticmethod
    def _look(directory: Directory, name: str) -> Inode | None:
        if len(name) > MAX_NAME_BYTES // 4 and len(os.fsencode(name)) > MAX_NAME_BYTES:
            fail(errno.ENAMETOOLONG, name)
        return directory.entries.get(name)

    def _there(self, path: str, dir_fd: int | None, *, follow: bool) -> tuple[Disk, Inode]:
        place = self.place(path, dir_fd, follow=follow)
        if place.inode is None:
            fail(errno.ENOENT, path)
        return place.disk, place.inode

    # ------------------------------------------------------------ opening

    def open(self, path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            return self._open_unnamed(path, flags, mode, dir_fd)
        exclusive = bool(flags & os.O_CREAT and flags & os.O_EXCL)
        follow = not (flags & os.O_NOFOLLOW or exclusive)
        place = self.place(path, dir_fd, follow=follow)
        inode = place.inode
        creating = inode is None and bool(flags & os.O_CREAT)
        self.enter("create" if creating else "open", place.disk, path, flags)
        if inode is None:
            if not creating:
                fail(errno.ENOENT, path)
            if path.endswith("/"):
                fail(errno.EISDIR, path)
            inode = self._create(place, mode)
        elif exclusive:
            fail(errno.EEXIST, path)
        elif flags & os.O_DIRECTORY and not isinstance(inode, Directory):
            fail(errno.ENOTDIR, path)
        elif isinstance(inode, Link):
            fail(errno.ELOOP, path)
        elif isinstance(inode, Directory) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            fail(errno.EISDIR, path)
        opened = OpenFile(place.disk, inode, flags)
        if flags & os.O_TRUNC and opened.writable and isinstance(inode, File) and inode.size:
            place.disk.truncate(inode, 0)
        return self.new_fd(opened)

    def _open_unnamed(self, path: str, flags: int, mode: int, dir_fd: int | None) -> int:
        disk, directory = self._there(path, dir_fd, follow=not flags & os.O_NOFOLLOW)
        if not isinstance(directory, Directory):
            fail(errno.ENOTDIR, path)
        if not flags & (os.O_WRONLY | os.O_RDWR):
            fail(errno.EINVAL, path)
        self.enter("create", disk, path, flags)
        made = disk.new_file(mode & ~_UMASK)
        made.nameless = not flags & os.O_EXCL
        return self.new_fd(OpenFile(disk, made, flags))

    def _create(self, place: Place, mode: int) -> Inode:
        if place.parent.removed:
            fail(errno.ENOENT, place.name)
        inode = place.disk.new_file(mode & ~_UMASK)
        inode.links = 1
        place.disk.next_operation()
        place.disk.enter(place.parent, place.name, inode)
        return inode

    # ------------------------------------------------------------ making

    def mkdir(self, path: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        place = self.place(path.rstrip("/") or "/", dir_fd, follow=False)
        if place.inode is not None:
            fail(errno.EEXIST, path)
        if place.parent.removed or place.disk is self._above:
            fail(errno.ENOENT, path)
        self.enter("mkdir", place.disk, path)
        made = place.disk.new_directory(mode & ~_UMASK, place.parent)
        place.disk.next_operation()
        place.parent.links += 1
        place.disk.enter(place.parent, place.name, made)

    def symlink(self, target: str, path: str, *, dir_fd: int | None = None) -> None:
        place = self.place(path, dir_fd, follow=False)
        if place.inode is not None:
            fail(errno.EEXIST, path)
        if place.parent.removed or path.endswith("/"):
            fail(errno.ENOENT, path)
        self.enter("symlink", place.disk, path)
        made = place.disk.new_link(target)
        made.links = 1
        place.disk.next_operation()
        place.disk.enter(place.parent, place.name, made)

    def link(
        self,
        source: str,
        target: str,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
    ) -> None:
        if source.startswith(_PROC_FD):  # linkat with AT_SYMLINK_FOLLOW
            opened = self.get(int(source.removeprefix(_PROC_FD)))
            disk, inode = opened.disk, opened.inode
        else:
            disk, inode = self._there(source, src_dir_fd, follow=False)
        place = self.place(target, dst_dir_fd, follow=False)
        if place.inode is not None:
            fail(errno.EEXIST, target)
        if target.endswith("/"):
            fail(errno.ENOENT, target)
        if isinstance(inode, Directory):
            fail(errno.EPERM, source)
        if place.disk is not disk:
            fail(errno.EXDEV, target)
        if place.parent.removed:
            fail(errno.ENOENT, target)
        if not inode.links and not inode.nameless:
            fail(errno.ENOENT, source)
        self.enter("link", disk, source, target)
        inode.links += 1
        inode.nameless = False
        inode.ctime_ns = disk.now_ns()
        disk.next_operation()
        disk.enter(place.parent, place.name, inode)

    # ------------------------------------------------------------ moving

    def rename(
        self,
        source: str,
        target: str,
        *,
        src_dir_fd: int | None = None,
        dst_dir_fd: int | None = None,
        replace: bool = True,
    ) -> None:
        old = self.place(source, src_dir_fd, follow=False)
        new = self.place(target, dst_dir_fd, follow=False)
        moved, there = old.inode, new.inode
        if not old.name or not new.name:
            fail(errno.EBUSY, source)
        if moved is None:
            fail(errno.ENOENT, source)
        if old.disk is not new.disk:
            fail(errno.EXDEV, target)
        if there is not None and not replace:
            fail(errno.EEXIST, target)
        if there is moved:
            return
        if new.parent.removed:
            fail(errno.ENOENT, target)
        if isinstance(moved, Directory):
            self._check_moving(moved, new, target)
        elif isinstance(there, Directory):
            fail(errno.EISDIR, target)
        self.enter("rename", old.disk, source, target)
        disk = old.disk
        disk.next_operation()
        if there is not None:
            self._unnamed(disk, there, new.parent)
        if isinstance(moved, Directory):
            moved.parent.links -= 1
            moved.parent = new.parent
            new.parent.links += 1
        moved.ctime_ns = disk.now_ns()
        appeared = disk.enter(new.parent, new.name, moved)
        disk.enter(old.parent, old.name, None, appeared)

    @staticmethod
    def _check_moving(moved: Directory, new: Place, target: str) -> None:
        at = new.parent
        while at.parent is not at:
            if at is moved:
                fail(errno.EINVAL, target)
            at = at.parent
        if new.inode is None:
            return
        if not isinstance(new.inode, Directory):
            fail(errno.ENOTDIR, target)
        if new.inode.entries:
            fail(errno.ENOTEMPTY, target)

    def _unnamed(self, disk: Disk, inode: Inode, parent: Directory) -> None:
        """One name less."""
        if isinstance(inode, Directory):
            inode.removed = True
            inode.links = 0
            parent.links -= 1
            disk.charge(1, 0)
            return
        inode.links -= 1
        inode.ctime_ns = disk.now_ns()
        disk.let_go(inode)

    # ------------------------------------------------------------ removing

    def unlink(self, path: str, *, dir_fd: int | None = None) -> None:
        place = self.place(path, dir_fd, follow=False)
        if place.inode is None:
            fail(errno.ENOENT, path)
        if isinstance(place.inode, Directory):
            fail(errno.EISDIR, path)
        self.enter("unlink", place.disk, path)
        place.disk.next_operation()
        place.disk.enter(place.parent, place.name, None)
        self._unnamed(place.disk, place.inode, place.parent)

    def rmdir(self, path: str, *, dir_fd: int | None = None) -> None:
        place = self.place(path, dir_fd, follow=False)
        if place.inode is None:
            fail(errno.ENOENT, path)
        if not isinstance(place.inode, Directory):
            fail(errno.ENOTDIR, path)
        if path.rstrip("/").endswith("/.") or path == ".":
            fail(errno.EINVAL, path)
        if not place.name and not path.endswith(".."):
            fail(errno.EBUSY, path)
        if place.inode.entries or not place.name:
            fail(errno.ENOTEMPTY, path)
        self.enter("rmdir", place.disk, path)
        place.disk.next_operation()
        place.disk.enter(place.parent, place.name, None)
        self._unnamed(place.disk, place.inode, place.parent)

    # ------------------------------------------------------------ looking

    def stat(
        self, path: str, *, dir_fd: int | None = None, follow_symlinks: bool = True
    ) -> os.stat_result:
        disk, inode = self._there(path, dir_fd, follow=follow_symlinks)
        self.enter("stat", disk, path)
        return inode.status(disk.device)

    def readlink(self, path: str, *, dir_fd: int | None = None) -> str:
        disk, inode = self._there(path, dir_fd, follow=False)
        self.enter("readlink", disk, path)
        if not isinstance(inode, Link):
            fail(errno.EINVAL, path)
        return inode.target

    def listdir(self, path: str | int) -> list[str]:
        _, directory = self._listed(path)
        return list(directory.entries)

    def _listed(self, path: str | int) -> tuple[Disk, Directory]:
        if isinstance(path, int):
            opened, inode = self.directory(path)
            disk: Disk = opened.disk
        else:
            disk, found = self._there(path, None, follow=True)
            if not isinstance(found, Directory):
                fail(errno.ENOTDIR, path)
            inode = found
        self.enter("readdir", disk, path)
        return disk, inode

    def statvfs(self, path: str) -> os.statvfs_result:
        disk, _ = self._there(path, None, follow=True)
        self.enter("fstatvfs", disk, path)
        return room_of(disk)

    def truncate(self, path: str, size: int) -> None:
        disk, inode = self._there(path, None, follow=True)
        if not isinstance(inode, File):
            fail(errno.EISDIR, path)
        self.enter("ftruncate", disk, path, size)
        disk.truncate(inode, size)

    def chmod(self, path: str, mode: int, *, dir_fd: int | None = None) -> None:
        disk, inode = self._there(path, dir_fd, follow=True)
        self.enter("fchmod", disk, path, mode)
        disk.set_meta(inode, mode, inode.meta.mtime_ns)

    def utime(
        self,
        path: str,
        ns: tuple[int, int] | None,
        *,
        dir_fd: int | None = None,
        follow_symlinks: bool = True,
    ) -> None:
        disk, inode = self._there(path, dir_fd, follow=follow_symlinks)
        self.enter("utime", disk, path, ns)
        mtime_ns = disk.now_ns() if ns is None else ns[1]
        if isinstance(inode, Link):
            inode.meta = Meta(inode.meta.mode, mtime_ns)
        else:
            disk.set_meta(inode, inode.meta.mode, mtime_ns)

    def access(self, path: str, mode: int, *, dir_fd: int | None = None) -> bool:
        try:
            self._there(path, dir_fd, follow=True)
        except OSError:
            return False
        return True


def is_ours(path: str) -> bool:
    return path.startswith(_ROOT_SLASH) or path == ROOT
