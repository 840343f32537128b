"""What an origin offers, and what it does not let see."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from chunkq.errors import NotFound, StorageError
from chunkq.ports import Share
from chunkq.storage.source import DirectoryShare
from tests.storage.crashes import FailingCall


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A share with a bit of everything, beside a file that is not offered."""
    (tmp_path / "secret").write_bytes(b"secret")
    root = tmp_path / "share"
    (root / "dir" / "deep").mkdir(parents=True)
    (root / "a.bin").write_bytes(b"content")
    (root / "dir" / "b.bin").write_bytes(b"below")
    (root / ".hidden").write_bytes(b"h")
    (root / ".chunkq").mkdir()
    (root / ".chunkq" / "x.state").write_bytes(b"state")
    (root / "inside").symlink_to("dir/b.bin")
    (root / "dirlink").symlink_to("dir")
    (root / "outside").symlink_to("../secret")
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "fifo")
    return root


def names(share: DirectoryShare, path: str = "") -> list[str]:
    return [entry.name for entry in share.list(path, None, 1000).entries]


def test_it_is_a_share(root: Path) -> None:
    """As the port has it."""
    assert isinstance(DirectoryShare(root), Share)


# ---------------------------------------------------------------- opening


def test_a_file_is_read_by_position(root: Path) -> None:
    """With its identity and mode."""
    (root / "dir" / "b.bin").chmod(0o4640)
    status = (root / "dir" / "b.bin").stat()
    source = DirectoryShare(root).open("dir/b.bin")

    assert b"low" == source.read(2, 100)
    assert b"" == source.read(5, 1)
    assert 0o640 == source.mode
    assert (status.st_ino, 5) == (source.identity.inode, source.identity.size_bytes)
    assert status.st_ctime_ns == source.identity.ctime_ns
    assert not source.changed()
    source.close()


@pytest.mark.parametrize(
    "path",
    [
        "",
        "missing",
        "a.bin/below",
        "dir",
        "fifo",
        "inside",
        "dirlink/b.bin",
        "outside",
        "absolute",
        "loop",
        "../secret",
        "dir/../a.bin",
        "/etc/passwd",
        ".chunkq/x.state",
        "a.bin\0",
        "x" * 300,
        "a:b",
    ],
)
def test_whatever_is_not_offered_is_not_found(root: Path, path: str) -> None:
    """All in the same words: a peer cannot tell a link from nothing, nor nothing from a FIFO."""
    with pytest.raises(NotFound) as caught:
        DirectoryShare(root).open(path)

    assert "no such file in this share" == caught.value.message


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO])
def test_an_unreadable_file_is_not_found(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The same words again."""
    share = DirectoryShare(root)
    FailingCall(monkeypatch, "open", number, at=1)

    with pytest.raises(NotFound):
        share.open("a.bin")


def test_a_fifo_put_in_a_files_place_does_not_hold_a_worker(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the opening."""
    real = os.stat

    def stat(path: str, **keywords: object) -> os.stat_result:
        status = real(path, **keywords)  # type: ignore[arg-type]
        if path == "a.bin":
            (root / "a.bin").unlink(missing_ok=True)
            os.mkfifo(root / "a.bin")
        return status

    monkeypatch.setattr(os, "stat", stat)

    with pytest.raises(NotFound):
        DirectoryShare(root).open("a.bin")


def test_a_share_that_is_gone_is_the_operators_matter(tmp_path: Path) -> None:
    """Not `NotFound`: the message names the path, for him; a share may be mounted later."""
    share = DirectoryShare(tmp_path / "later")
    for act in (lambda: share.open("x"), lambda: share.list("", None, 10)):
        with pytest.raises(StorageError, match="later"):
            act()

    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "x").write_bytes(b"x")

    assert ["x"] == names(share)
    share.open("x").close()


# ---------------------------------------------------------------- changes


def test_source_file_that_changes(root: Path) -> None:
    """Content, size or mode: the open version is another."""
    path = root / "a.bin"
    for change in (
        lambda: path.write_bytes(b"CONTENT"),
        lambda: os.truncate(path, 3),
        lambda: path.chmod(0o600),
    ):
        source = DirectoryShare(root).open("a.bin")
        assert not source.changed()
        change()
        os.utime(path, ns=(1, source.identity.mtime_ns))
        assert source.changed()
        source.close()


