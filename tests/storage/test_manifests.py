"""Manifests kept for a pool of workers."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from chunkq.errors import DiskFull, StorageError
from chunkq.ports import FileIdentity
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.manifest import ManifestBuilder, encode_head, sign_head
from chunkq.storage.manifests import ManifestStore, StoredManifest
from tests.storage.crashes import FailingCall, killed_at_every_step
from tests.storage.samples import CHUNK, MIB

KEYS = SiteKeys(b"s" * 32, b"x" * 32)
COUNT = 1200
IDENTITY = FileIdentity(
    device=2**63 + 1,
    inode=2**64 - 1,
    size_bytes=COUNT * CHUNK,
    mtime_ns=-5,
    ctime_ns=1_700_000_000_123_456_789,
)

HOLDER = """
import sys
from chunkq.ports import FileIdentity
from chunkq.storage.manifests import ManifestStore
store = ManifestStore(sys.argv[1])
lock = store.try_lock(FileIdentity(1, 2, 3, 4, 5), 4096)
lock.progress(123, 456)
print("held", flush=True)
sys.stdin.read()
"""


def a_manifest(seed: int = 0, count: int = COUNT) -> tuple[bytes, bytes, bytes]:
    """Head, signature and leaves."""
    builder = ManifestBuilder(Geometry(count * CHUNK, CHUNK))
    chance = random.Random(seed)
    for _ in range(count):
        builder.add(chance.randbytes(16) * (CHUNK // 16))
    head, leaves = builder.finish()
    raw = encode_head(head)
    return raw, sign_head(KEYS, raw), leaves


MANIFEST = a_manifest()


@pytest.fixture
def store(tmp_path: Path) -> ManifestStore:
    return ManifestStore(tmp_path / "manifests")


def the_file(store: ManifestStore) -> Path:
    [found] = Path(store.path).glob("*.manifest")
    return found


def assert_is(found: StoredManifest | None, manifest: tuple[bytes, bytes, bytes]) -> None:
    head, signature, leaves = manifest
    assert found is not None
    assert (head, signature) == (found.head_bytes, found.signature)
    count = found.head.geometry.chunk_count
    assert leaves == found.leaves(0, count)
    pages = [found.page(page) for page in range(found.head.geometry.page_count)]
    assert leaves == b"".join(pages)
    if count > 9:
        assert leaves[32 * 5 : 32 * 9] == found.leaves(5, 4)


def test_what_was_saved_is_loaded_by_every_worker(store: ManifestStore, tmp_path: Path) -> None:
    """By the one who saved it, and by another."""
    assert store.load(IDENTITY, CHUNK) is None

    assert_is(store.save(IDENTITY, CHUNK, *MANIFEST), MANIFEST)

    assert_is(store.load(IDENTITY, CHUNK), MANIFEST)
    assert_is(ManifestStore(tmp_path / "manifests").load(IDENTITY, CHUNK), MANIFEST)
    assert 0o600 == the_file(store).stat().st_mode & 0o777


@pytest.mark.parametrize("field", ["device", "inode", "size_bytes", "mtime_ns", "ctime_ns"])
def test_each_part_of_the_identity_counts(store: ManifestStore, field: str) -> None:
    """Another version of the file has no manifest yet."""
    store.save(IDENTITY, CHUNK, *MANIFEST)
    other = replace(IDENTITY, **{field: getattr(IDENTITY, field) - 1})

    assert store.load(other, CHUNK) is None
    assert store.load(IDENTITY, 2 * CHUNK) is None


def test_scale_0_bytes_has_a_manifest(store: ManifestStore) -> None:
    """Without leaves."""
    empty = a_manifest(count=0)
    store.save(IDENTITY, CHUNK, *empty)

    assert_is(ManifestStore(store.path).load(IDENTITY, CHUNK), (*empty[:2], b""))


def test_leaves_outside_are_refused(store: ManifestStore) -> None:
    """Positions come from requests."""
    stored = store.save(IDENTITY, CHUNK, *MANIFEST)

    for first, count in ((-1, 1), (0, COUNT + 1), (COUNT, 1), (0, -1)):
        with pytest.raises(StorageError, match="no leaves"):
            stored.leaves(first, count)
    assert b"" == stored.leaves(COUNT, 0)


def test_a_damaged_head_counts_as_absent(store: ManifestStore) -> None:
    """Whatever byte before the leaves."""
    store.save(IDENTITY, CHUNK, *MANIFEST)
    path = the_file(store)
    whole = path.read_bytes()
    before_leaves = len(whole) - len(MANIFEST[2])

    for at in range(before_leaves):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        assert ManifestStore(store.path).load(IDENTITY, CHUNK) is None
    for size in (0, 10, before_leaves, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert ManifestStore(store.path).load(IDENTITY, CHUNK) is None
    path.write_bytes(whole)
    assert_is(ManifestStore(store.path).load(IDENTITY, CHUNK), MANIFEST)


def test_a_manifest_under_the_name_of_another_counts_as_absent(store: ManifestStore) -> None:
    """The key is in the file, too."""
    store.save(IDENTITY, CHUNK, *MANIFEST)
    first = the_file(store)
    other = replace(IDENTITY, inode=1)
    second = Path(store.save(other, CHUNK, *a_manifest(3)).path)
    first.replace(second)

    assert ManifestStore(store.path).load(other, CHUNK) is None


def test_bit_flip_in_a_page_is_found_when_it_is_read(store: ManifestStore) -> None:
    """Against the signed head; `discard` then lets the file be hashed again."""
    store.save(IDENTITY, CHUNK, *MANIFEST)
    path = the_file(store)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    worker = ManifestStore(store.path)
    stored = worker.load(IDENTITY, CHUNK)
    assert stored is not None

    assert MANIFEST[2][: 512 * 32] == stored.page(0)
    with pytest.raises(StorageError, match="page 2 is damaged"):
        stored.page(2)
    worker.discard(IDENTITY, CHUNK)

    assert worker.load(IDENTITY, CHUNK) is None
    assert store.load(IDENTITY, CHUNK) is None


def test_what_another_worker_made_anew_is_used(store: ManifestStore) -> None:
    """An open manifest is not used once it was replaced."""
    store.save(IDENTITY, CHUNK, *MANIFEST)
    other, newer = ManifestStore(store.path), a_manifest(7)
    other.discard(IDENTITY, CHUNK)
    other.save(IDENTITY, CHUNK, *newer)

    assert_is(store.load(IDENTITY, CHUNK), newer)


def test_an_open_manifest_outlives_its_file(store: ManifestStore) -> None:
    """A request under way is not cut off by pruning."""
    stored = store.save(IDENTITY, CHUNK, *MANIFEST)
    store.discard(IDENTITY, CHUNK)

    assert_is(stored, MANIFEST)


def test_kill_while_a_manifest_is_saved(tmp_path: Path) -> None:
    """None or the whole one, and no rubbish after the next pruning."""
    path = tmp_path / "manifests"

    def work() -> None:
        ManifestStore(path).save(IDENTITY, CHUNK, *MANIFEST)

    def reset() -> None:
        for each in path.glob("*"):
            each.unlink()

    def check(step: int) -> None:
        found = ManifestStore(path).load(IDENTITY, CHUNK)
        assert found is None or found.leaves(0, COUNT) == MANIFEST[2], step

    assert killed_at_every_step(work, check, reset) >= 4


def test_enospc_leaves_nothing_behind(small_disk: Path) -> None:
    """On a real full disk."""
    store = ManifestStore(small_disk / "m")
    (small_disk / "ballast").write_bytes(bytes(4 * MIB - 64 * 1024))

    def save_many() -> None:
        for number in range(10):
            store.save(replace(IDENTITY, inode=number), CHUNK, *MANIFEST)

    with pytest.raises(DiskFull):
        save_many()
    assert {".manifest"} >= {each.suffix for each in (small_disk / "m").iterdir()}


def test_the_store_is_bounded(tmp_path: Path) -> None:
    """The manifests that were not used for longest go, leftovers of crashes with them."""
    size = len(b"".join(MANIFEST)) + 300
    store = ManifestStore(tmp_path / "m", limit_bytes=3 * size)
    identities = [replace(IDENTITY, inode=number) for number in range(5)]
    for age, identity in enumerate(identities):
        stored = store.save(identity, CHUNK, *MANIFEST)
        os.utime(stored.path, (1_000_000 + age, 1_000_000 + age))
    leftover = tmp_path / "m" / "x.manifest.0.tmp"
    leftover.touch()
    os.utime(leftover, (1_000_000 - 7200, 1_000_000 - 7200))
    running = tmp_path / "m" / "y.manifest.hashing"
    running.touch()
    os.utime(running, (1_000_000, 1_000_000))

    store.prune()

    worker = ManifestStore(tmp_path / "m")
    assert [False, False, True, True, True] == [
        worker.load(identity, CHUNK) is not None for identity in identities
    ]
    assert (False, True) == (leftover.exists(), running.exists())


def test_open_manifests_are_bounded(store: ManifestStore) -> None:
    """A share of a million files does not use up the descriptors."""
    small = a_manifest(count=1)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(200):
        store.save(replace(IDENTITY, inode=number), CHUNK, *small).close()

    assert len(os.listdir("/proc/self/fd")) - before <= 64


# ---------------------------------------------------------------- who hashes


def test_one_worker_hashes_and_the_others_see_how_far(store: ManifestStore) -> None:
    """Until it lets go."""
    other = ManifestStore(store.path)
    assert other.progress(IDENTITY, CHUNK) is None
    lock = store.try_lock(IDENTITY, CHUNK)
    assert lock is not None

    assert other.try_lock(IDENTITY, CHUNK) is None
    assert (0, IDENTITY.size_bytes) == other.progress(IDENTITY, CHUNK)
    for done in (10, 100 * 2**30, 7):
        lock.progress(done, 2**44)
        assert (done, 2**44) == other.progress(IDENTITY, CHUNK)
    with_other_size = other.try_lock(IDENTITY, 2 * CHUNK)
    assert with_other_size is not None
    with_other_size.release()
    lock.release()

    assert other.progress(IDENTITY, CHUNK) is None
    again = other.try_lock(IDENTITY, CHUNK)
    assert again is not None
    again.release()
    assert [] == os.listdir(store.path)


@pytest.mark.parametrize("call", ["ftruncate", "unlink"])
def test_a_disk_error_while_taking_or_leaving_it_keeps_no_lock(
    store: ManifestStore, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Else the file would count as being hashed for as long as the worker lives."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "the disk reports errors")

    def take_and_leave() -> None:
        lock = store.try_lock(IDENTITY, CHUNK)
        assert lock is not None
        lock.release()

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StorageError):
            take_and_leave()

    again = store.try_lock(IDENTITY, CHUNK)
    assert again is not None
    again.release()


def test_a_worker_that_is_killed_while_it_hashes_lets_go(store: ManifestStore) -> None:
    """Its lock file stays and means nothing."""
    identity = FileIdentity(1, 2, 3, 4, 5)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, store.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert "held\n" == holder.stdout.readline()
        assert (123, 456) == store.progress(identity, 4096)
        assert store.try_lock(identity, 4096) is None
        holder.kill()
        holder.wait()

    assert store.progress(identity, 4096) is None
    with store.try_lock(identity, 4096) or pytest.fail("still locked"):
        assert (0, 3) == ManifestStore(store.path).progress(identity, 4096)


def test_a_lock_that_cannot_be_used_is_let_go(
    store: ManifestStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the file would count as being hashed for as long as this process lives."""
    with monkeypatch.context() as patch:
        FailingCall(patch, "ftruncate", errno.EIO)
        with pytest.raises(StorageError, match="ftruncate"):
            store.try_lock(IDENTITY, CHUNK)

    assert store.progress(IDENTITY, CHUNK) is None
    assert store.try_lock(IDENTITY, CHUNK) is not None
