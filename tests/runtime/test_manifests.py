"""Manifests of large files: the answer waits a moment for the hash, and no longer."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from chunkq.errors import SourceChanging
from chunkq.ports import SourceFile, StoredManifest
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.manifest import Head, decode_head
from chunkq.protocol.quota import DEFAULT_PENDING_HASHES
from chunkq.runtime import manifests
from chunkq.runtime.manifests import INLINE_BYTES, Build, Manifests, Preparing
from chunkq.storage.hashing import build_manifest
from chunkq.storage.manifests import ManifestStore
from chunkq.storage.source import DirectoryShare, PosixSourceFile
from tests.protocol.sites import BOB

CHUNK = 256 * 1024
SIZE = INLINE_BYTES + 3 * CHUNK


class Origin:
    """A share with one large sparse file, and its manifests, made by `build`."""

    def __init__(self, root: Path, build: Build, pool: ThreadPoolExecutor) -> None:
        (root / "files").mkdir()
        with (root / "files" / "large").open("wb") as file:
            file.truncate(SIZE)
        self.share = DirectoryShare(root / "files")
        store = ManifestStore(root / "manifests")
        self.manifests = Manifests(keys=BOB, store=store, build=build, pool=pool)

    async def get(self) -> StoredManifest | Preparing:
        source: PosixSourceFile = self.share.open("large")
        try:
            return await self.manifests.get(source, CHUNK, lambda: self.share.open("large"))
        finally:
            source.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


async def test_a_hash_that_is_soon_done_is_waited_for(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first question gets the manifest: no wait for a second one."""
    monkeypatch.setattr(manifests, "HOLD_S", 60.0)

    found = await Origin(tmp_path, build_manifest, pool).get()

    assert not isinstance(found, Preparing)
    assert Geometry(SIZE, CHUNK) == decode_head(found.head_bytes).geometry


async def test_a_long_one_is_told_and_goes_on(
    tmp_path: Path, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each question that comes meanwhile is answered in its time; the hash is begun once."""
    monkeypatch.setattr(manifests, "HOLD_S", 0.01)
    begun, may_end = [], threading.Event()

    def slow(
        source: SourceFile,
        geometry: Geometry,
        on_progress: Callable[[int], None],
        should_stop: Callable[[], bool],
    ) -> tuple[Head, bytes]:
        begun.append(geometry)
        on_progress(CHUNK)
        assert may_end.wait(60)
        return build_manifest(source, geometry, on_progress, should_stop)

    origin = Origin(tmp_path, slow, pool)
    first, second = await origin.get(), await origin.get()
    may_end.set()
    monkeypatch.setattr(manifests, "HOLD_S", 60.0)
    third = await origin.get()

    assert isinstance(first, Preparing)
    assert Preparing(CHUNK, SIZE) == second
    assert not isinstance(third, Preparing)
    assert [Geometry(SIZE, CHUNK)] == begun


async def test_what_ends_the_hash_meanwhile_is_told(
    tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    """A source that changes: the requester is to come again, not to wait for a manifest."""

    def changing(source: SourceFile, *_: object) -> tuple[Head, bytes]:
        raise SourceChanging(f"inode {source.identity.inode} changed")

    origin = Origin(tmp_path, changing, pool)

    async with asyncio.timeout(60):
        with pytest.raises(SourceChanging):
            await origin.get()


class Held:
    """A build that waits for `may_end`, and tells whose inode it was begun for."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.may_end = threading.Event()

    def __call__(
        self,
        source: SourceFile,
        geometry: Geometry,
        on_progress: Callable[[int], None],
        should_stop: Callable[[], bool],
    ) -> tuple[Head, bytes]:
        if geometry.size_bytes > INLINE_BYTES:
            self.begun.append(source.identity.inode)
            assert self.may_end.wait(60)
        return build_manifest(source, geometry, on_progress, should_stop, wall_ms=lambda: 1 << 45)


class Flooded(Origin):
    """Many large files, all of them asked for by `mallory` before anybody else comes."""

    def __init__(self, root: Path, build: Build, pool: ThreadPoolExecutor, count: int) -> None:
        super().__init__(root, build, pool)
        self.names = [f"large-{number:03}" for number in range(count)]
        for name in [*self.names, "hers"]:
            with (root / "files" / name).open("wb") as file:
                file.truncate(SIZE)
        (root / "files" / "small").write_bytes(b"small")

    async def ask(self, name: str, whom: str) -> StoredManifest | Preparing:
        source = self.share.open(name)
        try:
            reopen = lambda: self.share.open(name)  # noqa: E731
            return await self.manifests.get(source, CHUNK, reopen, whom)
        finally:
            source.close()

    def inode(self, name: str) -> int:
        source = self.share.open(name)
        source.close()
        return source.identity.inode


async def test_ten_thousand_hashes_asked_for_hold_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One peer has one at a time; another's begins at once, and small files are answered."""
    monkeypatch.setattr(manifests, "HOLD_S", 0.01)
    build = Held()
    with ThreadPoolExecutor(4) as pool:
        origin = Flooded(tmp_path, build, pool, DEFAULT_PENDING_HASHES + 40)
        before = len(os.listdir("/proc/self/fd"))
        for name in origin.names:
            assert Preparing(0, SIZE) == await origin.ask(name, "mallory")
        open_files = len(os.listdir("/proc/self/fd")) - before
        begun = list(build.begun)
        await origin.ask("hers", "alice")
        small = await origin.ask("small", "alice")
        begun_then = list(build.begun)
        build.may_end.set()
        async with asyncio.timeout(60):
            while len(build.begun) < 2 + DEFAULT_PENDING_HASHES:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await origin.manifests.close()

    assert [origin.inode(origin.names[0])] == begun
    assert [*begun, origin.inode("hers")] == begun_then
    assert not isinstance(small, Preparing)
    assert open_files < 16


async def test_peers_have_their_turns_in_rotation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked for one file waits for one of the other's, not for all of them."""
    monkeypatch.setattr(manifests, "HOLD_S", 0.01)
    monkeypatch.setattr(manifests, "LARGE_AT_ONCE", 1)
    build = Held()
    with ThreadPoolExecutor(4) as pool:
        origin = Flooded(tmp_path, build, pool, 6)
        for name in origin.names:
            await origin.ask(name, "mallory")
        await origin.ask("hers", "alice")
        build.may_end.set()
        async with asyncio.timeout(60):
            while len(build.begun) < 7:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await origin.manifests.close()

    assert build.begun.index(origin.inode("hers")) <= 2
