"""The same calls on the real file system and on the simulated one: same results, same errors."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkq.storage import descriptors, linux
from tests.simulation.disk import Disk
from tests.simulation.inodes import PAGE_BYTES
from tests.simulation.kernel import Kernel
from tests.simulation.process import Process, running

NAMES = ("a", "b", "c", "d/a", "d/b", "e/a", "d", "e", "l", "l/a", ".", "d/..", "", "a/", "d/")
FLAGS = (
    os.O_RDONLY,
    os.O_RDWR,
    os.O_RDWR | os.O_CREAT,
    os.O_RDWR | os.O_CREAT | os.O_EXCL,
    os.O_WRONLY | os.O_CREAT | os.O_TRUNC,
    os.O_WRONLY | os.O_CREAT | os.O_APPEND,
    os.O_RDONLY | os.O_DIRECTORY,
    os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW,
    os.O_RDWR | os.O_NOFOLLOW,
)
#: Two names of one thing, depending on the file system.
ALIKE = {errno.EEXIST: errno.ENOTEMPTY, errno.EWOULDBLOCK: errno.EAGAIN}

#: A descriptor that nobody has, in either world.
NO_FD = 999_999

names = st.sampled_from(NAMES)
slots = st.integers(0, 3)
#: At and around the edges of pages.
offsets = st.builds(
    lambda page, odd: max(0, page * PAGE_BYTES + odd),
    st.integers(0, 5),
    st.sampled_from((0, 0, 0, -1, 1, 100)),
)
contents = st.builds(
    lambda letter, length: letter * length,
    st.sampled_from((b"x", b"y", b"\0")),
    st.sampled_from((0, 1, 100, PAGE_BYTES, 2 * PAGE_BYTES + 5)),
)
calls = st.one_of(
    st.tuples(st.just("open"), slots, names, st.sampled_from(FLAGS)),
    st.tuples(st.just("close"), slots),
    st.tuples(st.just("pwrite"), slots, contents, offsets),
    st.tuples(st.just("pread"), slots, st.sampled_from((0, 1, 5000, 1 << 16)), offsets),
    st.tuples(st.just("write"), slots, contents),
    st.tuples(st.just("read"), slots, st.sampled_from((1, 5000))),
    st.tuples(st.just("lseek"), slots, offsets, st.sampled_from((os.SEEK_DATA, os.SEEK_HOLE))),
    st.tuples(st.just("lseek"), slots, offsets, st.sampled_from((os.SEEK_SET, os.SEEK_END))),
    st.tuples(st.just("ftruncate"), slots, offsets),
    st.tuples(st.just("reserve"), slots, offsets, st.sampled_from((1, 3 * PAGE_BYTES))),
    st.tuples(st.just("punch"), slots, offsets, st.sampled_from((1, 5000, 3 * PAGE_BYTES))),
    st.tuples(
        st.just("flock"), slots, st.sampled_from((fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN))
    ),
    st.tuples(st.just("dup"), slots, slots),
    st.tuples(st.just("fsync"), slots),
    st.tuples(st.just("fstat"), slots),
    st.tuples(st.just("extents"), slots),
    st.tuples(st.just("listdir_at"), slots),
    st.tuples(st.just("open_at"), slots, slots, names, st.sampled_from(FLAGS)),
    st.tuples(st.just("unnamed"), slots, names),
    st.tuples(st.just("name_it"), slots, names),
    st.tuples(st.just("mkdir"), names),
    st.tuples(st.just("rmdir"), names),
    st.tuples(st.just("unlink"), names),
    st.tuples(st.just("link"), names, names),
    st.tuples(st.just("symlink"), st.sampled_from(("a", "d", "../d/a", "l", "no")), names),
    st.tuples(st.just("readlink"), names),
    st.tuples(st.just("rename"), names, names),
    st.tuples(st.just("rename_no_replace"), slots, names, slots, names),
    st.tuples(st.just("stat"), names, st.booleans()),
    st.tuples(st.just("listdir"), names),
    st.tuples(st.just("realpath"), names),
)
Step = tuple[object, ...]


class Caller:
    """Does steps below one directory, with a few numbered places for descriptors."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._fds: dict[int, int] = {}
        #: What of reserved room counts as data is each file system's own matter.
        self._reserved = False
        os.mkdir(root)
        for name in ("d", "e"):
            os.mkdir(os.path.join(root, name))

    def answer(self, step: Step) -> object:
        """What the call returns, or the error's number."""
        name, *arguments = step
        method: Callable[..., object] = getattr(self, f"_{name}")
        try:
            return method(*arguments)
        except OSError as error:
            return "error", ALIKE.get(error.errno or 0, error.errno)
        except linux.Unsupported:
            return "error", "unsupported"

    def close(self) -> None:
        for slot in list(self._fds):
            self._close(slot)

    def _at(self, name: str) -> str:
        return os.path.join(self._root, name) if name else self._root + "/no/"

    def _fd(self, slot: int) -> int:
        return self._fds.get(slot, NO_FD)

    def _keep(self, slot: int, fd: int) -> None:
        self._close(slot)
        self._fds[slot] = fd

    def _open(self, slot: int, name: str, flags: int) -> None:
        self._keep(slot, os.open(self._at(name), flags, 0o600))

    def _open_at(self, slot: int, at: int, name: str, flags: int) -> None:
        if at in self._fds:
            self._keep(slot, os.open(name, flags, 0o600, dir_fd=self._fds[at]))

    def _unnamed(self, slot: int, name: str) -> None:
        self._keep(slot, os.open(self._at(name), os.O_TMPFILE | os.O_RDWR, 0o600))

    def _name_it(self, slot: int, name: str) -> None:
        if slot in self._fds and stat.S_ISREG(os.fstat(self._fd(slot)).st_mode):
            at = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.link(f"/proc/self/fd/{self._fd(slot)}", name, dst_dir_fd=at)
            finally:
                os.close(at)

    def _close(self, slot: int) -> None:
        if slot in self._fds:
            os.close(self._fds.pop(slot))

    def _dup(self, slot: int, other: int) -> None:
        if slot != other and other in self._fds:
            self._keep(slot, os.dup(self._fds[other]))

    def _pwrite(self, slot: int, data: bytes, offset: int) -> int:
        return os.pwritev(self._fd(slot), [data], offset)

    def _pread(self, slot: int, length: int, offset: int) -> bytes:
        return os.pread(self._fd(slot), length, offset)

    def _write(self, slot: int, data: bytes) -> int:
        return os.write(self._fd(slot), data)

    def _read(self, slot: int, length: int) -> bytes:
        return os.read(self._fd(slot), length)

    def _lseek(self, slot: int, offset: int, how: int) -> int | None:
        if not self._is_file(slot) or self._reserved:
            return None
        return os.lseek(self._fd(slot), offset, how)

    def _is_file(self, slot: int) -> bool:
        return slot in self._fds and stat.S_ISREG(os.fstat(self._fds[slot]).st_mode)

    def _ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._fd(slot), size)

    def _reserve(self, slot: int, offset: int, length: int) -> None:
        if self._is_file(slot):
            self._reserved = True
            linux.reserve(self._fd(slot), offset, length)

    def _punch(self, slot: int, offset: int, length: int) -> None:
        if self._is_file(slot):
            linux.punch_hole(self._fd(slot), offset, length)

    def _flock(self, slot: int, operation: int) -> None:
        fcntl.flock(self._fd(slot), operation | fcntl.LOCK_NB)

    def _fsync(self, slot: int) -> None:
        os.fsync(self._fd(slot))

    def _fstat(self, slot: int) -> object:
        return _told(os.fstat(self._fd(slot)))

    def _extents(self, slot: int) -> object:
        if not self._is_file(slot) or self._reserved:
            return None
        size = os.fstat(self._fd(slot)).st_size
        return list(descriptors.data_extents(self._fd(slot), 0, size))

    def _listdir_at(self, slot: int) -> object:
        return sorted(os.listdir(self._fd(slot))) if slot in self._fds else None

    def _mkdir(self, name: str) -> None:
        os.mkdir(self._at(name))

    def _rmdir(self, name: str) -> None:
        os.rmdir(self._at(name))

    def _unlink(self, name: str) -> None:
        os.unlink(self._at(name))

    def _link(self, source: str, target: str) -> None:
        os.link(self._at(source), self._at(target))

    def _symlink(self, target: str, name: str) -> None:
        os.symlink(target, self._at(name))

    def _readlink(self, name: str) -> str:
        return os.readlink(self._at(name))

    def _rename(self, source: str, target: str) -> None:
        os.rename(self._at(source), self._at(target))

    def _rename_no_replace(self, source: int, name: str, target: int, other: str) -> None:
        if source in self._fds and target in self._fds:
            linux.rename_no_replace(self._fds[source], name, self._fds[target], other)

    def _stat(self, name: str, follow: bool) -> object:
        return _told(os.stat(self._at(name), follow_symlinks=follow))

    def _listdir(self, name: str) -> list[str]:
        return sorted(os.listdir(self._at(name)))

    def _realpath(self, name: str) -> str:
        return os.path.relpath(os.path.realpath(self._at(name)), os.path.realpath(self._root))


