"""What `status` shows, from the state files alone."""

from __future__ import annotations

import os
from pathlib import Path

from chunkq.storage.destination import Destination
from chunkq.storage.staging import Staging
from chunkq.storage.transfers import TransferSummary, list_transfers
from tests.storage.samples import CHUNK, OTHER_ID, TRANSFER_ID, a_header, a_state


def test_nothing_is_under_way(tmp_path: Path) -> None:
    """Nor in a directory that does not exist."""
    assert [] == list_transfers(tmp_path)
    assert [] == list_transfers(tmp_path / "missing")


def test_a_transfer_is_told_with_its_source_and_progress(staging: Staging, tmp_path: Path) -> None:
    """While it is held, without taking its lock."""
    staging.state.store(a_state(1, (0, 1, 19)))
    status = os.fstat(staging.state._fd)

    assert [
        TransferSummary(
            transfer_id=TRANSFER_ID,
            instance="abc123abc123",
            site="alpha",
            share="docs",
            path="bücher/ä.bin",
            created_ms=1_700_000_000_000,
            modified_ms=status.st_mtime_ns // 1_000_000,
            locked=True,
            phase=2,
            generation=1,
            chunks_present=3,
            chunks_total=20,
            bytes_present=3 * CHUNK,
            size_bytes=20 * CHUNK,
            problem="",
        )
    ] == list_transfers(tmp_path / "there")


def test_whether_a_process_works_on_it(staging: Staging, tmp_path: Path) -> None:
    """The lock's end is seen, and looking does not disturb."""
    assert [True] == [each.locked for each in list_transfers(tmp_path / "there")]
    staging.close()

    assert [False] == [each.locked for each in list_transfers(tmp_path / "there")]


def test_a_transfer_without_a_commit_is_told(staging: Staging, tmp_path: Path) -> None:
    """It waits for its manifest."""
    [found] = list_transfers(tmp_path / "there")

    assert (None, 0, 0, "", "alpha") == (
        found.phase,
        found.chunks_total,
        found.size_bytes,
        found.problem,
        found.site,
    )


def test_the_last_chunk_counts_with_its_own_length(staging: Staging, tmp_path: Path) -> None:
    """Complete is all bytes, not all chunks times their size."""
    state = a_state(1, (0, 1, 2), count=3)
    shorter = type(state)(
        generation=1,
        phase=4,
        root=state.root,
        size_bytes=2 * CHUNK + 1,
        chunk_size_bytes=CHUNK,
        bitmap=state.bitmap,
    )
    staging.state.store(shorter)

    assert [2 * CHUNK + 1] == [each.bytes_present for each in list_transfers(tmp_path / "there")]


def test_damage_is_told_and_does_not_hide_the_others(
    staging: Staging, place: Destination, tmp_path: Path
) -> None:
    """Both slots corrupt, a state of another transfer, and what is no state at all."""
    staging.state.store(a_state(1))
    directory = tmp_path / "there" / ".chunkq"
    raw = bytearray((directory / f"{TRANSFER_ID}.state").read_bytes())
    raw[-1] ^= 1
    raw[65536 + 589824 + 3] ^= 1
    (directory / f"{TRANSFER_ID}.state").write_bytes(raw)
    other = Staging(place, OTHER_ID)
    other.begin(a_header(created_ms=1_700_000_000_001))
    other.state.store(a_state(1, (1,)))
    (directory / f"{'a' * 32}.state").write_bytes(raw)
    (directory / f"{'b' * 32}.state").write_bytes(b"")
    (directory / f"{'c' * 32}.state").mkdir()
    (directory / "notes.state").write_bytes(b"x")

    found = {each.transfer_id[0]: each for each in list_transfers(tmp_path / "there")}

    assert {"0", "f", "a", "b", "c"} == set(found)
    assert 1 == found["f"].chunks_present
    assert "neither copy" in found["0"].problem
    assert ("", "neither copy of the state is whole") == (found["a"].site, found["a"].problem)
    assert "" == found["b"].problem
    assert "directory" in found["c"].problem.lower()
    other.close()


def test_scale_1000_transfers_pending(place: Destination, tmp_path: Path) -> None:
    """All listed, oldest first, and no descriptor left."""
    for number in range(1000):
        staging = Staging(place, f"{number:032x}")
        staging.state.write_header(a_header(created_ms=2_000_000 - number))
        staging.close()
    before = len(os.listdir("/proc/self/fd"))

    found = list_transfers(tmp_path / "there")

    assert [f"{number:032x}" for number in range(999, -1, -1)] == [
        each.transfer_id for each in found
    ]
    assert before == len(os.listdir("/proc/self/fd"))
