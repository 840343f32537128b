"""The two slots and the header."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkq.errors import DiskFull, StateInvalid, SyncFailed
from chunkq.ports import TransferState
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.limits import MAX_CHUNK_COUNT
from chunkq.storage import linux, statefile
from chunkq.storage.statefile import StateFile
from tests.storage.crashes import FailingCall, killed_at_every_step
from tests.storage.samples import CHUNK, MIB, OTHER_ID, TRANSFER_ID, a_header, a_state

SLOT = [65536, 65536 + statefile.SLOT_STRIDE_BYTES]


def open_state(path: Path, transfer_id: str = TRANSFER_ID) -> StateFile:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    return StateFile(fd, transfer_id, str(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.state"


@pytest.fixture
def state(path: Path) -> Iterator[StateFile]:
    opened = open_state(path)
    yield opened
    opened.close()


def reloaded(path: Path, transfer_id: str = TRANSFER_ID) -> TransferState | None:
    opened = open_state(path, transfer_id)
    try:
        return opened.load()
    finally:
        opened.close()


def damage(path: Path, offset: int, data: bytes = b"\xa5") -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_a_new_file_has_no_state(state: StateFile, path: Path) -> None:
    """With and without a header."""
    assert state.load() is None
    state.write_header(a_header())

    assert reloaded(path) is None


def test_the_header_comes_back_whole(state: StateFile) -> None:
    """Everything in it, longest path included."""
    for header in (a_header(), a_header(path="ü" * 2048, instance="", created_ms=2**63)):
        state.write_header(header)

        assert header == state.read_header()


def test_a_secret_is_not_shown() -> None:
    """Headers end up in tracebacks and logs."""
    assert "eeee" not in repr(a_header())


def test_what_was_stored_last_is_loaded(state: StateFile, path: Path) -> None:
    """Slots in turn, each generation replacing the one before the last."""
    for generation in range(1, 6):
        stored = a_state(generation, tuple(range(generation)))
        state.store(stored)

        assert stored == reloaded(path)


def test_a_new_geometry_takes_the_same_places(state: StateFile, path: Path) -> None:
    """The source changed: from the largest bitmap to a small one and back."""
    for generation, count in enumerate((20, MAX_CHUNK_COUNT, 0, 7), start=1):
        stored = a_state(generation, tuple(range(0, count, 1_000_003)), count=count)
        state.store(stored)

        assert stored == reloaded(path)
    assert path.stat().st_blocks * 512 < 2 * MIB


def test_no_manifest_yet_is_a_state_too(state: StateFile, path: Path) -> None:
    """Root, size and chunk size zero, no bitmap."""
    stored = TransferState(
        generation=1,
        phase=1,
        root=bytes(32),
        size_bytes=0,
        chunk_size_bytes=0,
        bitmap=Bitmap(0),
    )
    state.store(stored)

    assert stored == reloaded(path)


def test_torn_slot_leaves_the_one_before(state: StateFile, path: Path) -> None:
    """Whatever byte of the newer slot is wrong: header, checksum or bitmap."""
    for generation in (1, 2):
        state.store(a_state(generation, (generation,)))
    whole = path.read_bytes()
    size = statefile._SLOT_HEAD_BYTES + 3

    for at in range(size):
        path.write_bytes(whole)
        damage(path, SLOT[0] + at, bytes([whole[SLOT[0] + at] ^ 1]))

        assert a_state(1, (1,)) == reloaded(path)


def test_both_slots_corrupt_is_said(state: StateFile, path: Path) -> None:
    """It is not taken for a new file: the part file must be looked at."""
    for generation in (1, 2):
        state.store(a_state(generation))
    for offset in SLOT:
        damage(path, offset + 20)

    with pytest.raises(StateInvalid, match=r"x\.state"):
        reloaded(path)


def test_the_first_slot_torn_is_not_a_new_file(state: StateFile, path: Path) -> None:
    """There may be data in the part file."""
    state.store(a_state(1))
    damage(path, SLOT[1] + 50)

    with pytest.raises(StateInvalid):
        reloaded(path)


def test_a_file_cut_inside_its_slot_is_invalid(state: StateFile, path: Path) -> None:
    """Truncation is corruption."""
    state.store(a_state(1))
    os.truncate(path, SLOT[1] + 60)

    with pytest.raises(StateInvalid):
        reloaded(path)


def test_state_of_another_transfer_is_none_of_ours(state: StateFile, path: Path) -> None:
    """Neither its header nor its slots hold under this id."""
    state.write_header(a_header())
    state.store(a_state(1, (0, 1, 2)))
    other = open_state(path, OTHER_ID)

    assert other.read_header() is None
    with pytest.raises(StateInvalid):
        other.load()
    other.close()


def test_a_population_that_does_not_match_its_bitmap_is_invalid(
    state: StateFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even under a right checksum: it was wrong before it was written."""
    lying = a_state(1, (0, 1))
    lying.bitmap.present = 3
    state.store(lying)

    with pytest.raises(StateInvalid):
        reloaded(path)


