"""The system calls of all simulated hosts, in the place of the real ones while installed.

Whatever names a path below `/sim/<host>/`, or a descriptor made there, comes here; everything else
goes where it always went. The product's storage floor runs on it unchanged.
"""

from __future__ import annotations

import builtins
import fcntl
import io
import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

from chunkq.storage import linux
from tests.simulation.disk import Disk
from tests.simulation.fileobjects import Entries, Entry, opened
from tests.simulation.inodes import Inode
from tests.simulation.namecalls import NameCalls, is_ours
from tests.simulation.opened import FIRST_FD, OpenFile
from tests.simulation.process import Process, current

Call = Callable[..., Any]
#: Simulated processes are numbered from here.
FIRST_PID = 1000


class Kernel(NameCalls):
    """`wall_ns`: the wall clock of a host. `entropy`: what simulated processes draw upon.

    The clocks of the disks' time stamps are set to it, too.
    """

    def __init__(
        self,
        disks: Mapping[str, Disk],
        *,
        wall_ns: Callable[[str], int],
        entropy: Random | None = None,
    ) -> None:
        super().__init__(disks)
        self._wall_ns = wall_ns
        self._entropy = entropy
        self._pids: dict[Process, int] = {}
        for host, disk in disks.items():
            disk.wall_ns = lambda host=host: wall_ns(host)  # type: ignore[misc]

    def power_cut(self, host: str) -> None:
        """The processes of that host are dead already."""
        disk = self.disks[host]
        assert not any(
            opened.disk is disk and owner is not None and owner.alive
            for opened, owner in self._table.values()
        ), "somebody is still alive there"
        disk.crash()
        self._above.root.entries[host] = disk.root

    # ------------------------------------------------------------ what is not a file's

    def scandir(self, path: str | int = ".") -> Entries:
        disk, directory = self._listed(path)
        prefix = "" if isinstance(path, int) else os.path.join(path, "")
        return Entries(
            [
                Entry(name, prefix + name, inode, disk.device)
                for name, inode in directory.entries.items()
            ]
        )

    def pid(self, process: Process) -> int:
        return self._pids.setdefault(process, FIRST_PID + len(self._pids))

    def lock_table(self) -> str:
        """/proc/locks, of all hosts."""
        lines: list[str] = []
        seen: set[OpenFile] = set()
        for found, owner in self._table.values():
            inode: Inode = found.inode
            if found in inode.locks and found not in seen:
                seen.add(found)
                kind = "WRITE" if inode.locks[found] else "READ"
                device = f"{os.major(found.disk.device):02x}:{os.minor(found.disk.device):02x}"
                pid = self.pid(owner) if owner else 1
                lines.append(f"{len(lines) + 1}: FLOCK  ADVISORY  {kind} {pid} {device}:")
                lines[-1] += f"{inode.number} 0 EOF\n"
        return "".join(lines)

    # ------------------------------------------------------------ in the place of the real ones

    @contextmanager
    def install(self) -> Iterator[None]:
        """Until the end of the block. Work for thread pools is done at once, in this thread."""
        places = self._places()
        before = [(where, name, getattr(where, name)) for where, name, _ in places]
        for where, name, make in places:
            setattr(where, name, make(getattr(where, name)))
        try:
            yield
        finally:
            for where, name, real in before:
                setattr(where, name, real)
            os.close = _outliving(os.close)

    def _places(self) -> list[tuple[Any, str, Callable[[Call], Call]]]:
        places: list[tuple[Any, str, Callable[[Call], Call]]] = []
        for name in (
            *("close", "dup", "fchmod", "fdatasync", "fstat", "fstatvfs", "fsync", "ftruncate"),
            *("lseek", "posix_fadvise", "pread", "preadv", "pwrite", "pwritev", "read", "write"),
        ):
            places.append((os, name, _by_descriptor(getattr(self, name))))
        for name in ("mkdir", "open", "readlink", "rmdir", "unlink"):
            places.append((os, name, _by_path(getattr(self, name))))
        for name in ("link", "rename"):
            places.append((os, name, _by_two(getattr(self, name))))
        return [
            *places,
            (os, "remove", _by_path(self.unlink)),
            (os, "replace", _by_two(self.rename)),
            (os, "symlink", lambda real: self._symlink(real)),
            (os, "stat", _either(self.stat, self.fstat)),
            (
                os,
                "lstat",
                _by_path(lambda path, **at: self.stat(path, follow_symlinks=False, **at)),
            ),
            (os, "listdir", _either(self.listdir, self.listdir)),
            (os, "scandir", _either(self.scandir, self.scandir)),
            (os, "truncate", _either(self.truncate, self.ftruncate)),
            (os, "chmod", _either(_chmod(self.chmod), self.fchmod)),
            (os, "statvfs", _either(self.statvfs, self.fstatvfs)),
            (os, "utime", _either(_utime(self.utime), _utime(self.futime))),
            (os, "access", _by_path(self.access)),
            (os, "getpid", self._getpid),
            (os, "urandom", self._random_bytes),
            (secrets, "token_bytes", self._random_bytes),
            (secrets, "token_hex", lambda real: lambda count: secrets.token_bytes(count).hex()),
            (fcntl, "flock", _by_descriptor(self.flock)),
            (mmap, "mmap", _by_descriptor(lambda fd, length, *_, **__: self.mmap(fd, length))),
            (linux, "reserve", _by_descriptor(_supported(self.reserve))),
            (linux, "punch_hole", _by_descriptor(_supported(self.punch_hole))),
            (linux, "rename_no_replace", _by_descriptor(_supported(self._rename_no_replace))),
            (linux, "file_system_type", _by_descriptor(self.file_system_type)),
            (time, "time_ns", self._time_ns),
            (time, "time", lambda real: lambda: time.time_ns() / 1e9 if current() else real()),
            (io, "open", self._opener),
            (builtins, "open", self._opener),
            (ThreadPoolExecutor, "submit", lambda real: _submit),
        ]

    def _symlink(self, real: Call) -> Call:
        def call(src: Any, dst: Any, *rest: Any, dir_fd: int | None = None) -> Any:
            if _ours(dst, dir_fd):
                return self.symlink(os.fsdecode(src), os.fsdecode(dst), dir_fd=dir_fd)
            return real(src, dst, *rest, dir_fd=dir_fd)

        return call

    def _rename_no_replace(self, source_fd: int, source: str, target_fd: int, target: str) -> None:
        self.rename(source, target, src_dir_fd=source_fd, dst_dir_fd=target_fd, replace=False)

    def _getpid(self, real: Call) -> Call:
        def call() -> int:
            process = current()
            return real() if process is None else self.pid(process)

        return call

    def _random_bytes(self, real: Call) -> Call:
        def call(count: int) -> bytes:
            if self._entropy is None or current() is None:
                return real(count)  # type: ignore[no-any-return]
            return self._entropy.randbytes(count)

        return call

    def _time_ns(self, real: Call) -> Call:
        def call() -> int:
            process = current()
            if process is None:
                return real()  # type: ignore[no-any-return]
            return self._wall_ns(process.host)

        return call

    def _opener(self, real: Call) -> Call:
        def call(file: Any, *rest: Any, **options: Any) -> Any:
            if isinstance(file, int):
                if file >= FIRST_FD:
                    return opened(self, file, *rest, **options)
                return real(file, *rest, **options)
            if isinstance(file, str | Path):
                path = os.fspath(file)
                if path.startswith("/sim"):
                    return opened(self, path, *rest, **options)
                process = current()
                if process is not None and path.startswith("/proc/"):
                    if path == "/proc/locks":
                        return io.StringIO(self.lock_table())
                    if path == "/proc/sys/kernel/random/boot_id":
                        return io.StringIO(self.disks[process.host].boot_id.hex())
            return real(file, *rest, **options)

        return call