def test_source_file_that_shrinks(root: Path) -> None:
    """Reading past the new end gives fewer bytes, no error."""
    source = DirectoryShare(root).open("a.bin")
    os.truncate(root / "a.bin", 3)

    assert b"con" == source.read(0, 7)
    assert source.changed()
    source.close()


def test_source_file_that_vanishes_or_is_replaced(root: Path) -> None:
    """The open file is still whole; its path is another version, or none."""
    source = DirectoryShare(root).open("dir/b.bin")
    (root / "new").write_bytes(b"newer")
    (root / "new").rename(root / "dir" / "b.bin")
    assert source.changed()
    assert b"below" == source.read(0, 5)
    source.close()

    source = DirectoryShare(root).open("a.bin")
    (root / "a.bin").unlink()
    assert source.changed()
    source.close()

    source = DirectoryShare(root).open("dir/b.bin")
    (root / "dir").rename(root / "moved")
    assert source.changed()
    source.close()


def test_eio_on_read_is_a_storage_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the operator: it names the file."""
    source = DirectoryShare(root).open("a.bin")
    FailingCall(monkeypatch, "pread", errno.EIO)

    with pytest.raises(StorageError, match=r"share/a\.bin"):
        source.read(0, 1)
    source.close()


def test_holes_are_told(root: Path) -> None:
    """From the file system."""
    with (root / "sparse").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"x" * 4096)
        file.truncate(3 << 20)
    source = DirectoryShare(root).open("sparse")

    assert [1 << 20, 1 << 20, 3 << 20] == [
        source.hole_end(at) for at in (0, 1 << 20, (1 << 20) + 4096)
    ]
    source.close()


# ---------------------------------------------------------------- listing


def test_a_directory_is_listed_in_the_order_of_its_bytes(root: Path) -> None:
    """Files, directories and links, those that lead out without their target; a FIFO counts."""
    listed = DirectoryShare(root).list("", None, 1000)

    assert [
        (".hidden", "file", 1, None),
        ("a.bin", "file", 7, None),
        ("absolute", "link", 0, "/"),
        ("dir", "dir", 0, None),
        ("dirlink", "link", 0, "dir"),
        ("inside", "link", 0, "dir/b.bin"),
        ("loop", "link", 0, "loop"),
        ("outside", "link", 0, "/"),
    ] == [(entry.name, entry.type, entry.size, entry.target) for entry in listed.entries]
    assert (None, 1) == (listed.cursor, listed.omitted)


@pytest.mark.parametrize("at", [0, 1])
def test_eio_on_a_directory_is_a_storage_error(
    root: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """In whichever of its readings; a worker answers that it cannot now, and goes on."""
    share = DirectoryShare(root)
    FailingCall(monkeypatch, "scandir", errno.EIO, at=at)

    with pytest.raises(StorageError):
        share.list("", None, 10)


def test_names_that_no_peer_would_take_are_listed_and_not_opened(root: Path) -> None:
    """So that the requester can say what it did not take; what is no text cannot be sent."""
    unsafe = ["CON", "a:b", "back\\slash", "dot.", "\u202ex"]
    for name in (*map(str.encode, unsafe), b"\xff\xfe", b".chunkq"):
        Path(os.fsdecode(os.fsencode(root / "dir") + b"/" + name)).touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "dir" / "sock"))
    share = DirectoryShare(root)

    assert sorted(["b.bin", "deep", *unsafe]) == sorted(names(share, "dir"))
    for name in unsafe:
        with pytest.raises(NotFound):
            share.open(f"dir/{name}")


def test_hidden_names_can_be_kept_back(root: Path) -> None:
    """Neither listed nor opened, at any depth."""
    (root / ".git").mkdir()
    (root / ".git" / "config").touch()
    share = DirectoryShare(root, hidden=False)

    assert ".hidden" not in names(share)
    assert ".git" not in names(share)
    for path in (".hidden", ".git/config"):
        with pytest.raises(NotFound):
            share.open(path)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 1000])
def test_a_cursor_goes_on_after_the_last_name(tmp_path: Path, limit: int) -> None:
    """Every name once, whatever the page, though names come and go in between."""
    expected = sorted([f"{number:02}" for number in range(20)] + ["ä", "z", "Z"], key=str.encode)
    for name in expected:
        (tmp_path / name).touch()
    share = DirectoryShare(tmp_path)
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = share.list("", cursor, limit)
        assert len(page.entries) <= limit
        found += [entry.name for entry in page.entries]
        if page.cursor is None:
            break
        cursor = page.cursor

    assert expected == found


def test_a_cursor_goes_on_past_what_is_left_out(root: Path) -> None:
    """A page of nothing but a FIFO is empty and still has a cursor."""
    page = DirectoryShare(root).list("", "dirlink", 1)

    assert ((), "fifo", 1) == (page.entries, page.cursor, page.omitted)


@pytest.mark.parametrize("path", ["missing", "a.bin", "outside", "dirlink", "../", ".chunkq"])
def test_what_is_no_directory_is_not_found(root: Path, path: str) -> None:
    """The same words as for files."""
    with pytest.raises(NotFound):
        DirectoryShare(root).list(path, None, 10)


def test_an_unreadable_file_is_still_listed(root: Path) -> None:
    """Its name is no secret; the origin's operator sees why it fails."""
    (root / "a.bin").chmod(0)

    entry = DirectoryShare(root).list("", ".hidden", 1).entries[0]

    assert ("a.bin", 0) == (entry.name, entry.mode)