def test_a_slot_in_the_wrong_place_is_invalid(state: StateFile, path: Path) -> None:
    """Generation 2 belongs into slot 0."""
    state.store(a_state(2))
    raw = path.read_bytes()
    damage(path, SLOT[0], bytes(200))
    damage(path, SLOT[1], raw[SLOT[0] :][:200])

    with pytest.raises(StateInvalid):
        reloaded(path)


def test_a_version_of_tomorrow_is_invalid(state: StateFile, path: Path) -> None:
    """Its checksum may hold, its meaning is unknown."""
    state.store(a_state(1))
    raw = bytearray(path.read_bytes()[SLOT[1] :])
    raw[5] = 2
    packed, bits = bytes(raw[: statefile._SLOT.size]), bytes(raw[statefile._SLOT_HEAD_BYTES :][:3])
    damage(path, SLOT[1], packed + statefile._slot_checksum(packed, bits, TRANSFER_ID))

    with pytest.raises(StateInvalid):
        reloaded(path)


@pytest.mark.parametrize("generation", [1, 2, 3, 5])
def test_the_last_durable_slot_is_never_overwritten(state: StateFile, generation: int) -> None:
    """Generations follow one another; anything else would leave no whole slot for a moment."""
    for each in (1, 2, 3):
        state.store(a_state(each))

    with pytest.raises(StateInvalid, match="does not follow 3"):
        state.store(a_state(generation))