# ---------------------------------------------------------------- whose call it is


def _by_descriptor(simulated: Call) -> Callable[[Call], Call]:
    def make(real: Call) -> Call:
        def call(fd: Any, *rest: Any, **options: Any) -> Any:
            if type(fd) is int and fd >= FIRST_FD:
                return simulated(fd, *rest, **options)
            return real(fd, *rest, **options)

        return call

    return make


def _ours(path: Any, dir_fd: int | None) -> bool:
    if type(path) is str and not path.startswith("/"):
        return dir_fd is not None and dir_fd >= FIRST_FD
    if isinstance(path, int):
        return path >= FIRST_FD
    text = os.fsdecode(path)
    if text.startswith("/"):
        return is_ours(text)
    return dir_fd is not None and dir_fd >= FIRST_FD


def _by_path(simulated: Call) -> Callable[[Call], Call]:
    def make(real: Call) -> Call:
        def call(path: Any, *rest: Any, dir_fd: int | None = None, **options: Any) -> Any:
            if _ours(path, dir_fd):
                if type(path) is not str:
                    path = os.fsdecode(path)
                return simulated(path, *rest, dir_fd=dir_fd, **options)
            return real(path, *rest, dir_fd=dir_fd, **options)

        return call

    return make


def _either(by_path: Call, by_descriptor: Call) -> Callable[[Call], Call]:
    def make(real: Call) -> Call:
        def call(path: Any = ".", *rest: Any, **options: Any) -> Any:
            if type(path) is int:
                if path >= FIRST_FD:
                    return by_descriptor(path, *rest, **options)
            elif _ours(path, options.get("dir_fd")):
                return by_path(path if type(path) is str else os.fsdecode(path), *rest, **options)
            return real(path, *rest, **options)

        return call

    return make


