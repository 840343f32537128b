"""`chunkq get` when something ends half way: itself, the origin, the disk, the peer's trust."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from chunkq.storage.staging import Staging
from tests.support.pair import OFTEN, Pair, contents, part_way, small_disk, until

MIB = 1 << 20


def test_killed_and_run_again(pair: Pair) -> None:
    """kill -9 three times: the same command goes on from what was committed, and says so."""
    content = os.urandom(24 * MIB)
    pair.offer("big", content)
    worker = pair.serve()
    target = str(pair.inbox / "big")
    committed = 0
    for chunks in (8, 30, 60):
        getting = pair.alice.start("get", "bob:docs/big", target, **OFTEN)
        found = part_way(pair, worker, getting, chunks)
        getting.end()
        assert found.chunks_present >= committed
        committed = pair.transfers()[0].chunks_present
        assert not Path(target).exists()

    worker.send(signal.SIGCONT)
    done = pair.get("bob:docs/big", target)

    assert done.code == 0
    assert f"resuming at {100 * committed // 96}% ({committed} of 96 chunks)" in done.err
    assert {"big": content} == contents(pair.inbox)


def test_killed_when_a_file_of_a_tree_was_published(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its staging was removed: the next run removes it, though the file is there."""
    content = os.urandom(MIB)
    pair.offer("tree/file", content)
    pair.serve()
    with monkeypatch.context() as patch:
        patch.setattr(Staging, "remove", Staging.close)
        pair.alice.quick("get", "bob:docs/tree/", str(pair.inbox))
    assert len(pair.transfers()) == 1

    pair.alice.quick("get", "bob:docs/tree/", str(pair.inbox))

    assert {"file": content} == contents(pair.inbox)


def test_an_origin_worker_is_killed_and_another_goes_on(pair: Pair) -> None:
    """kill -9 of one of two while it holds requests: the transfer ends without help."""
    content = os.urandom(24 * MIB)
    pair.offer("big", content)
    first = pair.serve()
    getting = pair.alice.start("get", "bob:docs/big", str(pair.inbox), **OFTEN)
    part_way(pair, first, getting)

    pair.serve()
    first.end()

    assert getting.wait().code == 0
    assert {"big": content} == contents(pair.inbox)


def test_an_origin_that_comes_back(pair: Pair) -> None:
    """Its only worker killed, started again later: the transfer waits and goes on."""
    content = os.urandom(8 * MIB)
    pair.offer("big", content)
    first = pair.serve()
    getting = pair.alice.start("get", "bob:docs/big", str(pair.inbox), **OFTEN)
    part_way(pair, first, getting)
    first.end()

    pair.serve()

    assert getting.wait().code == 0
    assert {"big": content} == contents(pair.inbox)


def test_two_at_once(pair: Pair) -> None:
    """The second is refused, readably, and the first is not disturbed."""
    content = os.urandom(8 * MIB)
    pair.offer("big", content)
    worker = pair.serve()
    command = ("get", "bob:docs/big", str(pair.inbox / "big"))
    first = pair.alice.start(*command, **OFTEN)
    part_way(pair, worker, first)

    second = pair.alice.run(*command)
    worker.send(signal.SIGCONT)

    assert second.code == 1
    assert "another process works on this transfer" in second.err
    assert "hint:" in second.err
    assert first.wait().code == 0
    assert {"big": content} == contents(pair.inbox)


def test_two_gets_of_two_files_at_once(pair: Pair) -> None:
    """Several requesters of one site do not take each other's replies."""
    contents_ = {name: os.urandom(6 * MIB) for name in ("one", "two", "three")}
    for name, content in contents_.items():
        pair.offer(name, content)
    pair.serve()

    running = [pair.alice.start("get", f"bob:docs/{name}", str(pair.inbox)) for name in contents_]

    assert [0, 0, 0] == [each.wait().code for each in running]
    assert contents_ == contents(pair.inbox)


def test_a_peer_revoked_mid_transfer(pair: Pair) -> None:
    """It ends with exit code 5, or 4 for what was asked before; pinned again, it goes on."""
    content = os.urandom(24 * MIB)
    pair.offer("big", content)
    worker = pair.serve()
    command = ("get", "--patience", "3s", "bob:docs/big", str(pair.inbox))
    getting = pair.alice.start(*command, **OFTEN)
    part_way(pair, worker, getting)

    pair.bob.quick("peer", "rm", "alice")
    worker.send(signal.SIGCONT)
    ended = getting.wait()
    kept = pair.transfers()[0].chunks_present
    pair.bob.quick("peer", "add", pair.alice.quick("id"))
    pair.bob.quick("grant", "alice", "docs")
    again = pair.alice.run(*command)

    assert ended.code in {4, 5}, ended.err
    assert again.code == 0, again.err
    assert f"({kept} of 96 chunks)" in again.err
    assert {"big": content} == contents(pair.inbox)


def test_a_grant_taken_away_mid_transfer(pair: Pair) -> None:
    """The path is no longer to be seen: exit code 4, at once."""
    pair.offer("big", os.urandom(24 * MIB))
    worker = pair.serve()
    getting = pair.alice.start("get", "bob:docs/big", str(pair.inbox), **OFTEN)
    part_way(pair, worker, getting)

    pair.bob.quick("share", "rm", "docs")
    worker.send(signal.SIGCONT)
    ended = getting.wait()

    assert ended.code == 4, ended.err
    assert not (pair.inbox / "big").exists()


def test_a_full_disk_pauses_and_goes_on_unaided(pair: Pair, tmp_path: Path) -> None:
    """A real file system without room: the reason is shown; room is made, and it completes."""
    content = os.urandom(4 * MIB)
    pair.offer("big", content)
    pair.serve()
    with small_disk(tmp_path / "disk", "6m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(4 * MIB))
        getting = pair.alice.start(
            "get", "bob:docs/big", str(disk / "big"), CHUNKQ_PROGRESS_INTERVAL="0.2s"
        )
        until(lambda: "no room on this disk" in getting.err)
        assert getting.alive

        ballast.unlink()

        assert getting.wait().code == 0
        assert {"big": content} == contents(disk)


def test_a_disk_that_fills_half_way(pair: Pair, tmp_path: Path) -> None:
    """Somebody else takes the room of a sparse file, for which none was set aside."""
    source = pair.files / "sparse"
    content = os.urandom(16 * MIB)
    with source.open("wb") as file:
        file.write(content)
        file.truncate(600 * MIB)  # a whole page of holes: nothing is reserved
    worker = pair.serve()
    with small_disk(tmp_path / "disk", "20m") as disk:
        pair.inbox = disk
        getting = pair.alice.start(
            "get", "bob:docs/sparse", str(disk), CHUNKQ_PROGRESS_INTERVAL="0.2s", **OFTEN
        )
        part_way(pair, worker, getting, 4 * (600 - 16) + 4)
        ballast = disk / "ballast"
        with ballast.open("wb") as file:
            room = os.statvfs(disk)
            file.write(bytes(room.f_bavail * room.f_frsize - MIB))
        worker.send(signal.SIGCONT)
        until(lambda: "no room on this disk" in getting.err)

        ballast.unlink()

        assert getting.wait().code == 0
        with (disk / "sparse").open("rb") as file:
            assert content == file.read(16 * MIB)
        assert (disk / "sparse").stat().st_size == 600 * MIB
