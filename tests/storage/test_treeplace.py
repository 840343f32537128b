"""A page of a listing, placed: what each entry means here, and what is durable afterwards."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkq.errors import DestinationUnusable, SyncFailed, UnsafeName
from chunkq.ports import Taken
from chunkq.protocol.messages import Entry
from chunkq.storage.destination import Destination
from chunkq.storage.treeplace import TreePlace
from tests.storage.crashes import FailingCall


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def place(root: Path) -> Iterator[TreePlace]:
    with Destination.for_tree(root) as destination:
        yield TreePlace(destination, overwrite=False)


def file(name: str, size: int = 3, mtime_ns: int = 5) -> Entry:
    return Entry(name=name, type="file", size=size, mode=0o644, mtime_ns=mtime_ns)


def directory(name: str) -> Entry:
    return Entry(name=name, type="dir", mode=0o755)


def test_each_entry_is_told_what_it_means(place: TreePlace, root: Path) -> None:
    """Wanted, there already, a directory, a link made or left; in the order of the listing."""
    (root / "same").write_bytes(b"abc")
    (root / "longer").write_bytes(b"abcd")
    (root / "older").write_bytes(b"abc")
    for name, mtime_ns in (("same", 5), ("longer", 5), ("older", 4)):
        os.utime(root / name, ns=(0, mtime_ns))
    link = Entry(name="link", type="link", target="new")
    entries = [file("same"), file("longer"), file("older"), file("new"), directory("d"), link]

    taken = place.take((), entries, links=True)

    wanted = Taken.WANTED
    expected = [Taken.UNCHANGED, wanted, wanted, wanted, Taken.DIRECTORY, Taken.LINK]
    assert expected == taken
    assert (root / "d").is_dir()
    assert "new" == os.readlink(root / "link")
    assert [Taken.LINK_LEFT] == place.take(("d",), [link], links=False)
    assert [] == os.listdir(root / "d")


def test_what_cannot_be_placed_leaves_the_others(place: TreePlace, root: Path) -> None:
    """Unsafe names, twins, things in the way: an error each, and nothing of them is made."""
    (root / "taken").mkdir()
    (root / "away").symlink_to("/")
    entries = [file("../x"), directory("CON"), directory("A"), directory("a"), file("taken")]

    unsafe, device, first, twin, there = place.take((), entries, links=False)
    (away,) = place.take((), [directory("away")], links=False)

    assert [UnsafeName] * 3 == [type(each) for each in (unsafe, device, twin)]
    assert Taken.DIRECTORY is first
    assert isinstance(there, DestinationUnusable)
    assert isinstance(away, DestinationUnusable)
    assert {"taken", "away", "A"} == set(os.listdir(root))


def test_one_fsync_for_all_directories_of_a_page(
    place: TreePlace, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes after the last of them was made, and is of the directory that holds them."""
    synced: list[tuple[int, int]] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        assert stat.S_ISDIR(os.fstat(fd).st_mode)
        synced.append((os.fstat(fd).st_ino, len(os.listdir(root))))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    place.take((), [directory(f"d{number}") for number in range(50)], links=False)

    assert [(root.stat().st_ino, 50)] == synced


def test_directories_that_are_not_durable_are_not_walked(
    place: TreePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files in them would count as durable."""
    FailingCall(monkeypatch, "fsync", errno.EIO)

    with pytest.raises(SyncFailed):
        place.take((), [directory("d")], links=False)


def test_names_are_forgotten_with_their_directory(place: TreePlace, root: Path) -> None:
    """A tree of a million files is not kept in memory; while it is walked, twins are seen."""
    place.take((), [file("a")], links=False)
    (twin,) = place.take((), [file("A")], links=False)
    place.leave(())
    (later,) = place.take((), [file("A")], links=False)

    assert isinstance(twin, UnsafeName)
    assert Taken.WANTED is later
