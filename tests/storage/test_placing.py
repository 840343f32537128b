"""Many small files placed at once: each complete or absent, in the right order, or told why not."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from chunkq.errors import (
    DestinationExists,
    DestinationUnusable,
    DiskFull,
    StorageError,
    SyncFailed,
)
from chunkq.ports import NewFile
from chunkq.storage import placing
from chunkq.storage.destination import Destination
from chunkq.storage.placing import BatchPlacer
from tests.storage.crashes import CHANGES, FailingCall, kill_before, run_in_child

MTIME_NS = 1_234_567_890_123_456_789


def new(path: str, content: bytes = b"content", mode: int = 0o640) -> NewFile:
    """A file that has come, verified."""
    return NewFile(tuple(path.split("/")), mode, MTIME_NS, content, blake3(content).digest())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "root"
    for name in ("a", "b"):
        (made / name).mkdir(parents=True)
    return made


@pytest.fixture
def destination(root: Path) -> Iterator[Destination]:
    with Destination.for_tree(root) as opened:
        yield opened


@pytest.fixture(params=["without a name", "with a name"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to write: with O_TMPFILE, and where the file system does not know it."""
    if request.param == "with a name":
        monkeypatch.setattr(placing, "_DESCRIPTORS", "/not/there")
    return str(request.param)


def place(destination: Destination, *files: NewFile, overwrite: bool = False) -> list[Any]:
    with BatchPlacer(destination, overwrite=overwrite) as placer:
        return placer.place(files)


def everything(root: Path) -> dict[str, bytes]:
    """Every file below, staging included."""
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def all_but_the_reading(status: os.stat_result) -> tuple[int, ...]:
    """Mode, inode, device, links, owners, size and times; not when it was read last."""
    return (*status[: stat.ST_ATIME], status.st_mtime_ns, status.st_ctime_ns)