def _by_two(simulated: Call) -> Callable[[Call], Call]:
    def make(real: Call) -> Call:
        def call(
            src: Any,
            dst: Any,
            *,
            src_dir_fd: int | None = None,
            dst_dir_fd: int | None = None,
            **options: Any,
        ) -> Any:
            if _ours(dst, dst_dir_fd) or _ours(src, src_dir_fd):
                return simulated(
                    os.fsdecode(src), os.fsdecode(dst), src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd
                )
            return real(src, dst, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd, **options)

        return call

    return make


def _outliving(real: Call) -> Call:
    """The real `close`: objects of a world that is no more may be let go of at any time."""
    if getattr(real, "outlives", False):
        return real

    def call(fd: Any) -> None:
        if not (type(fd) is int and fd >= FIRST_FD):
            real(fd)

    call.outlives = True  # type: ignore[attr-defined]
    return call


def _supported(simulated: Call) -> Call:
    """What the product's own wrappers make of a call that is not known."""

    def call(*arguments: Any) -> Any:
        try:
            return simulated(*arguments)
        except OSError as error:
            if error.errno in linux.UNSUPPORTED:
                raise linux.Unsupported from error
            raise

    return call


def _chmod(simulated: Call) -> Call:
    def call(path: Any, mode: int, *, follow_symlinks: bool = True, **options: Any) -> None:
        simulated(path, mode, **options)

    return call


def _utime(simulated: Call) -> Call:
    def call(
        path: Any, times: Any = None, *, ns: tuple[int, int] | None = None, **options: Any
    ) -> None:
        if times is not None:
            ns = int(times[0] * 1e9), int(times[1] * 1e9)
        simulated(path, ns, **options)

    return call


def _submit(_: ThreadPoolExecutor, work: Call, /, *arguments: Any, **options: Any) -> Future[Any]:
    """As `ThreadPoolExecutor.submit`, done by the time it returns."""
    future: Future[Any] = Future()
    try:
        future.set_result(work(*arguments, **options))
    except BaseException as error:
        future.set_exception(error)
    return future
