"""The laws of the simulated disk, and whether its calls answer as real ones do."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random

import pytest

from chunkq.storage import linux
from tests.simulation.disk import Disk, DiskFaults
from tests.simulation.inodes import PAGE_BYTES, SECTOR_BYTES, File
from tests.simulation.kernel import Kernel
from tests.simulation.process import Killed, Process, running
from tests.simulation.survival import EntryChange, FileImage, file_image

#: Of an outcome that comes with a chance of one in a few, so many crashes miss it once in 10^6.
SEEDS = 60
PAGE_A, PAGE_B = b"a" * PAGE_BYTES, b"b" * PAGE_BYTES
WALL_NS = 1_767_225_600_000_000_000


class Machine:
    """One host, what it does within `with`, and its power switch."""

    def __init__(self, seed: int = 0, *, capacity_bytes: int = 1 << 40) -> None:
        self.disk = Disk(random=Random(seed), capacity_bytes=capacity_bytes)
        self.now_ns = WALL_NS
        self.kernel = Kernel({"here": self.disk}, wall_ns=lambda _: self.now_ns)
        self.process = Process("first", "here")

    @contextmanager
    def __call__(self, process: Process | None = None) -> Iterator[None]:
        with self.kernel.install(), running(process or self.process):
            yield

    def power_cut(self) -> None:
        self.kernel.kill(self.process)
        self.kernel.power_cut("here")
        self.process = Process("next", "here")


def write(path: str, data: bytes, *, at: int = 0, sync: bool = False, flags: int = 0) -> None:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600)
    assert len(data) == os.pwritev(fd, [data], at)
    if sync:
        os.fsync(fd)
    os.close(fd)


def sync_names(path: str = "/sim/here") -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


def read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def after_crashes(
    before: Callable[[], None],
    look: Callable[[], object],
    *,
    faults: DiskFaults | None = None,
    seeds: int = SEEDS,
) -> set[object]:
    """What `look` finds when the power was cut after `before`, over many crashes."""
    found = set()
    for seed in range(seeds):
        machine = Machine(seed)
        if faults is not None:
            machine.disk.faults = faults
        with machine():
            before()
        machine.power_cut()
        machine.disk.faults = DiskFaults()
        with machine():
            found.add(look())
    return found


# ---------------------------------------------------------------- what a power cut leaves


def test_what_was_synced_stays() -> None:
    """File and name, whatever the dice say."""

    def before() -> None:
        write("/sim/here/f", PAGE_A, sync=True)
        sync_names()

    assert {PAGE_A} == after_crashes(before, lambda: read("/sim/here/f"))


def test_a_write_that_was_not_synced_is_kept_lost_or_torn_by_sectors() -> None:
    """Each sector is old or new, whole."""

    def before() -> None:
        write("/sim/here/f", PAGE_A, sync=True)
        sync_names()
        write("/sim/here/f", PAGE_B)

    found = after_crashes(before, lambda: read("/sim/here/f"))
    sectors = {
        each[at : at + SECTOR_BYTES]
        for each in found
        if isinstance(each, bytes)
        for at in range(0, PAGE_BYTES, SECTOR_BYTES)
    }

    assert {PAGE_A, PAGE_B} < found
    assert {PAGE_A[:SECTOR_BYTES], PAGE_B[:SECTOR_BYTES]} == sectors


def test_a_version_in_between_may_be_what_is_left() -> None:
    """Written back in the background, then written again."""

    def before() -> None:
        write("/sim/here/f", PAGE_A, sync=True)
        sync_names()
        write("/sim/here/f", b"x" * SECTOR_BYTES)
        write("/sim/here/f", b"y" * SECTOR_BYTES)

    def look() -> object:
        return (read("/sim/here/f") or b"")[:1]

    assert {b"a", b"x", b"y"} == after_crashes(before, look)


def test_a_name_is_durable_with_its_directory_only() -> None:
    """fsync of the file does not keep its name."""

    def before() -> None:
        write("/sim/here/f", PAGE_A, sync=True)

    assert {None, PAGE_A} == after_crashes(before, lambda: read("/sim/here/f"))


def test_a_name_without_its_content_may_be_left() -> None:
    """Directories synced, the file not: it is there, empty, of zeros, or in part."""

    def before() -> None:
        write("/sim/here/f", PAGE_A)
        sync_names()

    found = after_crashes(before, lambda: read("/sim/here/f"))

    assert None not in found
    assert {b"", bytes(PAGE_BYTES), PAGE_A} <= found


def test_garbage_may_be_where_nothing_was_written() -> None:
    """An allocated sector that never reached the disk has an old file's bytes."""

    def before() -> None:
        write("/sim/here/f", PAGE_A)
        sync_names()

    found = after_crashes(before, lambda: read("/sim/here/f"), faults=DiskFaults(garbage=0.5))

    assert any(set(each) - set(PAGE_A + b"\0") for each in found if isinstance(each, bytes))