def test_scale_10000_files_are_listed_page_by_page(tmp_path: Path) -> None:
    """A page is as large as was asked for, and no more than the limit."""
    for number in range(10_000):
        os.close(os.open(tmp_path / f"{number:05}", os.O_CREAT | os.O_WRONLY))
    share = DirectoryShare(tmp_path)

    page = share.list("", "04999", 5000)

    assert 1000 == len(page.entries)
    assert "05999" == page.cursor


# ---------------------------------------------------------------- links, single files


def test_links_that_stay_inside_can_be_followed(root: Path) -> None:
    """They are offered as what they lead to; those that lead out are not there at all."""
    share = DirectoryShare(root, follow_links=True)

    listed = {entry.name: (entry.type, entry.size) for entry in share.list("", None, 100).entries}
    assert ("file", 5) == listed["inside"]
    assert ("dir", 0) == listed["dirlink"]
    assert not {"outside", "absolute", "loop"} & set(listed)
    for path in ("inside", "dirlink/b.bin"):
        source = share.open(path)
        assert b"below" == source.read(0, 9)
        source.close()
    assert ["b.bin", "deep"] == names(share, "dirlink")
    for path in ("outside", "absolute", "loop"):
        with pytest.raises(NotFound):
            share.open(path)


def test_a_followed_link_does_not_lead_to_what_is_hidden(root: Path) -> None:
    """Nor into staging."""
    (root / "to-hidden").symlink_to(".hidden")
    (root / "to-staging").symlink_to(".chunkq")
    share = DirectoryShare(root, follow_links=True, hidden=False)

    assert not {"to-hidden", "to-staging"} & set(names(share))
    for path in ("to-hidden", "to-staging/x.state"):
        with pytest.raises(NotFound):
            share.open(path)


def test_a_followed_link_that_changes_its_target_changes_the_source(root: Path) -> None:
    """The path is another file by now."""
    source = DirectoryShare(root, follow_links=True).open("inside")
    (root / "inside").unlink()
    (root / "inside").symlink_to("a.bin")

    assert source.changed()
    source.close()


def test_a_single_file_goes_by_its_own_name(root: Path) -> None:
    """And nothing else of its directory is there."""
    share = DirectoryShare(root / "a.bin")

    assert ["a.bin"] == names(share)
    assert () == share.list("", "a.bin", 10).entries
    source = share.open("a.bin")
    assert b"content" == source.read(0, 100)
    source.close()
    for path in ("dir/b.bin", ".hidden", "", "a.bin/x"):
        with pytest.raises(NotFound):
            share.open(path)
    for path in ("dir", "a.bin"):
        with pytest.raises(NotFound):
            share.list(path, None, 10)


def test_no_descriptor_is_left_behind(root: Path) -> None:
    """Neither by success nor by refusal."""
    share = DirectoryShare(root, follow_links=True)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        source = share.open("dir/b.bin")
        source.changed()
        source.close()
        share.list("dir", None, 5)
        for path in ("fifo", "missing", "outside", "dir"):
            with pytest.raises(NotFound):
                share.open(path)

    assert before == len(os.listdir("/proc/self/fd"))
