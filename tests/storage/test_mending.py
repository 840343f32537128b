"""The staging of a repair: what is right is taken over, and told only once it is durable."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from chunkq.errors import DestinationExists, DiskFull, StorageError, SyncFailed
from chunkq.protocol import cbor
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.transfer_events import Phase
from chunkq.storage import descriptors
from chunkq.storage.destination import Destination
from chunkq.storage.kinds import identity_of
from chunkq.storage.mending import Mend, MendingFile, open_mending
from chunkq.storage.staging import Staging
from tests.storage.crashes import CHANGES, FailingCall, killed_at_every_step
from tests.storage.manifests import Signed, signed
from tests.storage.samples import CHUNK, TRANSFER_ID, a_header

COUNT = 600
#: Chunks that are wrong in the file that is there.
BAD = (0, 7, 8, 599)
PARTS = ("file.bin",)


@pytest.fixture(scope="module")
def wanted() -> Signed:
    return signed(os.urandom(COUNT * CHUNK - 5))


@pytest.fixture
def final(place: Destination, wanted: Signed) -> Path:
    """The damaged file."""
    path = Path(place.path) / "file.bin"
    path.write_bytes(damaged(wanted))
    return path


def damaged(wanted: Signed) -> bytes:
    raw = bytearray(wanted.content)
    for index in BAD:
        raw[index * CHUNK] ^= 1
    return bytes(raw)


def a_mend(wanted: Signed, final: Path) -> Mend:
    good = Bitmap(COUNT)
    good.fill(0, COUNT)
    for index in BAD:
        good.clear(index)
    return Mend(
        content_digest=wanted.head.content_digest,
        identity=identity_of(final.lstat()),
        manifest=cbor.encode(wanted.reply),
        root=wanted.head.root,
        geometry=wanted.head.geometry,
        good=good,
    )


def begin(place: Destination, mend: Mend) -> MendingFile:
    return open_mending(place, PARTS, TRANSFER_ID, a_header(), mend)


def test_what_is_good_is_taken_over(place: Destination, wanted: Signed, final: Path) -> None:
    """Those chunks and no others; the file that is there stays as it is."""
    mending = begin(place, a_mend(wanted, final))
    state = mending.state.load()

    assert state is not None
    assert (Phase.RUNNING, wanted.head.root) == (state.phase, state.root)
    assert list(BAD) == list(state.bitmap.missing())
    for index in range(COUNT):
        length = wanted.head.geometry.length(index)
        expected = wanted.content[index * CHUNK :][:length]
        assert (bytes(length) if index in BAD else expected) == mending.part.read(
            index * CHUNK, length
        )
    assert damaged(wanted) == final.read_bytes()
    mending.close()


def test_nothing_is_told_of_what_is_not_durable(
    place: Destination, wanted: Signed, final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy cannot be synced: no bitmap says that it is there."""
    with monkeypatch.context() as patch:
        FailingCall(patch, "fdatasync", errno.EIO)
        with pytest.raises(SyncFailed):
            begin(place, a_mend(wanted, final))

    with closing(Staging(place, TRANSFER_ID)) as staging:
        assert staging.state.load() is None