def test_a_rename_never_loses_both_names() -> None:
    """Old, new, or both as a weak file system leaves them; the target is never half."""

    def before() -> None:
        write("/sim/here/old", PAGE_A, sync=True)
        write("/sim/here/target", PAGE_B, sync=True)
        sync_names()
        os.rename("/sim/here/old", "/sim/here/target")

    def look() -> object:
        return read("/sim/here/old"), read("/sim/here/target")

    assert {(PAGE_A, PAGE_B), (None, PAGE_A), (PAGE_A, PAGE_A)} == after_crashes(before, look)


def test_a_removal_may_come_back() -> None:
    """unlink is no more durable than anything else."""

    def before() -> None:
        write("/sim/here/f", PAGE_A, sync=True)
        sync_names()
        os.unlink("/sim/here/f")

    assert {None, PAGE_A} == after_crashes(before, lambda: read("/sim/here/f"))


def test_changes_of_names_may_be_kept_in_any_order() -> None:
    """The later of two unrelated ones without the earlier."""

    def before() -> None:
        write("/sim/here/1", b"", sync=True)
        write("/sim/here/2", b"", sync=True)

    def look() -> object:
        return tuple(sorted(os.listdir("/sim/here")))

    assert {(), ("1",), ("2",), ("1", "2")} == after_crashes(before, look)


def test_fdatasync_keeps_size_and_content_but_no_permissions() -> None:
    """Those need fsync."""

    def before() -> None:
        write("/sim/here/f", b"", sync=True)
        sync_names()
        fd = os.open("/sim/here/f", os.O_RDWR)
        os.pwritev(fd, [PAGE_A], 0)
        os.fchmod(fd, 0o644)
        os.fdatasync(fd)

    def look() -> object:
        return read("/sim/here/f"), os.stat("/sim/here/f").st_mode & 0o777

    assert {(PAGE_A, 0o600), (PAGE_A, 0o644)} == after_crashes(before, look)


def test_a_direct_write_is_no_more_durable() -> None:
    """The disk has a cache of its own."""

    def before() -> None:
        write("/sim/here/f", PAGE_A, sync=True)
        sync_names()
        write("/sim/here/f", PAGE_B, flags=os.O_DIRECT)

    assert {PAGE_A, PAGE_B} < after_crashes(before, lambda: read("/sim/here/f"))


def test_a_mapped_file_is_durable_with_its_sync() -> None:
    """And what was changed in the mapping afterwards is not."""

    def before() -> None:
        import mmap

        write("/sim/here/f", PAGE_A, sync=True)
        sync_names()
        fd = os.open("/sim/here/f", os.O_RDWR)
        mapped = mmap.mmap(fd, PAGE_BYTES)
        mapped[0:1] = b"x"
        os.fdatasync(fd)
        mapped[SECTOR_BYTES : SECTOR_BYTES + 1] = b"y"
        assert b"x" == os.pread(fd, 1, 0)
        os.pwritev(fd, [b"z"], 2 * SECTOR_BYTES)
        assert b"z" == mapped[2 * SECTOR_BYTES : 2 * SECTOR_BYTES + 1]

    def look() -> object:
        whole = read("/sim/here/f") or b""
        return whole[0:1], whole[SECTOR_BYTES : SECTOR_BYTES + 1]

    assert {(b"x", b"a"), (b"x", b"y")} == after_crashes(before, look)


def test_the_same_seed_leaves_the_same() -> None:
    """Nothing but the seed decides."""

    def left(seed: int) -> bytes:
        machine = Machine(seed)
        with machine():
            for name in "abcdef":
                write(f"/sim/here/{name}", name.encode() * 9000, sync=name in "bd")
            os.rename("/sim/here/a", "/sim/here/b")
        machine.power_cut()
        return machine.disk.image(_Everything()).key()

    assert left(7) == left(7)
    assert 1 < len({left(seed) for seed in range(10)})