def _told(status: os.stat_result) -> tuple[int, ...]:
    """What every file system says alike."""
    if stat.S_ISDIR(status.st_mode):
        return (status.st_mode,)
    return status.st_mode, status.st_nlink, status.st_size


def check_alike(steps: list[Step], real_root: str) -> None:
    kernel = Kernel({"here": Disk(random=Random(1))}, wall_ns=lambda _: 1_767_225_600_000_000_000)
    real = Caller(os.path.join(real_root, "real"))
    with kernel.install(), running(Process("p", "here")):
        simulated = Caller("/sim/here/real")
        try:
            for number, step in enumerate(steps):
                expected, found = real.answer(step), simulated.answer(step)
                assert expected == found, (number, step, steps[:number])
        finally:
            simulated.close()
    real.close()


@settings(max_examples=250, deadline=None, derandomize=True)
@given(steps=st.lists(calls, min_size=5, max_size=40))
def test_any_sequence_of_calls_is_answered_as_the_real_file_system_does(steps: list[Step]) -> None:
    """Results and error numbers; times and the numbers of inodes aside."""
    root = tempfile.mkdtemp(prefix="chunkq-simulation-")
    try:
        check_alike(steps, root)
    finally:
        shutil.rmtree(root)


@pytest.mark.parametrize("seed", range(40))
def test_long_sequences_that_mostly_succeed(seed: int, tmp_path: Path) -> None:
    """Few names and open files, so that much is met again."""
    random = Random(seed)
    steps: list[Step] = []
    for _ in range(150):
        slot, name = random.randrange(3), random.choice(("a", "b", "d/a", "d/b", "d", "l"))
        at = random.randrange(4) * PAGE_BYTES + random.choice((0, 0, 7))
        data = random.choice((b"x", b"y")) * random.choice((10, PAGE_BYTES, 9000))
        steps.append(
            random.choice(
                (
                    ("open", slot, name, os.O_RDWR | os.O_CREAT),
                    ("pwrite", slot, data, at),
                    ("pwrite", slot, data, at),
                    ("pread", slot, 1 << 16, at),
                    ("extents", slot),
                    ("ftruncate", slot, at),
                    ("punch", slot, at, 5000),
                    ("reserve", slot, at, 9000) if seed % 2 else ("extents", slot),
                    ("lseek", slot, at, random.choice((os.SEEK_DATA, os.SEEK_HOLE))),
                    ("link", name, random.choice(("a", "c", "d/c"))),
                    ("rename", name, random.choice(("a", "c", "d/c", "e/d"))),
                    ("unlink", name),
                    ("symlink", "a", "l"),
                    ("unnamed", slot, "d"),
                    ("name_it", slot, name),
                    ("flock", slot, random.choice((fcntl.LOCK_SH, fcntl.LOCK_EX))),
                    ("stat", name, False),
                    ("fstat", slot),
                    ("fsync", slot),
                )
            )
        )

    check_alike(steps, str(tmp_path))
