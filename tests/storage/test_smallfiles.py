"""Small files read whole at the origin: one version, a regular file, nothing outside the share."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from chunkq.errors import StorageError
from chunkq.ports import SmallFile
from chunkq.protocol.messages import RefusalReason
from chunkq.storage import descriptors
from chunkq.storage.hashing import FINE_GRAIN_MS
from chunkq.storage.smallfiles import read_small
from chunkq.storage.source import DirectoryShare
from tests.storage.crashes import FailingCall

LARGEST = 1000


@pytest.fixture
def share(tmp_path: Path) -> Path:
    """A share with a file in it, and one outside."""
    made = tmp_path / "share"
    (made / "d").mkdir(parents=True)
    (made / "d" / "file").write_bytes(b"content")
    (made / "d" / "file").chmod(0o4640)
    os.utime(made / "d" / "file", ns=(5, 5))
    (tmp_path / "secret").write_bytes(b"secret")
    return made


def read(share: Path, *names: str, directory: str = "d", **options: Any) -> list[Any]:
    return list(DirectoryShare(share, **options).read_small(directory, names, LARGEST))


def test_mode_time_and_content(share: Path) -> None:
    """Permission bits only; an empty file is a file."""
    (share / "d" / "empty").touch()
    os.utime(share / "d" / "empty", ns=(7, 7))

    found, empty = read(share, "file", "empty")

    assert SmallFile(0o640, 5, b"content") == found
    assert (7, b"") == (empty.mtime_ns, empty.content)


def test_what_is_not_there_and_what_must_not_be_seen(share: Path) -> None:
    """All of it reads the same: links, directories, FIFOs, staging, steps out of the share."""
    (share / "d" / "link").symlink_to("file")
    (share / "d" / "out").symlink_to("../../secret")
    (share / "d" / "sub").mkdir()
    os.mkfifo(share / "d" / "fifo")
    names = ["gone", "link", "out", "sub", "fifo", "..", "../../secret", ".chunkq", "a\0b", ""]

    assert [RefusalReason.NOT_FOUND] * len(names) == read(share, *names)
    for directory in ("gone", "d/file", "..", "/", "d/../.."):
        assert [RefusalReason.NOT_FOUND] == read(share, "secret", directory=directory)


def test_hidden_names(share: Path) -> None:
    """Offered or not, as the share says; in hidden directories, too."""
    (share / ".h").mkdir()
    for path in (share / "d" / ".f", share / ".h" / "f"):
        path.write_bytes(b"hidden")

    assert b"hidden" == read(share, ".f")[0].content
    assert [RefusalReason.NOT_FOUND] == read(share, ".f", hidden=False)
    assert [RefusalReason.NOT_FOUND] == read(share, "f", directory=".h", hidden=False)


def test_links_that_are_followed(share: Path) -> None:
    """Inside the share only."""
    (share / "link").symlink_to("d/file")
    (share / "out").symlink_to("../secret")

    inside, outside, plain = read(share, "link", "out", "gone", directory="", follow_links=True)

    assert b"content" == inside.content
    assert [RefusalReason.NOT_FOUND] * 2 == [outside, plain]


def test_a_share_of_one_file(share: Path) -> None:
    """By its own name, and nothing beside it."""
    (share / "d" / "beside").write_bytes(b"no")
    file = share / "d" / "file"

    found, beside = read(file, "file", "beside", directory="")

    assert b"content" == found.content
    assert RefusalReason.NOT_FOUND is beside


def test_a_file_that_is_too_large(share: Path) -> None:
    """It is not read at all."""
    (share / "d" / "large").write_bytes(bytes(LARGEST + 1))
    (share / "d" / "just").write_bytes(bytes(LARGEST))

    large, just = read(share, "large", "just")

    assert RefusalReason.TOO_LARGE is large
    assert LARGEST == len(just.content)


@pytest.mark.parametrize("change", ["grow", "cut", "touch", "rewrite"])
def test_a_file_that_changes_while_it_is_read(
    share: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Whatever is done to it between the first look and the last: `busy`, not a mixture."""
    path, real = share / "d" / "file", descriptors.read_full

    def read_full(fd: int, offset: int, length: int) -> bytes:
        content = real(fd, offset, length)
        if change == "grow":
            path.write_bytes(b"content and more")
        elif change == "cut":
            os.truncate(path, 3)
        elif change == "touch":
            os.utime(path)
        else:
            path.write_bytes(b"CONTENT")
        return content

    monkeypatch.setattr(descriptors, "read_full", read_full)

    assert [RefusalReason.BUSY] == read(share, "file")


def test_a_file_that_was_changed_just_now(share: Path) -> None:
    """It rests first, so that a change after the reading is seen in its stamps."""
    path = share / "d" / "file"
    path.write_bytes(b"fresh")
    os.utime(path, ns=(5, 5))
    now_ms = path.stat().st_ctime_ns // 1_000_000
    slept: list[float] = []
    fd = os.open(share / "d", os.O_RDONLY)
    try:
        found = read_small(fd, "file", LARGEST, wall_ms=lambda: now_ms, sleep=slept.append)
        later = now_ms + FINE_GRAIN_MS + 1
        read_small(fd, "file", LARGEST, wall_ms=lambda: later, sleep=slept.append)
    finally:
        os.close(fd)

    assert SmallFile(path.stat().st_mode & 0o777, 5, b"fresh") == found
    assert [FINE_GRAIN_MS / 1000] == slept


def test_a_coarse_file_system_is_not_waited_for(
    share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two seconds for each file would be long: `busy`, and the single way waits."""
    monkeypatch.setattr("chunkq.storage.smallfiles.settling_ms", lambda *_: 1500)
    slept: list[float] = []
    fd = os.open(share / "d", os.O_RDONLY)
    try:
        found = read_small(fd, "file", LARGEST, sleep=slept.append)
    finally:
        os.close(fd)

    assert RefusalReason.BUSY is found
    assert [] == slept


def test_a_disk_that_fails(share: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`busy`: it is there, and cannot be read now. The others of the batch come."""
    (share / "d" / "second").write_bytes(b"2")
    FailingCall(monkeypatch, "pread", errno.EIO)

    first, second = read(share, "file", "second")

    assert RefusalReason.BUSY is first
    assert b"2" == second.content


def test_a_share_that_is_gone(tmp_path: Path) -> None:
    """Not the peer's fault, and no `not_found`: the disk may be mounted later."""
    with pytest.raises(StorageError):
        read(tmp_path / "gone", "file")