class _Everything:
    """A survival where nothing is open to choice any more."""

    def file(self, file: File) -> FileImage:
        assert [{}, [], []] == [file.dirty, file.dirty_sizes, file.dirty_metas]
        return file_image(file, {}, size=file.kept_size, meta=file.kept_meta)

    def entries(self, log: Sequence[EntryChange]) -> Sequence[EntryChange]:
        raise AssertionError("all names were durable")


# ---------------------------------------------------------------- failing syncs, rot, room


def test_after_a_failed_sync_the_next_one_says_that_all_is_well() -> None:
    """And the data may be gone, in the cache at once or at the crash."""

    def before() -> None:
        machine_faults(sync_error=0.0)
        write("/sim/here/f", PAGE_A, sync=True)
        sync_names()
        fd = os.open("/sim/here/f", os.O_RDWR)
        os.pwritev(fd, [PAGE_B], 0)
        machine_faults(sync_error=1.0)
        with pytest.raises(OSError, match="Input/output error"):
            os.fdatasync(fd)
        machine_faults(sync_error=0.0)
        os.fdatasync(fd)

    found = set()
    for seed in range(SEEDS):
        machine = Machine(seed)

        def machine_faults(*, machine: Machine = machine, sync_error: float) -> None:
            machine.disk.faults = DiskFaults(sync_error=sync_error)

        with machine():
            before()
            cached = read("/sim/here/f")
            fd = os.open("/sim/here/f", os.O_RDWR | os.O_DIRECT)
            on_disk = os.pread(fd, PAGE_BYTES, 0)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert on_disk == read("/sim/here/f")
        machine.power_cut()
        with machine():
            assert on_disk == read("/sim/here/f")
        found.add((cached, on_disk))

    assert {(PAGE_B, PAGE_B), (PAGE_B, PAGE_A), (PAGE_A, PAGE_A)} == found


def test_rot_changes_durable_bytes_without_a_word() -> None:
    """Size and time are as they were."""
    machine = Machine(1)
    with machine():
        write("/sim/here/f", PAGE_A, sync=True)
        status = os.stat("/sim/here/f")
        machine.disk.rot(bytes_count=1)
        now = read("/sim/here/f") or b""

        assert status == os.stat("/sim/here/f")
    assert 1 == sum(1 for each in now if each != ord("a"))


def test_room_is_what_is_not_allocated() -> None:
    """Holes take none, reserved runs do, a removed file gives its back when it is closed."""
    machine = Machine(capacity_bytes=16 * PAGE_BYTES)

    def free() -> int:
        return os.statvfs("/sim/here").f_bavail

    with machine():
        whole = free()
        fd = os.open("/sim/here/f", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 100 * PAGE_BYTES)
        assert whole == free()
        linux.reserve(fd, 0, 3 * PAGE_BYTES)
        assert whole - 3 == free() == os.fstatvfs(fd).f_bavail
        os.pwritev(fd, [PAGE_A], 0)
        assert whole - 3 == free()
        assert 3 * PAGE_BYTES == os.fstat(fd).st_blocks * 512
        linux.punch_hole(fd, 0, 2 * PAGE_BYTES)
        assert whole - 1 == free()
        os.unlink("/sim/here/f")
        assert whole - 1 == free()
        os.close(fd)
        assert whole == free()


def test_a_full_disk_takes_what_fits_and_then_nothing() -> None:
    """A short write, then ENOSPC; what is there may be written over."""
    machine = Machine(capacity_bytes=4 * PAGE_BYTES)
    with machine():
        fd = os.open("/sim/here/f", os.O_RDWR | os.O_CREAT)
        assert 3 * PAGE_BYTES == os.pwritev(fd, [PAGE_A * 5], 0)
        with pytest.raises(OSError, match="No space left") as raised:
            os.pwritev(fd, [b"x"], 3 * PAGE_BYTES)
        assert errno.ENOSPC == raised.value.errno
        with pytest.raises(OSError, match="No space left"):
            linux.reserve(fd, 8 * PAGE_BYTES, 1)

        assert PAGE_BYTES == os.pwritev(fd, [PAGE_B], 0)


