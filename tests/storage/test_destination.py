"""Nothing outside the root, whatever names and whatever is in the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkq.errors import (
    DestinationExists,
    DestinationUnusable,
    DiskFull,
    StorageError,
    UnsafeName,
)
from chunkq.storage.destination import Destination
from chunkq.storage.kinds import Kind
from tests.storage.crashes import FailingCall

HOSTILE = [
    "..",
    ".",
    "",
    "a/b",
    "/etc",
    "a\0b",
    "a\\b",
    "a:b",
    "CON.txt",
    "nul",
    "trailing.",
    "trailing ",
    "new\nline",
    "\u202egpj.exe",
    "x" * 256,
    "\udcff",
    ".chunkq",
    ".CHUNKQ",
]


def claim(tree: Destination, parts: tuple[str, ...]) -> None:
    """Take a path as a walk does: each directory, then what is in it."""
    for depth, name in enumerate(parts):
        tree.claim_in(parts[:depth], name)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


@pytest.fixture
def tree(root: Path) -> Iterator[Destination]:
    with Destination.for_tree(root) as opened:
        yield opened


def everything(path: Path) -> list[str]:
    return sorted(str(each.relative_to(path)) for each in path.rglob("*"))


# ---------------------------------------------------------------- opening


def test_for_tree_makes_the_directory_and_its_parents(tmp_path: Path) -> None:
    """Or refuses, if it is not to be made."""
    with pytest.raises(DestinationUnusable, match="b"):
        Destination.for_tree(tmp_path / "a" / "b", create=False)

    Destination.for_tree(tmp_path / "a" / "b").close()

    assert (tmp_path / "a" / "b").is_dir()


def test_for_file_needs_its_directory(tmp_path: Path) -> None:
    """A typo in the path must not make directories."""
    with pytest.raises(DestinationUnusable) as caught:
        Destination.for_file(tmp_path / "missing" / "file")

    assert str(tmp_path / "missing") in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("name", ["", "/", "dir/", ".chunkq"])
def test_for_file_needs_a_name(tmp_path: Path, name: str) -> None:
    """A directory is no file, and staging is no place for one."""
    with pytest.raises(DestinationUnusable):
        Destination.for_file(f"{tmp_path}/{name}")


def test_the_name_that_the_user_gave_need_not_please_windows(tmp_path: Path) -> None:
    """His own choice; the same name from a peer is refused."""
    with Destination.for_file(tmp_path / "a:b.") as destination:
        assert Kind.NOTHING is destination.exists(("a:b.",))
        with pytest.raises(UnsafeName):
            destination.exists(("c:d.",))


def test_the_destination_is_a_file(tmp_path: Path) -> None:
    """A tree cannot grow there."""
    (tmp_path / "file").touch()

    with pytest.raises(DestinationUnusable, match="file"):
        Destination.for_tree(tmp_path / "file")


def test_the_root_is_opened_once(tree: Destination, root: Path, tmp_path: Path) -> None:
    """Whoever swaps the path for a link afterwards leads nothing away."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    root.rename(tmp_path / "moved")
    root.symlink_to(elsewhere)

    tree.make_dirs(("a",))

    assert [] == everything(elsewhere)
    assert ["a"] == everything(tmp_path / "moved")


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_everywhere(tree: Destination, tmp_path: Path, name: str) -> None:
    """As the last part and before it, and nothing is made of them."""
    for parts in ((name,), ("ok", name), (name, "ok")):
        with pytest.raises(UnsafeName):
            tree.make_dirs(parts)
        with pytest.raises(UnsafeName):
            tree.exists(parts)
        with pytest.raises(UnsafeName):
            claim(tree, parts)
        with pytest.raises(UnsafeName):
            tree.set_meta(parts, 0o600, 0, is_dir=False)
        with pytest.raises(UnsafeName):
            tree.make_link(parts, "x")
    assert ["root"] == everything(tmp_path)


