"""What peers were sent of late: counted over all workers of a host, across restarts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chunkq.errors import StorageError
from chunkq.protocol.day import HOUR_MS
from chunkq.storage.usage import SYNC_BYTES, UsageStore
from tests.storage.crashes import killed_at_every_step, run_in_child

PEER, OTHER = b"p" * 32, b"o" * 32


class Wall:
    """A wall clock, at an hour of our own."""

    def __init__(self) -> None:
        self.ms = 500_000 * HOUR_MS

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def wall() -> Wall:
    return Wall()


def store(path: Path, wall: Wall) -> UsageStore:
    return UsageStore(path / "usage", wall_ms=wall)


def test_the_limit_is_for_a_peer_and_outlives_the_process(tmp_path: Path, wall: Wall) -> None:
    """Less than the limit used: the next is taken, whatever its size; then there is a wait."""
    usage = store(tmp_path, wall)
    assert [0, 0] == [usage.take(PEER, 6, 10), usage.take(PEER, 6, 10)]
    again = store(tmp_path, wall)
    assert 25 * HOUR_MS > again.take(PEER, 1, 10) >= 24 * HOUR_MS
    assert [12, 0] == [again.used(PEER), again.used(OTHER)]
    assert 0 == again.take(OTHER, 1, 10)
    assert 0 == again.take(PEER, 1, 0)
    wall.ms += 25 * HOUR_MS
    assert 0 == again.used(PEER)
    assert 0 == again.take(PEER, 1, 10)


def test_what_was_not_sent_is_given_back(tmp_path: Path, wall: Wall) -> None:
    """And what came to more is added; never below nothing."""
    usage = store(tmp_path, wall)
    usage.take(PEER, 100, 0)
    usage.settle(PEER, -40, 60)
    assert 60 == usage.used(PEER)
    usage.settle(PEER, 5, 5)
    assert 65 == usage.used(PEER)
    usage.settle(PEER, -1000, 0)
    assert 0 == usage.used(PEER)


def test_a_sync_is_due_after_so_many_bytes(tmp_path: Path, wall: Wall) -> None:
    """Not before: nothing is synced for a single request."""
    usage = store(tmp_path, wall)
    usage.take(PEER, 1, 0)
    assert [False, False, True, False] == [
        usage.settle(PEER, 0, sent) for sent in (SYNC_BYTES // 2, SYNC_BYTES // 2 - 1, 1, 1)
    ]
    usage.sync(PEER)
    assert 1 == usage.used(PEER)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(bytes(1000)), id="zeros"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1]), id="cut"),
        pytest.param(lambda path: os.rename(path, path.with_name(OTHER.hex() + ".usage")), id="o"),
    ],
)
def test_a_damaged_file_begins_again(tmp_path: Path, wall: Wall, damage: object) -> None:
    """With nothing used; it is no reason to serve nobody."""
    usage = store(tmp_path, wall)
    usage.take(PEER, 7, 0)
    damage(tmp_path / "usage" / f"{PEER.hex()}.usage")  # type: ignore[operator]
    assert [0, 0] == [usage.used(PEER), usage.used(OTHER)]
    assert [0, 0] == [usage.take(PEER, 3, 10), usage.take(OTHER, 4, 10)]
    assert [3, 4] == [usage.used(PEER), usage.used(OTHER)]


def test_workers_share_the_count(tmp_path: Path, wall: Wall) -> None:
    """Processes that count at once lose nothing of each other."""
    rounds, children = 200, 4

    def count() -> None:
        usage = store(tmp_path, wall)
        for _ in range(rounds):
            usage.take(PEER, 1, 0)

    def all_of_them() -> None:
        pids = []
        for _ in range(children):
            if (pid := os.fork()) == 0:
                count()
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            _, status = os.waitpid(pid, 0)
            assert 0 == status

    assert 0 == run_in_child(all_of_them)
    assert rounds * children == store(tmp_path, wall).used(PEER)


def test_kill_at_every_step(tmp_path: Path, wall: Wall) -> None:
    """What was counted before stays, and what was being counted is there or is not."""

    def reset() -> None:
        (tmp_path / "usage" / f"{PEER.hex()}.usage").unlink(missing_ok=True)
        store(tmp_path, wall).take(PEER, 5, 0)

    def check(_step: int) -> None:
        assert store(tmp_path, wall).used(PEER) in (5, 12)

    steps = killed_at_every_step(
        lambda: [store(tmp_path, wall).take(PEER, 7, 0)].clear(), check, reset
    )
    assert 1 == steps


def test_a_link_in_its_place_is_not_followed(tmp_path: Path, wall: Wall) -> None:
    """As everywhere in the state directory."""

    (tmp_path / "usage").mkdir()
    (tmp_path / "usage" / f"{PEER.hex()}.usage").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError):
        store(tmp_path, wall).take(PEER, 1, 0)
    assert not (tmp_path / "elsewhere").exists()