def test_files_appear_with_mode_and_time(destination: Destination, root: Path, way: str) -> None:
    """In several directories, an empty one among them; and no staging is left."""
    files = [new("a/x", b"x"), new("b/y", b"", 0o755), new("z", b"z" * 70_000)]

    assert [True] * 3 == place(destination, *files)

    assert {"a/x": b"x", "b/y": b"", "z": b"z" * 70_000} == everything(root)
    status = (root / "b" / "y").stat()
    assert (0o755, MTIME_NS) == (stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    assert not (root / ".chunkq").exists()


def test_the_same_content_is_no_conflict(destination: Destination, root: Path, way: str) -> None:
    """It is told apart from what is new, also with --overwrite, and left as it is."""
    (root / "a" / "x").write_bytes(b"content")
    before = (root / "a" / "x").stat()

    assert [False, True] == place(destination, new("a/x"), new("a/y"))
    assert [False] == place(destination, new("a/x"), overwrite=True)

    after = (root / "a" / "x").stat()
    assert all_but_the_reading(before) == all_but_the_reading(after)


@pytest.mark.parametrize("there", [b"another", b"", b"content and more"])
def test_another_file_is_left_alone(
    destination: Destination, root: Path, way: str, there: bytes
) -> None:
    """And the others of the batch are placed."""
    (root / "a" / "x").write_bytes(there)

    refused, placed = place(destination, new("a/x"), new("a/y"))

    assert isinstance(refused, DestinationExists)
    assert placed is True
    assert {"a/x": there, "a/y": b"content"} == everything(root)


def test_overwriting_replaces_files_and_links(
    destination: Destination, root: Path, way: str
) -> None:
    """The link, not what it leads to; and staging is empty again."""
    (root / "a" / "x").write_bytes(b"another")
    (root / "outside").write_bytes(b"mine")
    (root / "a" / "link").symlink_to("../outside")

    done = place(destination, new("a/x"), new("a/link"), overwrite=True)

    assert [True, True] == done
    assert {"a/x": b"content", "a/link": b"content", "outside": b"mine"} == everything(root)
    assert not (root / "a" / "link").is_symlink()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_is_never_replaced(
    destination: Destination, root: Path, overwrite: bool
) -> None:
    """Nor a FIFO."""
    os.mkfifo(root / "fifo")

    done = place(destination, new("a"), new("fifo"), overwrite=overwrite)

    assert [DestinationUnusable] * 2 == [type(each) for each in done]


def test_a_link_in_the_way_leads_nowhere(destination: Destination, root: Path) -> None:
    """A directory that somebody replaced by a link: nothing is written behind it."""
    outside = root.parent / "outside"
    outside.mkdir()
    (root / "away").symlink_to(outside)

    refused, missing, placed = place(destination, new("away/x"), new("gone/x"), new("a/x"))

    assert isinstance(refused, DestinationUnusable)
    assert isinstance(missing, StorageError)
    assert placed is True
    assert [] == list(outside.iterdir())


def test_a_full_disk_leaves_nothing(
    destination: Destination, root: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that found no room is absent, the others are there."""
    FailingCall(monkeypatch, "pwritev", errno.ENOSPC, at=1)

    first, full, last = place(destination, new("a/1"), new("a/2"), new("a/3"))

    assert (True, True) == (first, last)
    assert isinstance(full, DiskFull)
    assert {"a/1", "a/3"} == everything(root).keys()


def test_a_file_that_was_not_synced_never_appears(
    destination: Destination, root: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fsync is not tried again, and it gets no name."""
    failing = FailingCall(monkeypatch, "fsync", errno.EIO, at=0)

    done = place(destination, new("a/1"), new("a/2"))

    lost = [each for each in done if each is not True]
    assert [SyncFailed] == [type(each) for each in lost]
    assert 1 == len(everything(root))
    assert 3 == failing.calls  # two files, one directory


def test_a_directory_that_was_not_synced_is_told(
    destination: Destination, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files do not count as durable; those of other directories do."""
    real, failed = os.fsync, []

    def fsync(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode) and os.readlink(f"/proc/self/fd/{fd}").endswith("a"):
            failed.append(fd)
            raise OSError(errno.EIO, "failed")
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    of_a, of_b, also_of_a = place(destination, new("a/1"), new("b/2"), new("a/3"))

    assert isinstance(of_a, StorageError)
    assert not isinstance(of_a, SyncFailed)
    assert isinstance(also_of_a, StorageError)
    assert of_b is True
    assert 1 == len(failed)


def test_durable_before_it_has_a_name(
    destination: Destination, root: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file: content, mode, times, fsync, name; then one fsync a directory, after all names."""
    calls: list[tuple[str, int]] = []
    lock = threading.Lock()

    def record(name: str) -> None:
        real = getattr(os, name)

        def recorded(what: Any, *arguments: Any, **keywords: Any) -> Any:
            # The inode: of a file, or of the directory.
            if name == "link":
                inode = os.stat(what, dir_fd=keywords.get("src_dir_fd")).st_ino
            else:
                inode = os.fstat(what).st_ino
            with lock:
                calls.append((name, inode))
            return real(what, *arguments, **keywords)

        monkeypatch.setattr(os, name, recorded)

    for name in ("pwritev", "fchmod", "utime", "fsync", "link"):
        record(name)
    files = [new(f"{directory}/{number}") for directory in "ab" for number in range(20)]
    assert [True] * 40 == place(destination, *files)

    steps = ["pwritev", "fchmod", "utime", "fsync", "link"]
    for file in files:
        inode = root.joinpath(*file.parts).stat().st_ino
        assert steps == [name for name, which in calls if which == inode]
    directories = {(root / name).stat().st_ino for name in "ab"}
    ends = [(name, which) for name, which in calls if which in directories]
    assert sorted(("fsync", inode) for inode in directories) == sorted(ends)
    last_link = max(at for at, (name, _) in enumerate(calls) if name == "link")
    assert all(at > last_link for at, (_, which) in enumerate(calls) if which in directories)


def test_syncs_go_out_on_several_threads(
    destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two fsyncs are under way at once: each waits until the other has begun."""
    real, both = os.fsync, threading.Barrier(2)
    waited: list[int] = []

    def fsync(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            waited.append(both.wait(30))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)

    assert [True, True] == place(destination, new("a/1"), new("b/2"))
    assert [0, 1] == sorted(waited)


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_at_every_step(
    destination: Destination, root: Path, way: str, overwrite: bool
) -> None:
    """Each file is complete or as before, and the next run finishes and tidies up."""
    files = [new("a/1", b"one" * 1000), new("b/2", b"two" * 1000), new("b/3", b"three" * 1000)]
    whole = {"/".join(file.parts): bytes(file.content) for file in files}
    old = {"b/2": b"old"} if overwrite else {}

    def work() -> None:
        place(destination, *files, overwrite=overwrite)

    for step in range(200):
        for path in root.rglob("*"):
            if path.is_file():
                path.unlink()
        for name, content in old.items():
            (root / name).write_bytes(content)

        def child(step: int = step) -> None:
            kill_before(step, CHANGES)
            work()

        status = run_in_child(child)
        seen = {n: c for n, c in everything(root).items() if not n.startswith(".chunkq/")}
        for name, content in seen.items():
            assert content in {whole[name], old.get(name)}, (step, name)
        work()
        assert whole == everything(root), step
        assert not (root / ".chunkq").exists()
        if status == 0:
            break
    assert step > 10


def test_what_another_process_is_placing_is_not_swept(destination: Destination, root: Path) -> None:
    """A lock tells the living from the dead; other names are none of our business."""
    staging = root / ".chunkq"
    staging.mkdir()
    for name in ("dead.small", "alive.small", "other.part"):
        (staging / name).touch()
    with (staging / "alive.small").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        place(destination, new("a/x"))

        assert {"alive.small", "other.part"} == set(os.listdir(staging))


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOENT, errno.EXDEV])
def test_a_file_system_that_names_no_nameless_files(
    destination: Destination, root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It takes the other way, for the first file and all others."""
    real = os.link

    def link(source: Any, *arguments: Any, **keywords: Any) -> None:
        if str(source).startswith("/proc/"):
            raise OSError(number, os.strerror(number))
        real(source, *arguments, **keywords)

    monkeypatch.setattr(os, "link", link)

    assert [True, True] == place(destination, new("a/1"), new("b/2"))
    assert {"a/1": b"content", "b/2": b"content"} == everything(root)


def test_without_hard_links(
    destination: Destination, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On FAT: a rename that refuses to replace."""
    monkeypatch.setattr(placing, "_DESCRIPTORS", "/not/there")
    FailingCall(monkeypatch, "link", errno.EPERM, times=100)
    (root / "a" / "there").write_bytes(b"another")

    placed, refused = place(destination, new("a/1"), new("a/there"))

    assert placed is True
    assert isinstance(refused, DestinationExists)
    assert {"a/1": b"content", "a/there": b"another"} == everything(root)
