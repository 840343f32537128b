"""System calls on open files: content, holes, room, locks, durability."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Sequence

from chunkq.storage import direct
from tests.simulation.disk import Disk
from tests.simulation.inodes import PAGE_BYTES, SECTOR_BYTES, Directory, File, Mapped
from tests.simulation.opened import Descriptors, OpenFile, fail

#: What ext4 and the like say to a file of more.
MAX_FILE_BYTES = 1 << 44
#: The direct path of the product is taken on such.
EXT4 = min(direct.FILE_SYSTEMS)


class FileCalls(Descriptors):
    """Each as the real one of its name, for descriptors of the simulation."""

    # ------------------------------------------------------------ reading

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        opened, file = self._reading(fd)
        self.enter("read", opened.disk, fd, length, offset)
        return self._read(opened, file, offset, length)

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        opened, file = self._reading(fd)
        views = [memoryview(each).cast("B") for each in buffers]
        length = sum(each.nbytes for each in views)
        self.enter("read", opened.disk, fd, length, offset)
        data = self._read(opened, file, offset, length)
        at = 0
        for view in views:
            part = data[at : at + view.nbytes]
            view[: len(part)] = part
            at += len(part)
        return len(data)

    def read(self, fd: int, length: int) -> bytes:
        opened, file = self._reading(fd)
        self.enter("read", opened.disk, fd, length, opened.offset)
        data = self._read(opened, file, opened.offset, length)
        opened.offset += len(data)
        return data

    def _reading(self, fd: int) -> tuple[OpenFile, File]:
        if not self.get(fd).readable:
            fail(errno.EBADF)
        return self.file(fd)

    def _read(self, opened: OpenFile, file: File, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            fail(errno.EINVAL)
        if opened.direct and (offset % SECTOR_BYTES or length % SECTOR_BYTES):
            fail(errno.EINVAL)
        disk = opened.disk
        if (chance := disk.faults.short_read) and length > 1 and disk.random.random() < chance:
            length = _short(disk, opened, length)
        return file.read(offset, length, direct=opened.direct)

    # ------------------------------------------------------------ writing

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int, flags: int = 0) -> int:
        opened, file = self._writing(fd)
        if offset < 0:
            fail(errno.EINVAL)
        views = [memoryview(each).cast("B") for each in buffers]
        data = views[0] if len(views) == 1 else memoryview(b"".join(views))
        self.enter("write", opened.disk, fd, data.nbytes, offset)
        return self._write(opened, file, offset, data)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return self.pwritev(fd, [memoryview(data)], offset)

    def write(self, fd: int, data: bytes) -> int:
        opened, file = self._writing(fd)
        view = memoryview(data).cast("B")
        self.enter("write", opened.disk, fd, view.nbytes, opened.offset)
        if opened.append:
            opened.offset = file.size
        written = self._write(opened, file, opened.offset, view)
        opened.offset += written
        return written

    def _writing(self, fd: int) -> tuple[OpenFile, File]:
        if not self.get(fd).writable:
            fail(errno.EBADF)
        return self.file(fd)

    def _write(self, opened: OpenFile, file: File, offset: int, data: memoryview) -> int:
        if not data.nbytes:
            return 0
        if offset + data.nbytes > MAX_FILE_BYTES:
            fail(errno.EFBIG)
        if opened.direct and (offset % SECTOR_BYTES or data.nbytes % SECTOR_BYTES):
            fail(errno.EINVAL)
        if opened.append:
            offset = file.size
        disk = opened.disk
        if (
            (chance := disk.faults.short_write)
            and data.nbytes > 1
            and disk.random.random() < chance
        ):
            data = data[: _short(disk, opened, data.nbytes)]
        return disk.write(file, offset, data)

    # ------------------------------------------------------------ size and room

    def ftruncate(self, fd: int, size: int) -> None:
        opened = self.get(fd)
        if not opened.writable or not isinstance(opened.inode, File):
            fail(errno.EINVAL)
        if size < 0:
            fail(errno.EINVAL)
        if size > MAX_FILE_BYTES:
            fail(errno.EFBIG)
        self.enter("ftruncate", opened.disk, fd, size)
        opened.disk.truncate(opened.inode, size)

    def reserve(self, fd: int, offset: int, length: int) -> None:
        """fallocate, keeping the size."""
        opened, file = self._allocating(fd, offset, length)
        self.enter("fallocate", opened.disk, fd, offset, length)
        opened.disk.reserve(file, offset, length)

    def punch_hole(self, fd: int, offset: int, length: int) -> None:
        opened, file = self._allocating(fd, offset, length)
        self.enter("punch", opened.disk, fd, offset, length)
        opened.disk.punch(file, offset, length)

    def _allocating(self, fd: int, offset: int, length: int) -> tuple[OpenFile, File]:
        opened, file = self._writing(fd)
        if offset + length > MAX_FILE_BYTES:
            fail(errno.EFBIG)
        return opened, file

    def lseek(self, fd: int, position: int, how: int) -> int:
        opened = self.get(fd)
        inode = opened.inode
        self.enter("lseek", opened.disk, fd, position, how)
        if how in {os.SEEK_DATA, os.SEEK_HOLE}:
            if not isinstance(inode, File) or not 0 <= position < inode.size:
                fail(errno.ENXIO)
            if how == os.SEEK_HOLE:
                opened.offset = inode.data_end(position)
            else:
                start = inode.data_start(position)
                if start is None:
                    fail(errno.ENXIO)
                opened.offset = start
            return opened.offset
        base = {os.SEEK_SET: 0, os.SEEK_CUR: opened.offset, os.SEEK_END: inode.size}
        if how not in base or base[how] + position < 0:
            fail(errno.EINVAL)
        opened.offset = base[how] + position
        return opened.offset

    def fstatvfs(self, fd: int) -> os.statvfs_result:
        opened = self.get(fd)
        self.enter("fstatvfs", opened.disk, fd)
        return room_of(opened.disk)

    def file_system_type(self, fd: int) -> int:
        opened = self.get(fd)
        self.enter("fstatfs", opened.disk, fd)
        return EXT4

    # ------------------------------------------------------------ status

    def fstat(self, fd: int) -> os.stat_result:
        opened = self.get(fd)
        self.enter("fstat", opened.disk, fd)
        return opened.inode.status(opened.disk.device)

    def fchmod(self, fd: int, mode: int) -> None:
        opened = self.get(fd)
        self.enter("fchmod", opened.disk, fd, mode)
        opened.disk.set_meta(opened.inode, mode, opened.inode.meta.mtime_ns)

    def futime(self, fd: int, ns: tuple[int, int] | None) -> None:
        opened = self.get(fd)
        self.enter("utime", opened.disk, fd, ns)
        mtime_ns = opened.disk.now_ns() if ns is None else ns[1]
        opened.disk.set_meta(opened.inode, opened.inode.meta.mode, mtime_ns)

    # ------------------------------------------------------------ durability

    def fsync(self, fd: int) -> None:
        self._sync(fd, "fsync", data_only=False)

    def fdatasync(self, fd: int) -> None:
        self._sync(fd, "fdatasync", data_only=True)

    def _sync(self, fd: int, name: str, *, data_only: bool) -> None:
        opened = self.get(fd)
        disk, inode = opened.disk, opened.inode
        try:
            self.enter(name, disk, fd)
            if (chance := disk.faults.sync_error) and disk.random.random() < chance:
                disk.refusals += 1
                fail(errno.EIO)
        except OSError:
            if isinstance(inode, File):
                inode.fail_sync(disk.random)
            raise
        disk.syncs += 1
        if isinstance(inode, File):
            inode.sync(data_only=data_only)
        elif isinstance(inode, Directory):
            disk.sync_directory(inode)

    def posix_fadvise(self, fd: int, offset: int, length: int, advice: int) -> None:
        opened, file = self.file(fd)
        self.enter("fadvise", opened.disk, fd, advice)
        if advice == os.POSIX_FADV_DONTNEED:
            file.drop_lost()

    # ------------------------------------------------------------ sharing

    def flock(self, fd: int, operation: int) -> None:
        """A lock that would have to be waited for is a mistake: nobody could ever let go of it."""
        opened = self.get(fd)
        self.enter("flock", opened.disk, fd, operation)
        locks = opened.inode.locks
        if operation & fcntl.LOCK_UN:
            locks.pop(opened, None)
            return
        exclusive = bool(operation & fcntl.LOCK_EX)
        if any(
            holder is not opened and (exclusive or held_exclusively)
            for holder, held_exclusively in locks.items()
        ):
            if operation & fcntl.LOCK_NB:
                fail(errno.EWOULDBLOCK)
            raise AssertionError(f"deadlock: flock of inode {opened.inode.number}")
        locks[opened] = exclusive

    def mmap(self, fd: int, length: int) -> Mapped:
        opened, file = self.file(fd)
        self.enter("mmap", opened.disk, fd, length)
        if length > file.size:
            raise ValueError("mmap length is greater than file size")
        return file.map(length)

    def dup(self, fd: int) -> int:
        opened = self.get(fd)
        self.enter("dup", opened.disk, fd)
        return self.new_fd(opened)


def room_of(disk: Disk) -> os.statvfs_result:
    free = disk.free_pages
    return os.statvfs_result(
        (PAGE_BYTES, PAGE_BYTES, disk.capacity_pages, free, free, 1 << 20, 1 << 20, 1 << 20, 0, 255)
    )


def _short(disk: Disk, opened: OpenFile, length: int) -> int:
    """A part of it, whole sectors on the direct path."""
    step = SECTOR_BYTES if opened.direct else 1
    return disk.random.randrange(1, max(2, length // step)) * step
