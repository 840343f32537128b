"""The file appears whole, once, and never over what was not meant."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkq.errors import (
    DestinationExists,
    DestinationUnusable,
    StateInvalid,
    StorageError,
    SyncFailed,
)
from chunkq.storage import linux
from chunkq.storage.destination import Destination
from chunkq.storage.publish import publish
from chunkq.storage.staged import StagedFile, open_staged
from tests.storage.crashes import CHANGES, FailingCall, killed_at_every_step
from tests.storage.samples import CHUNK, MIB, TRANSFER_ID, a_header, a_state, geometry

CONTENT = bytes(range(256)) * 80
COUNT = len(CONTENT) // CHUNK
MTIME_NS = 1_234_567_890_123_456_789
PARTS = ("file.bin",)


def staged_at(place: Destination) -> StagedFile:
    """A whole transfer, about to be published."""
    staged = open_staged(place, PARTS, TRANSFER_ID, a_header())
    if staged.state.load() is None:
        staged.part.allocate(geometry(COUNT), None)
        staged.part.write(0, [CONTENT])
        staged.part.sync()
        staged.state.store(a_state(1, tuple(range(COUNT)), count=COUNT, phase=5))
    return staged


@pytest.fixture
def staged(place: Destination) -> Iterator[StagedFile]:
    opened = staged_at(place)
    yield opened
    opened.close()


@pytest.fixture
def final(place: Destination) -> Path:
    return Path(place.path) / "file.bin"


def go(staged: StagedFile, *, overwrite: bool = False, mode: int = 0o640) -> None:
    staged.publish(mode=mode, mtime_ns=MTIME_NS, overwrite=overwrite)


def assert_published(final: Path, staged: StagedFile) -> None:
    """Content, mode and time are right, and staging goes away."""
    staged.remove()
    status = final.lstat()
    assert CONTENT == final.read_bytes()
    assert (0o640, MTIME_NS) == (stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    assert 1 == status.st_nlink
    assert not (final.parent / ".chunkq").exists()


def without_links(patch: pytest.MonkeyPatch, *, rename: bool) -> None:
    """A file system without hard links (FAT), and one without `renameat2` flags (some FUSE)."""
    FailingCall(patch, "link", errno.EPERM, times=1000)
    if not rename:
        patch.setattr(linux, "rename_no_replace", _unsupported)


def _unsupported(*_: object) -> None:
    raise linux.Unsupported


@pytest.mark.parametrize("overwrite", [False, True])
def test_it_appears_with_mode_and_time(staged: StagedFile, final: Path, overwrite: bool) -> None:
    """Where there was nothing."""
    assert not staged.published()
    go(staged, overwrite=overwrite)

    assert staged.published()
    assert_published(final, staged)


def test_scale_0_bytes_takes_the_same_way(place: Destination, final: Path) -> None:
    """An empty file is a file."""
    staged = open_staged(place, PARTS, TRANSFER_ID, a_header())
    staged.part.allocate(geometry(0), None)

    go(staged)
    staged.remove()

    assert b"" == final.read_bytes()


def test_set_uid_is_never_set(staged: StagedFile, final: Path) -> None:
    """Nor set-gid, nor sticky."""
    go(staged, mode=0o7755)

    assert 0o755 == stat.S_IMODE(final.stat().st_mode)


def test_twice_is_once(staged: StagedFile, final: Path) -> None:
    """After a crash it is called again, in either way."""
    go(staged)
    go(staged)
    go(staged, overwrite=True)

    assert_published(final, staged)


def test_an_existing_destination_is_left_as_it_is(staged: StagedFile, final: Path) -> None:
    """And nothing is lost: with `overwrite` the same staging goes on."""
    final.write_bytes(b"precious")

    with pytest.raises(DestinationExists, match=r"file\.bin"):
        go(staged)
    assert b"precious" == final.read_bytes()
    go(staged, overwrite=True)

    assert_published(final, staged)


def test_destination_appears_during_publish(
    staged: StagedFile, final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any look and the step itself: the step refuses."""
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        if not final.exists():
            final.write_bytes(b"just now")

    monkeypatch.setattr(os, "fsync", fsync)

    with pytest.raises(DestinationExists):
        go(staged)
    assert b"just now" == final.read_bytes()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["fifo", "directory", "socket", "device"])
def test_destination_is_a_fifo_a_device_or_a_directory(
    staged: StagedFile, final: Path, kind: str, overwrite: bool
) -> None:
    """Refused, named, never opened, never replaced."""
    make = {
        "fifo": lambda: os.mkfifo(final),
        "directory": final.mkdir,
        "socket": lambda: os.mknod(final, stat.S_IFSOCK | 0o600),
        "device": lambda: _make_device(final),
    }
    make[kind]()
    before = final.lstat()

    with pytest.raises(DestinationUnusable, match=r"file\.bin is a"):
        go(staged, overwrite=overwrite)
    with pytest.raises(DestinationUnusable, match=r"file\.bin is a"):
        staged.destination_content()
    assert (before.st_ino, before.st_mode) == (final.lstat().st_ino, final.lstat().st_mode)


