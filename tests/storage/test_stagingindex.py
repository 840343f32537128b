"""Staging in memory: what every state file says, read again only when it changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from chunkq.storage.destination import Destination
from chunkq.storage.locks import locked_inodes
from chunkq.storage.places import Places
from chunkq.storage.staging import Staging
from chunkq.storage.stagingindex import WHOLE_EVERY, StagingIndex
from tests.storage.samples import CHUNK, OTHER_ID, TRANSFER_ID, a_header, a_state

LONG_AGO_S = 1_600_000_000


@pytest.fixture
def there(tmp_path: Path, staging: Staging) -> Path:
    """A directory with one transfer under way, which the state directory knows."""
    Places(tmp_path / "state").remember(tmp_path / "there")
    return tmp_path / "there"


def settle(directory: Path) -> None:
    os.utime(directory / ".chunkq", (LONG_AGO_S, LONG_AGO_S))


def test_commits_and_locks_are_seen(tmp_path: Path, there: Path, staging: Staging) -> None:
    """Each commit once; the end of the process that had it, too."""
    index, key = StagingIndex(tmp_path / "state"), (str(there), TRANSFER_ID)
    assert {key} == index.refresh(locked_inodes())
    assert (True, 0) == (index.transfers[key].locked, index.transfers[key].chunks_present)

    staging.state.store(a_state(1, (0, 1, 19)))
    assert {key} == index.refresh(locked_inodes())
    assert 3 * CHUNK == index.transfers[key].bytes_present
    assert set() == index.refresh(locked_inodes())

    staging.close()
    assert {key} == index.refresh(locked_inodes())
    assert not index.transfers[key].locked

    shutil.rmtree(there / ".chunkq")
    assert {key} == index.refresh(locked_inodes())
    assert {} == index.transfers


def test_only_files_that_changed_are_read(tmp_path: Path) -> None:
    """Two hundred transfers, of which one goes on."""
    (tmp_path / "there").mkdir()
    ids = [f"{number:032x}" for number in range(200)]
    with Destination.for_file(tmp_path / "there" / "file.bin") as place:
        for each in ids[1:]:
            stopped = Staging(place, each)
            stopped.begin(a_header())
            stopped.state.store(a_state(1))
            stopped.close()
        going = Staging(place, ids[0])
        going.begin(a_header())
        going.state.store(a_state(1))
        Places(tmp_path / "state").remember(tmp_path / "there")
        index = StagingIndex(tmp_path / "state")
        index.refresh(locked_inodes())
        assert 200 == index.files_read

        settle(tmp_path / "there")
        index.refresh(locked_inodes())
        index.refresh(locked_inodes())
        assert 200 == index.files_read

        going.state.store(a_state(2, (0,)))
        assert {(str(tmp_path / "there"), ids[0])} == index.refresh(locked_inodes())
        assert 201 == index.files_read
        going.close()


def test_what_is_under_no_lock_that_can_be_seen_is_met_in_turn(
    tmp_path: Path, there: Path, staging: Staging
) -> None:
    """As from another container: the table of locks is empty, and the directory as it was."""
    staging.state.store(a_state(1))
    index, key = StagingIndex(tmp_path / "state"), (str(there), TRANSFER_ID)
    settle(there)
    index.refresh(set())
    index.refresh(set())
    staging.state.store(a_state(2, (0, 1)))

    looks = [index.refresh(set()) for _ in range(WHOLE_EVERY)]

    assert [{key}] == [each for each in looks if each]
    assert 2 == index.transfers[key].chunks_present


def test_a_directory_that_cannot_be_read_hides_no_other(tmp_path: Path, there: Path) -> None:
    """A staging directory that is a file, one that is away, and one with a foreign name in it."""
    places = Places(tmp_path / "state")
    for name in ("file", "away"):
        (tmp_path / name).mkdir()
        places.remember(tmp_path / name)
    (tmp_path / "file" / ".chunkq").write_text("")
    shutil.rmtree(tmp_path / "away")
    (there / ".chunkq" / "foreign.state").write_text("")
    (there / ".chunkq" / f"{OTHER_ID}.state").write_text("short")
    index = StagingIndex(tmp_path / "state")
    index.refresh(locked_inodes())

    assert {TRANSFER_ID, OTHER_ID} == {transfer_id for _, transfer_id in index.transfers}
