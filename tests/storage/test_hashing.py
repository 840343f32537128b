"""A manifest from a real file, and from one that does not rest."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from chunkq.errors import SourceChanging, Stopped
from chunkq.ports import FileIdentity
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.manifest import Head
from chunkq.storage.hashing import build_manifest, settling_ms
from chunkq.storage.source import DirectoryShare, PosixSourceFile
from tests.storage.samples import CHUNK, KIB, MIB


def opened(path: Path) -> PosixSourceFile:
    return DirectoryShare(path.parent).open(path.name)


def build(
    path: Path,
    chunk_size: int = CHUNK,
    *,
    on_progress: Callable[[int], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Head, bytes]:
    source = opened(path)
    geometry = Geometry(source.identity.size_bytes, chunk_size)
    try:
        return build_manifest(
            source, geometry, on_progress, should_stop, wall_ms=lambda: 0, sleep=lambda _: None
        )
    finally:
        source.close()


def leaves_of(content: bytes, chunk_size: int) -> bytes:
    return b"".join(
        blake3(content[at : at + chunk_size]).digest() for at in range(0, len(content), chunk_size)
    )


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, 3 * MIB, 3 * MIB + 77])
@pytest.mark.parametrize("chunk_size", [CHUNK, 4 * MIB])
def test_scale_0_bytes_1_byte_exactly_n_chunks_n_plus_1(
    tmp_path: Path, size: int, chunk_size: int
) -> None:
    """Content digest as `b3sum` has it, a plain BLAKE3 for each chunk."""
    content = random.Random(size).randbytes(size)
    (tmp_path / "f").write_bytes(content)
    told: list[int] = []

    head, leaves = build(tmp_path / "f", chunk_size, on_progress=told.append)

    assert blake3(content).digest() == head.content_digest
    assert leaves_of(content, chunk_size) == leaves
    assert ([size] if size else []) == told[-1:]
    assert sorted(told) == told


@pytest.mark.parametrize("chunk_size", [CHUNK, 64 * KIB])
@pytest.mark.parametrize("seed", range(8))
def test_holes_are_skipped_and_hash_the_same(tmp_path: Path, seed: int, chunk_size: int) -> None:
    """Data anywhere, also at odd places: the same manifest as of a file without holes."""
    chance = random.Random(seed)
    size = chance.randrange(6 * MIB, 9 * MIB)
    with (tmp_path / "f").open("wb") as file:
        file.truncate(size)
        for _ in range(3):
            file.seek(chance.randrange(size - 30_000))
            file.write(chance.randbytes(chance.randrange(1, 30_000)))
    content = (tmp_path / "f").read_bytes()
    source = opened(tmp_path / "f")
    read: list[int] = []
    real = source.read
    source.read = lambda offset, length: read.append(length) or real(offset, length)  # type: ignore

    geometry = Geometry(size, chunk_size)
    head, leaves = build_manifest(
        source, geometry, lambda _: None, lambda: False, wall_ms=lambda: 0
    )
    source.close()

    assert blake3(content).digest() == head.content_digest
    assert leaves_of(content, chunk_size) == leaves
    assert sum(read) < size


@pytest.mark.parametrize("change", ["write", "shrink", "grow", "vanish", "replace"])
def test_source_file_that_changes_shrinks_or_vanishes_while_it_is_read(
    tmp_path: Path, change: str
) -> None:
    """No manifest of two versions."""
    path = tmp_path / "f"
    path.write_bytes(bytes(range(256)) * 20_000)

    def on_progress(done: int) -> None:
        if change == "write":
            with path.open("r+b") as file:
                file.write(b"changed")
        elif change == "shrink":
            os.truncate(path, 100)
        elif change == "grow":
            with path.open("ab") as file:
                file.write(b"more")
        elif change == "replace":
            (tmp_path / "g").write_bytes(path.read_bytes())
            (tmp_path / "g").rename(path)
        else:
            path.unlink(missing_ok=True)

    with pytest.raises(SourceChanging):
        build(path, on_progress=on_progress)


def test_a_geometry_of_another_size_is_another_version(tmp_path: Path) -> None:
    """The file changed between the request and its opening."""
    (tmp_path / "f").write_bytes(b"12345")
    source = opened(tmp_path / "f")

    with pytest.raises(SourceChanging):
        build_manifest(source, Geometry(4, CHUNK), lambda _: None, lambda: False)
    source.close()


def test_it_stops_when_told(tmp_path: Path) -> None:
    """A worker that ends does not finish 100 GiB first."""
    (tmp_path / "f").write_bytes(bytes(range(256)) * 40_000)
    told: list[int] = []

    with pytest.raises(Stopped):
        build(tmp_path / "f", on_progress=told.append, should_stop=lambda: len(told) >= 2)
    assert [2 * MIB, 4 * MIB] == told


def test_a_file_that_was_just_written_is_left_to_settle(tmp_path: Path) -> None:
    """A second change within the grain of its stamps would go unseen: wait it out, then read."""
    (tmp_path / "f").write_bytes(b"x")
    source = opened(tmp_path / "f")
    changed_ms = source.identity.ctime_ns // 1_000_000
    slept: list[float] = []

    build_manifest(
        source,
        Geometry(1, CHUNK),
        lambda _: None,
        lambda: False,
        wall_ms=lambda: changed_ms + 5,
        sleep=slept.append,
    )
    source.close()

    assert 1 == len(slept)
    assert slept[0] in {0.015, 1.995}


@pytest.mark.parametrize(
    ("ctime_ns", "now_ms", "expected"),
    [
        (5_000_123_456, 5_000, 20),
        (5_000_123_456, 5_019, 1),
        (5_000_123_456, 5_020, 0),
        (5_000_000_000, 5_000, 2_000),
        (5_000_000_000, 7_000, 0),
        (5_000_000_000, 3_500, 3_500),
        (9_000_123_456, 5_000, 0),
    ],
)
def test_how_long_a_stamp_has_to_settle(ctime_ns: int, now_ms: int, expected: int) -> None:
    """Milliseconds where stamps are fine, two seconds where not, nothing for another clock's."""
    identity = FileIdentity(1, 2, 3, mtime_ns=10**18, ctime_ns=ctime_ns)

    assert expected == settling_ms(identity, now_ms)