@pytest.mark.parametrize(
    ("faults", "call", "number"),
    [
        (DiskFaults(write_error=1.0), lambda fd: os.pwritev(fd, [b"x"], 0), errno.EIO),
        (DiskFaults(no_space=1.0), lambda fd: os.pwritev(fd, [b"x"], 0), errno.ENOSPC),
        (DiskFaults(no_space=1.0), lambda fd: os.mkdir("/sim/here/d"), errno.ENOSPC),
        (DiskFaults(write_error=1.0), lambda fd: os.unlink("/sim/here/f"), errno.EIO),
        (DiskFaults(read_error=1.0), lambda fd: os.pread(fd, 1, 0), errno.EIO),
        (DiskFaults(sync_error=1.0), lambda fd: os.fsync(fd), errno.EIO),
        (DiskFaults(no_descriptor=1.0), lambda fd: os.dup(fd), errno.EMFILE),
    ],
)
def test_calls_fail_as_they_are_told(
    faults: DiskFaults, call: Callable[[int], object], number: int
) -> None:
    """Each kind of fault, at a chance of one."""
    machine = Machine()
    with machine():
        fd = os.open("/sim/here/f", os.O_RDWR | os.O_CREAT)
        machine.disk.faults = faults
        with pytest.raises(OSError, match=r"Errno") as raised:
            call(fd)

    assert number == raised.value.errno


def test_writes_and_reads_may_be_short() -> None:
    """Some of it, at least a byte."""
    machine = Machine()
    with machine():
        fd = os.open("/sim/here/f", os.O_RDWR | os.O_CREAT)
        machine.disk.faults = DiskFaults(short_write=1.0, short_read=1.0)
        written = os.pwritev(fd, [PAGE_A], 0)
        got = os.pread(fd, written, 0)

    assert 0 < written < PAGE_BYTES
    assert 0 < len(got) < written


# ---------------------------------------------------------------- processes


def test_kill_drops_descriptors_and_locks_and_keeps_the_page_cache() -> None:
    """Another process finds what was written, and the lock free."""
    machine = Machine()
    second = Process("second", "here")
    with machine():
        fd = os.open("/sim/here/f", os.O_RDWR | os.O_CREAT)
        os.pwritev(fd, [PAGE_A], 0)
        fcntl.flock(os.dup(fd), fcntl.LOCK_EX)
    with machine(second):
        own = os.open("/sim/here/f", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(own, fcntl.LOCK_SH | fcntl.LOCK_NB)
    machine.kernel.kill(machine.process)
    with machine(second):
        fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)

        assert PAGE_A == read("/sim/here/f")
        assert [own] == machine.kernel.open_fds(second)


def test_the_dead_do_nothing() -> None:
    """Neither by descriptor nor by name; to close what is gone is no error."""
    machine = Machine()
    with machine():
        fd = os.open("/sim/here/f", os.O_RDWR | os.O_CREAT)
        machine.kernel.kill(machine.process)
        for call in (
            lambda: os.pwritev(fd, [b"x"], 0),
            lambda: os.fsync(fd),
            lambda: os.unlink("/sim/here/f"),
            lambda: os.mkdir("/sim/here/d"),
        ):
            with pytest.raises(Killed):
                call()
        os.close(fd)
    with machine(Process("second", "here")):
        assert b"" == read("/sim/here/f")


def test_a_hook_sees_each_call_and_may_fail_it() -> None:
    """By its name and arguments."""
    machine, seen = Machine(), []

    def hook(process: Process, name: str, arguments: tuple[object, ...]) -> None:
        seen.append(name)
        if name == "fsync":
            raise OSError(errno.EDQUOT, "quota")

    machine.kernel.before_call = hook
    with machine(), pytest.raises(OSError, match="quota"):
        write("/sim/here/f", b"x", sync=True)

    assert ["create", "write", "fsync"] == seen


def test_time_and_process_number_are_the_hosts_and_the_processes() -> None:
    """Stamps have the grain of a file system; outside the world all is real."""
    machine = Machine()
    real = os.getpid()
    with machine():
        write("/sim/here/f", b"x")
        stamp = os.stat("/sim/here/f").st_mtime_ns
        import time

        assert WALL_NS == time.time_ns()
        assert real != os.getpid()
        assert 0 <= WALL_NS - stamp < 4_000_000
        assert stamp % 1_000_000
    assert real == os.getpid()