def test_enospc_at_slot_write_keeps_the_slot_before_and_may_be_repeated(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a real full disk; without a reservation, so that it hits the write itself."""
    monkeypatch.setattr(linux, "reserve", _unsupported)
    path = small_disk / "x.state"
    state = open_state(path)
    state.store(a_state(1, (1,)))
    ballast = small_disk / "ballast"
    _fill(ballast)
    large = a_state(2, tuple(range(0, MAX_CHUNK_COUNT, 4099)), count=MAX_CHUNK_COUNT)

    with pytest.raises(DiskFull):
        state.store(large)
    assert a_state(1, (1,)) == reloaded(path)
    ballast.unlink()
    state.store(large)

    assert large == reloaded(path)
    state.close()


def test_commits_on_a_full_disk_succeed_once_there_was_one(small_disk: Path) -> None:
    """Room for both slots is taken with the first, so that no commit fails for lack of it."""
    path = small_disk / "x.state"
    state = open_state(path)
    count = 1 << 20
    state.store(a_state(1, count=count))
    _fill(small_disk / "ballast")

    for generation in (2, 3, 4):
        state.store(a_state(generation, (generation,), count=count))

    assert a_state(4, (4,), count=count) == reloaded(path)
    state.close()


def test_eio_on_fdatasync_and_then_success_the_same_generation_is_stored_again(
    state: StateFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failed slot is written anew; the other one is never touched."""
    state.store(a_state(1, (1,)))
    FailingCall(monkeypatch, "fdatasync", errno.EIO)

    with pytest.raises(SyncFailed):
        state.store(a_state(2, (2,)))
    damage(path, SLOT[0] + 8)
    assert a_state(1, (1,)) == reloaded(path)
    state.store(a_state(2, (2,)))

    assert a_state(2, (2,)) == reloaded(path)


def test_reset_forgets_the_slots_and_keeps_the_header(state: StateFile, path: Path) -> None:
    """For a state that is of no use, without a new secret."""
    state.write_header(a_header())
    for generation in (1, 2):
        state.store(a_state(generation))

    state.reset()

    assert state.load() is None
    assert a_header() == state.read_header()
    state.store(a_state(1, (3,)))
    assert a_state(1, (3,)) == reloaded(path)


def test_kill_between_each_pair_of_commit_steps(tmp_path: Path) -> None:
    """After kill -9 anywhere there is a state, and each bit of it has its data."""
    part_path, state_path = tmp_path / "x.part", tmp_path / "x.state"
    content = random.Random(5).randbytes(3 * CHUNK)

    def commit() -> None:
        part_fd = os.open(part_path, os.O_RDWR)
        state = open_state(state_path)
        assert state.load() is not None
        for generation in (2, 3):
            index = generation - 1
            os.pwritev(part_fd, [content[index * CHUNK :][:CHUNK]], index * CHUNK)
            os.fdatasync(part_fd)
            state.store(a_state(generation, tuple(range(generation)), count=3))

    def reset() -> None:
        part_path.write_bytes(content[:CHUNK] + bytes(2 * CHUNK))
        state_path.unlink(missing_ok=True)
        first = open_state(state_path)
        first.store(a_state(1, (0,), count=3))
        first.close()

    def check(step: int) -> None:
        found = reloaded(state_path)
        assert found is not None
        on_disk = part_path.read_bytes()
        for index in range(3):
            chunk = slice(index * CHUNK, (index + 1) * CHUNK)
            assert index not in found.bitmap or content[chunk] == on_disk[chunk], step

    assert 8 == killed_at_every_step(commit, check, reset)


@pytest.mark.parametrize("seed", range(40))
def test_power_cut_that_drops_unsynced_pages_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Of what was not synced, any part of any write may be there: some slot always holds."""
    chance = random.Random(seed)
    path = tmp_path / "x.state"
    state = open_state(path)
    unsynced: list[tuple[int, bytes]] = []
    durable = [(0, path.read_bytes())]
    write, sync = os.pwritev, os.fdatasync

    def pwritev(fd: int, buffers: list[bytes], offset: int) -> int:
        unsynced.append((offset, b"".join(buffers)))
        return write(fd, buffers, offset)

    def fdatasync(fd: int) -> None:
        if len(stored) == last:
            raise PowerCut
        sync(fd)
        durable.extend(unsynced)
        unsynced.clear()

    class PowerCut(Exception):
        pass

    stored: list[TransferState] = []
    last = chance.randrange(1, 6)
    monkeypatch.setattr(os, "pwritev", pwritev)
    monkeypatch.setattr(os, "fdatasync", fdatasync)

    def commits() -> None:
        for generation in range(1, 8):
            new = a_state(generation, tuple(range(generation)), count=60_000)
            state.store(new)
            stored.append(new)

    with pytest.raises(PowerCut):
        commits()
    state.close()
    monkeypatch.undo()

    image = bytearray(path.stat().st_size)
    for offset, data in durable:
        image[offset : offset + len(data)] = data
    for offset, data in unsynced:
        for at in range(0, len(data), 512):
            sector = data[at : at + 512]
            if chance.random() < 0.5:
                image[offset + at : offset + at + len(sector)] = sector
    path.write_bytes(image)

    found = reloaded(path)
    assert found is not None
    assert found.generation in {stored[-1].generation, stored[-1].generation + 1}
    assert a_state(found.generation, tuple(range(found.generation)), count=60_000) == found


def _unsupported(*_: int) -> None:
    raise linux.Unsupported


def _fill(path: Path) -> None:
    """Take whatever room there is."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096):
            try:
                while True:
                    os.pwritev(file.fileno(), [bytes(size)], path.stat().st_size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