def test_a_path_deeper_than_the_limit_is_refused(tree: Destination) -> None:
    """128 levels; a peer could otherwise make trees that nobody can delete."""
    with pytest.raises(UnsafeName, match="deep"):
        tree.make_dirs(("d",) * 129)
    tree.make_dirs(("d",) * 128)

    assert Kind.DIRECTORY is tree.exists(("d",) * 128)


@pytest.mark.parametrize(
    ("first", "second"),
    [("A", "a"), ("stra\u00dfe", "STRASSE"), ("\u00e9", "e\u0301"), ("\u212b", "\u00e5")],
)
def test_a_a_and_nfc_nfd_pairs_are_refused(tree: Destination, first: str, second: str) -> None:
    """In one run, as files and as directories; another directory is another matter."""
    claim(tree, (first, "x"))
    claim(tree, (first, "y"))
    claim(tree, ("other", second))

    with pytest.raises(UnsafeName, match="case or Unicode"):
        claim(tree, (second,))
    with pytest.raises(UnsafeName, match="case or Unicode"):
        claim(tree, (second, "z"))


def test_pairs_with_what_is_on_the_disk_are_refused(tree: Destination, root: Path) -> None:
    """What is there under the very same name is no collision."""
    (root / "d").mkdir()
    (root / "d" / "README").touch()

    with pytest.raises(UnsafeName):
        claim(tree, ("d", "Readme"))
    claim(tree, ("d", "README"))
    with pytest.raises(UnsafeName):
        claim(tree, ("D", "other"))


# ---------------------------------------------------------------- directories


def test_directories_are_made_and_may_be_there(tree: Destination, root: Path) -> None:
    """Twice the same, and deeper."""
    tree.make_dirs(("a", "b"))
    tree.make_dirs(("a", "b", "c"))
    tree.make_dirs(())

    assert ["a", "a/b", "a/b/c"] == everything(root)


@pytest.mark.parametrize("kind", ["file", "link", "fifo"])
def test_what_is_in_the_way_is_named(
    tree: Destination, root: Path, tmp_path: Path, kind: str
) -> None:
    """A file, a link to a directory outside and a FIFO are refused, with the path."""
    outside = tmp_path / "outside"
    outside.mkdir()
    at = root / "a"
    if kind == "file":
        at.touch()
    elif kind == "link":
        at.symlink_to(outside)
    else:
        os.mkfifo(at)

    for act in (
        lambda: tree.make_dirs(("a", "b")),
        lambda: tree.exists(("a", "b")),
        lambda: tree.make_link(("a", "b"), "c"),
        lambda: tree.set_meta(("a", "b"), 0o600, 0, is_dir=False),
    ):
        with pytest.raises(DestinationUnusable, match=rf"{root}/a"):
            act()
    assert [] == everything(outside)