def _make_device(path: Path) -> None:
    """A null device, or, without the right to make one, a FIFO, which is treated alike."""
    if os.geteuid() == 0:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    else:
        os.mkfifo(path)


def test_destination_is_a_hard_link(staged: StagedFile, final: Path, tmp_path: Path) -> None:
    """Overwriting replaces the name; the other names keep their content."""
    other = tmp_path / "other-name"
    other.write_bytes(b"shared")
    final.hardlink_to(other)

    go(staged, overwrite=True)

    assert b"shared" == other.read_bytes()
    assert_published(final, staged)


def test_destination_is_a_link(staged: StagedFile, final: Path, tmp_path: Path) -> None:
    """Not written through: refused, or the link itself replaced."""
    target = tmp_path / "target"
    target.write_bytes(b"elsewhere")
    final.symlink_to(target)

    with pytest.raises(DestinationExists):
        go(staged)
    go(staged, overwrite=True)

    assert b"elsewhere" == target.read_bytes()
    assert not final.is_symlink()
    assert_published(final, staged)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("rename", [False, True])
def test_a_file_system_without_hard_links(
    *,
    staged: StagedFile,
    place: Destination,
    final: Path,
    monkeypatch: pytest.MonkeyPatch,
    rename: bool,
    overwrite: bool,
) -> None:
    """The part file itself is renamed; a second run knows it by size and time."""
    without_links(monkeypatch, rename=rename)
    go(staged, overwrite=overwrite)
    staged.close()
    again = staged_at(place)

    assert not again.part.exists
    go(again, overwrite=overwrite)

    assert_published(final, again)


@pytest.mark.parametrize("rename", [False, True])
def test_without_hard_links_nothing_is_replaced_either(
    staged: StagedFile, final: Path, monkeypatch: pytest.MonkeyPatch, rename: bool
) -> None:
    """By a rename that refuses, or, without that, by a look before."""
    without_links(monkeypatch, rename=rename)
    final.write_bytes(b"precious")

    with pytest.raises(DestinationExists):
        go(staged)
    assert b"precious" == final.read_bytes()


def test_part_file_deleted_while_the_state_is_intact(
    staged: StagedFile, place: Destination, final: Path
) -> None:
    """What stands at the final path is not taken for the file because the part is gone."""
    staged.close()
    (final.parent / ".chunkq" / f"{TRANSFER_ID}.part").unlink()
    again = staged_at(place)
    assert again.part_missing

    with pytest.raises(StorageError, match="gone"):
        go(again)
    final.write_bytes(CONTENT)
    with pytest.raises(StorageError, match="gone"):
        go(again)
    again.close()


def test_a_part_that_is_gone_before_it_was_to_be_published(
    staged: StagedFile, place: Destination, final: Path
) -> None:
    """The phase on disk tells: a file of the same size and time there is somebody else's."""
    staged.state.store(a_state(2, tuple(range(COUNT)), count=COUNT, phase=4))
    staged.close()
    (final.parent / ".chunkq" / f"{TRANSFER_ID}.part").unlink()
    final.write_bytes(b"x" * len(CONTENT))
    os.utime(final, ns=(MTIME_NS, MTIME_NS))
    again = staged_at(place)

    with pytest.raises(StorageError, match="gone"):
        go(again)
    again.close()


def test_part_file_truncated_while_the_state_is_intact(
    staged: StagedFile, place: Destination, final: Path
) -> None:
    """It is told when staging is opened."""
    assert not staged.part_missing
    staged.close()
    os.truncate(final.parent / ".chunkq" / f"{TRANSFER_ID}.part", len(CONTENT) - 1)

    again = staged_at(place)

    assert again.part_missing
    again.close()