def test_where_the_kernel_cannot_copy(
    place: Destination, wanted: Signed, final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two file systems, or without the call: through memory."""
    FailingCall(monkeypatch, "copy_file_range", errno.EXDEV, times=10**6)
    mending = begin(place, a_mend(wanted, final))

    assert wanted.content[CHUNK : 7 * CHUNK] == mending.part.read(CHUNK, 6 * CHUNK)
    mending.close()


def test_chunks_that_the_disk_does_not_give(
    place: Destination, wanted: Signed, final: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A chunk that could be compared and cannot be copied any more is fetched as well."""
    copy = descriptors.copy_range

    def failing(source: int, target: int, start: int, stop: int) -> None:
        if start <= 100 * CHUNK < stop:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        copy(source, target, start, stop)

    monkeypatch.setattr(descriptors, "copy_range", failing)
    mending = begin(place, a_mend(wanted, final))
    state = mending.state.load()

    assert state is not None
    assert sorted((*BAD, 100)) == list(state.bitmap.missing())
    mending.close()


def test_doubt(place: Destination, wanted: Signed, final: Path) -> None:
    """What is not known to be good is copied as well, and is to be compared."""
    mending = begin(place, replace(a_mend(wanted, final), doubt=True))
    state = mending.state.load()

    assert state is not None
    assert Phase.RECOVERING is Phase(state.phase)
    assert damaged(wanted) == mending.part.read(0, COUNT * CHUNK)
    mending.close()


def test_killed_at_every_step(place: Destination, wanted: Signed, final: Path) -> None:
    """What the state says is there is in the part file; the damaged file is never touched."""

    def run() -> None:
        begin(place, a_mend(wanted, final)).close()

    def reset() -> None:
        begin(place, a_mend(wanted, final)).remove()

    def check(step: int) -> None:
        assert damaged(wanted) == final.read_bytes()
        mending = begin(place, a_mend(wanted, final))
        state, kept = mending.state.load(), mending.load_manifest()
        assert state is not None, step
        assert cbor.encode(wanted.reply) == kept
        assert list(BAD) == list(state.bitmap.missing())
        assert wanted.content[9 * CHUNK : 599 * CHUNK] == mending.part.read(9 * CHUNK, 590 * CHUNK)
        mending.close()

    steps = killed_at_every_step(run, check, reset)
    assert steps > 10


@pytest.mark.parametrize("call", [*CHANGES, "copy_file_range"])
def test_each_call_fails_once(
    place: Destination, wanted: Signed, final: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It ends with an error of ours, and the same again goes on; nothing is lost."""
    for nth, number in product(range(40), (errno.EIO, errno.ENOSPC)):
        with monkeypatch.context() as patch:
            failing = FailingCall(patch, call, number, at=nth)
            with suppress(StorageError):
                begin(place, a_mend(wanted, final)).close()
        mending = begin(place, a_mend(wanted, final))
        state = mending.state.load()
        assert state is not None
        assert set(BAD) <= set(state.bitmap.missing())
        mending.remove()
        if failing.calls <= nth and number == errno.ENOSPC:
            break
    else:
        raise AssertionError("it never ends")
    assert damaged(wanted) == final.read_bytes()


def _write(final: Path) -> None:
    final.write_bytes(b"mine")


def _swap(final: Path) -> None:
    os.rename(final, f"{final}.old")
    final.write_bytes(b"other")


def _link(final: Path) -> None:
    final.unlink()
    final.symlink_to("/etc/passwd")


@pytest.mark.parametrize("change", [_write, _swap, _link])
def test_a_file_that_was_changed_meanwhile(
    place: Destination, wanted: Signed, final: Path, change: Callable[[Path], None]
) -> None:
    """The repair took its time; what somebody wrote in it is not replaced."""
    mending = begin(place, a_mend(wanted, final))
    change(final)
    there = final.lstat(), os.readlink(final) if final.is_symlink() else final.read_bytes()

    with pytest.raises(DestinationExists, match="changed while it was repaired"):
        mending.publish(mode=0o640, mtime_ns=1, overwrite=True)

    now = final.lstat(), os.readlink(final) if final.is_symlink() else final.read_bytes()
    assert there == now
    mending.close()


def test_published_twice(place: Destination, wanted: Signed, final: Path) -> None:
    """A crash behind the rename: the file there is the part file, which is no change."""
    mending = begin(place, a_mend(wanted, final))
    mending.publish(mode=0o640, mtime_ns=1, overwrite=True)
    mending.publish(mode=0o640, mtime_ns=1, overwrite=True)

    assert mending.published()
    mending.remove()


def test_published_whatever_step_it_is_killed_at(
    place: Destination, wanted: Signed, final: Path
) -> None:
    """The damaged file or the whole one is there at any time, and the next run ends it."""
    mend = a_mend(wanted, final)

    def run() -> None:
        mending = begin(place, mend)
        if mending.part.matches(wanted.head.geometry):  # else it was published and taken away
            for index in BAD:
                at, length = index * CHUNK, wanted.head.geometry.length(index)
                mending.part.write(at, [wanted.content[at : at + length]])
            mending.publish(mode=0o640, mtime_ns=1, overwrite=True)
        mending.remove()

    def reset() -> None:
        nonlocal mend
        final.unlink()
        final.write_bytes(damaged(wanted))
        mend = a_mend(wanted, final)

    def check(step: int) -> None:
        nonlocal mend
        assert final.read_bytes() in (damaged(wanted), wanted.content), step
        mend = a_mend(wanted, final)  # the next run compares it first
        run()
        assert wanted.content == final.read_bytes()
        assert [final] == list(final.parent.iterdir())

    assert killed_at_every_step(run, check, reset) > 20


def test_a_missing_file_replaces_nothing(place: Destination, wanted: Signed, final: Path) -> None:
    """What has appeared in its place meanwhile stays."""
    mend = replace(a_mend(wanted, final), identity=None, seed=False)
    mending = begin(place, mend)

    assert mending.state.load() is None
    with pytest.raises(DestinationExists):
        mending.publish(mode=0o640, mtime_ns=1, overwrite=False)
    mending.close()


def test_no_room(small_disk: Path) -> None:
    """Told as such, with the file as it was."""
    wanted = signed(os.urandom(COUNT * CHUNK))
    final = small_disk / "file.bin"
    final.write_bytes(wanted.content)
    with Destination.for_file(final) as place, pytest.raises(DiskFull):
        begin(place, a_mend(wanted, final))

    assert wanted.content == final.read_bytes()
    assert [final] == list(small_disk.iterdir())