def test_symlink_races_lead_nowhere(
    tree: Destination, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between making a directory and entering it, somebody puts a link there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    real = os.mkdir

    def mkdir(name: str, *arguments: int, **keywords: int) -> None:
        real(name, *arguments, **keywords)
        (root / name).rmdir()
        (root / name).symlink_to(outside)

    monkeypatch.setattr(os, "mkdir", mkdir)

    with pytest.raises(DestinationUnusable, match="a is a link"):
        tree.make_dirs(("a", "b"))
    assert [] == everything(outside)


def test_exists_tells_what_there_is(tree: Destination, root: Path) -> None:
    """Each kind, and nothing where a directory before it is missing."""
    (root / "file").touch()
    (root / "dir").mkdir()
    (root / "link").symlink_to("file")
    os.mkfifo(root / "fifo")

    found = {name: tree.exists((name,)) for name in ("file", "dir", "link", "fifo", "none")}

    assert {
        "file": Kind.FILE,
        "dir": Kind.DIRECTORY,
        "link": Kind.LINK,
        "fifo": Kind.SPECIAL,
        "none": Kind.NOTHING,
    } == found
    assert Kind.NOTHING is tree.exists(("none", "below"))


def test_enospc_at_mkdir_is_disk_full(tree: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk can run out of inodes, too."""
    FailingCall(monkeypatch, "mkdir", 28)

    with pytest.raises(DiskFull, match="mkdir"):
        tree.make_dirs(("a",))


def test_directory_fsync_refused_is_tolerated_and_eio_is_not(
    tree: Destination, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems have no fsync for directories."""
    FailingCall(monkeypatch, "fsync", 22)
    tree.make_dirs(("a",))
    FailingCall(monkeypatch, "fsync", 5)

    with pytest.raises(Exception, match="Input/output error"):
        tree.make_dirs(("b",))
    assert "a" in everything(root)


# ---------------------------------------------------------------- links and modes


def test_links_inside_the_tree_are_made_once_and_replaced_on_demand(
    tree: Destination, root: Path
) -> None:
    """The same link again is no collision; another one is."""
    tree.make_dirs(("a",))
    tree.make_link(("a", "l"), "../file")
    tree.make_link(("a", "l"), "../file")

    with pytest.raises(DestinationExists, match="l exists"):
        tree.make_link(("a", "l"), "other")
    assert "../file" == os.readlink(root / "a" / "l")
    tree.make_link(("a", "l"), "other", overwrite=True)

    assert "other" == os.readlink(root / "a" / "l")
    assert ["a", "a/l"] == everything(root)


@pytest.mark.parametrize("target", ["/etc/passwd", "..", "../x", "a/../../x", "", "a\0b"])
def test_links_that_lead_out_are_refused(tree: Destination, root: Path, target: str) -> None:
    """Through such a link a later file would land outside."""
    with pytest.raises(UnsafeName):
        tree.make_link(("l",), target)
    assert [] == everything(root)


def test_eio_on_a_link_that_is_there_is_a_storage_error(
    tree: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of that one name of the tree; the others are got."""
    tree.make_link(("link",), "there")
    FailingCall(monkeypatch, "readlink", errno.EIO)

    with pytest.raises(StorageError):
        tree.make_link(("link",), "there")


def test_a_link_does_not_replace_a_directory(tree: Destination, root: Path) -> None:
    """Nor a FIFO, not even with overwrite."""
    (root / "d").mkdir()
    os.mkfifo(root / "f")

    for name in ("d", "f"):
        with pytest.raises(DestinationUnusable):
            tree.make_link((name,), "x", overwrite=True)
    assert ["d", "f"] == everything(root)


def test_modes_and_times_without_set_uid(tree: Destination, root: Path) -> None:
    """Only 0o777 of a file's mode; a directory stays its owner's; the root can be meant, too."""
    (root / "f").touch()
    tree.make_dirs(("d",))

    tree.set_meta(("f",), 0o7751, 1_000_000_000_123_456_789, is_dir=False)
    tree.set_meta(("d",), 0o055, -5_000_000_000, is_dir=True)
    tree.set_meta((), 0o750, 7_000_000_000, is_dir=True)

    assert (0o751, 1_000_000_000_123_456_789) == meta(root / "f")
    assert (0o755, -5_000_000_000) == meta(root / "d")
    assert (0o750, 7_000_000_000) == meta(root)


def test_modes_are_not_set_through_a_link(tree: Destination, root: Path, tmp_path: Path) -> None:
    """A link in the place of a file is refused, its target untouched."""
    outside = tmp_path / "outside"
    outside.touch(mode=0o600)
    (root / "f").symlink_to(outside)

    with pytest.raises(DestinationUnusable):
        tree.set_meta(("f",), 0o777, 0, is_dir=False)
    assert 0o600 == outside.stat().st_mode & 0o777


def test_no_descriptor_is_left_behind(tree: Destination, root: Path) -> None:
    """Neither by success nor by refusal."""
    (root / "file").touch()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        tree.make_dirs(("a", "b", "c"))
        claim(tree, ("a", "b"))
        with pytest.raises(DestinationUnusable):
            tree.make_dirs(("a", "b", "..c", "d", "e") and ("file", "x", "y"))

    assert before == len(os.listdir("/proc/self/fd"))


def meta(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mode & 0o7777, status.st_mtime_ns