def test_another_file_system_is_unusable(
    staged: StagedFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tree may have a mount inside it."""
    FailingCall(monkeypatch, "link", errno.EXDEV)

    with pytest.raises(DestinationUnusable) as caught:
        go(staged)
    assert "one file system" in (caught.value.hint or "")


def test_a_missing_directory_is_unusable(tmp_path: Path) -> None:
    """Directories of a tree are made before its files."""
    with Destination.for_tree(tmp_path / "tree") as tree:
        staged = open_staged(tree, ("a", "b"), TRANSFER_ID, a_header())
        staged.part.allocate(geometry(0), None)

        with pytest.raises(DestinationUnusable, match="a"):
            go(staged)
        tree.make_dirs(("a",))
        go(staged)
        staged.remove()
    assert (tmp_path / "tree" / "a" / "b").is_file()


def test_eio_on_fsync_publishes_nothing(
    staged: StagedFile, final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the part file: then the file does not appear."""
    FailingCall(monkeypatch, "fsync", errno.EIO)

    with pytest.raises(SyncFailed):
        go(staged)
    assert not final.exists()


def test_directory_fsync_refused_is_tolerated_and_eio_is_told(
    staged: StagedFile, final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EIO there leaves a file that may vanish in a power cut: run it again."""
    FailingCall(monkeypatch, "fsync", errno.EIO, at=1)
    with pytest.raises(SyncFailed):
        go(staged)
    monkeypatch.undo()
    FailingCall(monkeypatch, "fsync", errno.EINVAL, at=1)

    go(staged)

    assert_published(final, staged)


@pytest.mark.parametrize("call", ["fchmod", "utime"])
def test_a_file_system_without_modes_or_times(
    staged: StagedFile, final: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """The content is what matters."""
    FailingCall(monkeypatch, call, errno.EPERM)

    go(staged)

    assert CONTENT == final.read_bytes()


# ---------------------------------------------------------------- kill -9


@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("before", [None, b"older file"])
def test_kill_at_every_publish_step(
    place: Destination,
    final: Path,
    monkeypatch: pytest.MonkeyPatch,
    before: bytes | None,
    links: bool,
) -> None:
    """Running it again gives the same result, and in between there is the old file or the new."""
    overwrite = before is not None
    if not links:
        without_links(monkeypatch, rename=True)

    def publish_and_finish() -> None:
        staged = staged_at(place)
        go(staged, overwrite=overwrite)
        state = staged.state.load()
        assert state is not None
        if state.phase == 5:
            staged.state.store(a_state(2, tuple(range(COUNT)), count=COUNT, phase=6))
        staged.remove()

    def reset() -> None:
        final.unlink(missing_ok=True)
        if before is not None:
            final.write_bytes(before)
        staged_at(place).close()

    def check(step: int) -> None:
        found = final.read_bytes() if final.exists() else None
        assert found in {before, CONTENT}, step
        if (final.parent / ".chunkq" / f"{TRANSFER_ID}.state").exists():
            publish_and_finish()
        assert CONTENT == final.read_bytes()
        assert (0o640, MTIME_NS) == (
            stat.S_IMODE(final.stat().st_mode),
            final.stat().st_mtime_ns,
        )
        assert [final.name] == [each.name for each in final.parent.iterdir()] or [
            ".chunkq",
            final.name,
        ] == sorted(each.name for each in final.parent.iterdir())

    assert killed_at_every_step(publish_and_finish, check, reset) >= 10


# ---------------------------------------------------------------- what the driver asks


def test_the_digest_of_what_is_there(staged: StagedFile, final: Path) -> None:
    """A file's, as `b3sum` has it; none of nothing; of a link never a file's."""
    assert staged.destination_content() is None
    final.write_bytes(b"")
    empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert (0, bytes.fromhex(empty)) == staged.destination_content()
    final.unlink()
    final.symlink_to("nowhere")

    found = staged.destination_content()
    assert found is not None
    assert (len("nowhere"), bytes.fromhex(empty)) != found
    assert len("nowhere") == found[0]


def test_the_secret_is_that_of_the_first_opening(staged: StagedFile, place: Destination) -> None:
    """A header offered later is not used."""
    staged.close()
    again = open_staged(place, PARTS, TRANSFER_ID, a_header(ephemeral=b"n" * 32))

    assert b"e" * 32 == again.ephemeral
    assert "abc123abc123" == again.instance
    again.close()


def test_both_slots_corrupt_are_left_to_the_driver(staged: StagedFile, place: Destination) -> None:
    """Staging opens; the state says that it is invalid."""
    staged.close()
    path = Path(place.path) / ".chunkq" / f"{TRANSFER_ID}.state"
    raw = bytearray(path.read_bytes())
    raw[65536 + 589824 + 10] ^= 1
    path.write_bytes(raw)
    again = open_staged(place, PARTS, TRANSFER_ID, a_header())

    assert not again.part_missing
    with pytest.raises(StateInvalid):
        again.state.load()
    again.close()


def test_free_bytes_shrink_as_the_disk_fills(small_disk: Path) -> None:
    """For waiting until there is room again."""
    with Destination.for_file(small_disk / "f") as place:
        staged = open_staged(place, ("f",), TRANSFER_ID, a_header())
        before = staged.free_bytes()
        (small_disk / "ballast").write_bytes(bytes(MIB))

        assert 3 * MIB < before <= 4 * MIB
        assert MIB == before - staged.free_bytes()
        staged.close()


def test_publish_can_be_called_without_the_bundle(staged: StagedFile, final: Path) -> None:
    """The function itself is for other programs, too."""
    publish(
        staged.staging,
        staged.destination,
        PARTS,
        mode=0o640,
        mtime_ns=MTIME_NS,
        overwrite=False,
    )

    assert_published(final, staged)


def test_every_call_that_changes_a_disk_is_killed(staged: StagedFile) -> None:
    """The list of the kill tests names functions that exist."""
    names: list[Any] = [getattr(os, name) for name in CHANGES]

    assert all(map(callable, names))
