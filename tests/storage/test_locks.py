"""Locks on files that may go away."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkq.errors import StorageError
from chunkq.storage.locks import is_locked, lock_file, locked_inodes


@pytest.fixture
def directory_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def replace_before_lock(patch: pytest.MonkeyPatch, path: Path, times: int) -> None:
    """Somebody removes the file between its opening and its locking, and another one comes."""
    real, left = fcntl.flock, times

    def flock(fd: int, operation: int) -> None:
        nonlocal left
        if left:
            left -= 1
            path.unlink()
            path.write_bytes(b"new")
        real(fd, operation)

    patch.setattr(fcntl, "flock", flock)


def test_a_lock_on_a_removed_file_protects_nothing(
    directory_fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is taken again on the one that has the name now."""
    replace_before_lock(monkeypatch, tmp_path / "x", 3)

    fd = lock_file(directory_fd, "x", "x")

    assert fd is not None
    assert os.path.samestat(os.fstat(fd), (tmp_path / "x").stat())
    os.close(fd)


def test_a_file_that_is_removed_again_and_again_is_said(
    directory_fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not go on for ever, and leaves no descriptor."""
    replace_before_lock(monkeypatch, tmp_path / "x", 10**6)
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(StorageError, match="removed"):
        lock_file(directory_fd, "x", "x")
    assert before == len(os.listdir("/proc/self/fd"))


def test_what_is_not_there_is_not_locked(directory_fd: int, tmp_path: Path) -> None:
    """Unless it may be made."""
    assert lock_file(directory_fd, "x", "x", create=False) is None
    assert not (tmp_path / "x").exists()


def test_a_file_system_without_locks_is_said(
    directory_fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some network file systems have none."""

    def flock(fd: int, operation: int) -> None:
        raise OSError(37, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)

    with pytest.raises(StorageError, match="flock") as caught:
        lock_file(directory_fd, "x", "x")
    assert "no locks" in (caught.value.hint or "")


def test_whether_a_file_is_locked_is_seen_without_locking(
    directory_fd: int, tmp_path: Path
) -> None:
    """From the kernel's table."""
    fd = lock_file(directory_fd, "x", "x")
    assert fd is not None
    status = (tmp_path / "x").stat()
    assert is_locked(status, locked_inodes())
    os.close(fd)

    assert not is_locked(status, locked_inodes())
