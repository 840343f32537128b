"""Fixtures of the storage tests: a small disk, a destination, a staged transfer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkq.storage.destination import Destination
from chunkq.storage.staging import Staging
from tests.storage.crashes import Quota
from tests.storage.samples import TRANSFER_ID, a_header

SMALL_DISK_BYTES = 4 * 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on a file system of 4 MiB; without the right to mount, one with a quota."""
    path = tmp_path / "small"
    path.mkdir()
    if os.geteuid() != 0:
        Quota(path, SMALL_DISK_BYTES).install(monkeypatch)
        yield path
        return
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES}", "none", str(path)]
    subprocess.run(mount, check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Destination]:
    """The final path `<tmp>/there/file.bin`."""
    (tmp_path / "there").mkdir()
    with Destination.for_file(tmp_path / "there" / "file.bin") as destination:
        yield destination


@pytest.fixture
def staging(place: Destination) -> Iterator[Staging]:
    """A begun transfer to that path."""
    opened = Staging(place, TRANSFER_ID)
    opened.begin(a_header())
    yield opened
    opened.close()
