"""Files that somebody with a right to write into a share, or a peer, makes strange on purpose."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chunkq.errors import NotFound
from chunkq.ports import SmallFile
from chunkq.protocol.bundle import BundleBuilder
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.manifest import encode_head, sign_head
from chunkq.protocol.messages import RefusalReason
from chunkq.storage import descriptors, smallfiles, source
from chunkq.storage.hashing import build_manifest
from chunkq.storage.kinds import identity_of
from chunkq.storage.manifests import ManifestStore
from chunkq.storage.source import DirectoryShare
from tests.protocol.sites import BOB

CHUNK_BYTES = 4096
LAST_NS = (1 << 63) - 1
#: The year 2400, which ext4 and others keep; nanoseconds in 64 bits end in 2262.
FAR_NS = 13_569_465_600 * 10**9


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "share" / "dir").mkdir(parents=True)
    (tmp_path / "share" / "dir" / "file").write_bytes(b"content")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "file").write_bytes(b"secret!")
    return tmp_path / "share"


@pytest.mark.parametrize("time_ns", [FAR_NS, LAST_NS, LAST_NS + 1, -(10**9), -(1 << 63), -FAR_NS])
def test_a_file_of_any_time_is_listed_read_and_kept(
    root: Path, tmp_path: Path, time_ns: int
) -> None:
    """Its time is told as near as it can be; it used to end every worker that came by."""
    path = root / "dir" / "file"
    os.utime(path, ns=(0, time_ns))
    kept_ns = path.stat().st_mtime_ns  # some file systems keep less
    told_ns = min(max(kept_ns, -(1 << 63)), LAST_NS)
    share = DirectoryShare(root)

    (entry,) = share.list("dir", None, 10).entries
    assert told_ns == entry.mtime_ns

    opened = share.open("dir/file")
    geometry = Geometry(opened.identity.size_bytes, CHUNK_BYTES)
    head, leaves = build_manifest(
        opened, geometry, lambda _: None, lambda: False, sleep=lambda _: None
    )
    packed = encode_head(head)
    store = ManifestStore(tmp_path / "manifests")
    store.save(opened.identity, CHUNK_BYTES, packed, sign_head(BOB, packed), leaves)
    assert store.load(opened.identity, CHUNK_BYTES) is not None
    opened.close()

    (small,) = share.read_small("dir", ["file"], 100)
    assert isinstance(small, SmallFile)
    BundleBuilder(bytes(32), 4096).add(0, small.mode, small.mtime_ns, small.content)


@pytest.mark.parametrize("time_ns", [LAST_NS, -(1 << 63), 0, -1])
def test_a_time_that_a_peer_chose_is_set_or_left(tmp_path: Path, time_ns: int) -> None:
    """Whatever a manifest may say: the file system decides what it keeps of it."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    fd = os.open(path, os.O_RDWR)
    try:
        descriptors.set_mode_and_time(fd, str(path), 0o600, time_ns)
        assert abs(identity_of(os.fstat(fd)).mtime_ns) <= 1 << 63
    finally:
        os.close(fd)


def swap_the_file(root: Path) -> None:
    (root / "dir" / "file").unlink()
    (root / "dir" / "file").symlink_to(root.parent / "secret" / "file")


def swap_the_directory(root: Path) -> None:
    (root / "dir").rename(root / "gone")
    (root / "dir").symlink_to(root.parent / "secret")


@pytest.mark.parametrize("swap", [swap_the_file, swap_the_directory])
def test_a_path_swapped_for_a_link_between_look_and_open(
    root: Path, monkeypatch: pytest.MonkeyPatch, swap: Callable[[Path], None]
) -> None:
    """It is what was looked at, or not there; what the link leads to is never read."""
    real = source._lstat

    def look_and_swap(fd: int, name: str) -> os.stat_result:
        found = real(fd, name)
        monkeypatch.setattr(source, "_lstat", real)
        swap(root)
        return found

    monkeypatch.setattr(source, "_lstat", look_and_swap)
    try:
        opened = DirectoryShare(root).open("dir/file")
    except NotFound:
        return
    assert b"content" == opened.read(0, 100)
    opened.close()


@pytest.mark.parametrize("swap", [swap_the_file, swap_the_directory])
def test_a_small_file_swapped_for_a_link_between_look_and_open(
    root: Path, monkeypatch: pytest.MonkeyPatch, swap: Callable[[Path], None]
) -> None:
    """As above, for files that go in bundles."""
    real = os.stat
    swapped: list[str] = []

    def look_and_swap(path: str, **how: object) -> os.stat_result:
        found = real(path, **how)  # type: ignore[arg-type]
        if path == "file" and not swapped:
            swapped.append(path)
            swap(root)
        return found

    monkeypatch.setattr(smallfiles.os, "stat", look_and_swap)
    (small,) = DirectoryShare(root).read_small("dir", ["file"], 100)
    assert ["file"] == swapped
    if isinstance(small, SmallFile):
        assert b"content" == small.content
    else:
        assert small is RefusalReason.NOT_FOUND


def test_a_link_that_is_followed_is_swapped_to_lead_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where links are followed, too: what was resolved is walked again without following any."""
    (root / "link").symlink_to("dir")
    real = os.path.realpath

    def resolve_and_swap(path: str, **how: bool) -> str:
        found = real(path, **how)  # type: ignore[call-overload]
        if path.endswith("file"):
            swap_the_directory(root)
        return found

    monkeypatch.setattr(source.os.path, "realpath", resolve_and_swap)
    with pytest.raises(NotFound):
        DirectoryShare(root, follow_links=True).open("link/file")
