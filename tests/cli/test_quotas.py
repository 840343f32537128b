"""Quotas and the disk floor as their users see them: real processes, one link."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.support.pair import OFTEN, Actor, Pair, part_way, small_disk, until

MIB = 1 << 20
TOLD = {"CHUNKQ_PROGRESS_INTERVAL": "0.2s"}


def test_the_bytes_of_a_day(pair: Pair) -> None:
    """Used up, the transfer waits and says why, also after the worker was started anew; with more
    allowed the same command goes on. `peer show` tells what was sent.
    """
    content = os.urandom(24 * MIB)
    pair.offer("big", content)
    pair.bob.quick("peer", "set", "alice", "--bytes-per-day", "4MiB")
    first = pair.serve()
    getting = pair.alice.start("get", "bob:docs/big", str(pair.inbox), **OFTEN, **TOLD)
    getting.until_said("bytes a day are used up until")
    first.send(signal.SIGTERM)
    first.wait()
    getting.end()

    pair.serve()
    again = pair.alice.start("get", "bob:docs/big", str(pair.inbox), **OFTEN, **TOLD)
    again.until_said("bytes a day are used up until")
    again.end()
    shown = pair.bob.quick("peer", "show", "alice")
    assert "bytes_per_day:        4MiB\n" in shown
    assert not (pair.inbox / "big").exists()

    pair.bob.quick("peer", "set", "alice", "--bytes-per-day", "default")
    assert 0 == pair.get("bob:docs/big", str(pair.inbox)).code
    assert content == (pair.inbox / "big").read_bytes()
    told = pair.bob.quick("peer", "show", "alice")
    sent = next(line.split(":")[1] for line in told.splitlines() if line.startswith("sent to it"))
    assert 24 <= float(sent.split()[0]) <= 26


def test_a_file_that_is_too_large_for_its_peer(pair: Pair) -> None:
    """Refused before anything is allocated, with the way out; then the same command works."""
    pair.offer("big", os.urandom(4 * MIB))
    pair.serve()
    pair.alice.quick("peer", "set", "bob", "--disk", "1MiB")

    refused = pair.get("bob:docs/big", str(pair.inbox))
    left = list(pair.inbox.iterdir())
    pair.alice.quick("peer", "set", "bob", "--disk", "4MiB")

    assert 1 == refused.code
    assert "more than bob may take of this disk" in refused.err
    assert "chunkq peer set bob --disk" in refused.err
    assert [] == left
    assert 0 == pair.get("bob:docs/big", str(pair.inbox)).code


def test_quotas_are_kept_and_forgotten(pair: Pair) -> None:
    """What was not named stays; a card that is added again changes nothing; `default` ends it."""
    pair.bob.quick("peer", "set", "alice", "--bytes-per-day", "1GiB", "--pending-hashes", "2")
    pair.bob.quick("peer", "set", "alice", "--requests-per-second", "5")
    pair.bob.quick("peer", "add", pair.alice.quick("id"))
    shown = pair.bob.quick("peer", "set", "alice", "--pending-hashes", "default")
    assert "bytes_per_day:        1GiB\n" in shown
    assert "requests_per_second:  5\n" in shown
    assert "pending_hashes:       64  (default)\n" in shown
    wrong = pair.bob.run("peer", "set", "alice", "--bytes-per-day", "much")
    assert 2 == wrong.code
    assert "--bytes-per-day: 'much' is not a size" in wrong.err


def test_what_stays_free_pauses_a_transfer_before_it_begins(pair: Pair, tmp_path: Path) -> None:
    """There would be room for the file, but not for the floor as well; then there is."""
    pair.offer("big", content := os.urandom(4 * MIB))
    pair.serve()
    with small_disk(tmp_path / "disk", "12m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(4 * MIB))
        floor = {"CHUNKQ_REQUESTER_DISK_FLOOR": "6MiB"}
        getting = pair.alice.start("get", "bob:docs/big", str(disk / "big"), **floor, **TOLD)
        getting.until_said("stay free (disk_floor)")
        assert "no room on this disk" in getting.err
        assert 4 * MIB > 12 * MIB - free(disk) - 4 * MIB

        ballast.unlink()

        assert 0 == getting.wait().code
        assert content == (disk / "big").read_bytes()


def test_a_disk_that_others_fill_pauses_a_transfer_half_way(pair: Pair, tmp_path: Path) -> None:
    """Its room is set aside, and yet it waits until as much is free as shall be."""
    pair.offer("big", content := os.urandom(16 * MIB))
    worker = pair.serve()
    with small_disk(tmp_path / "disk", "28m") as disk:
        pair.inbox = disk
        floor = {"CHUNKQ_REQUESTER_DISK_FLOOR": "4MiB"}
        getting = pair.alice.start("get", "bob:docs/big", str(disk), **OFTEN, **floor, **TOLD)
        part_way(pair, worker, getting)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(free(disk) - 2 * MIB))
        worker.send(signal.SIGCONT)
        getting.until_said("less are free than shall stay (disk_floor)")
        assert 2 * MIB >= free(disk) > MIB

        ballast.unlink()

        assert 0 == getting.wait().code
        assert content == (disk / "big").read_bytes()


def test_what_stays_free_holds_for_small_files_as_well(pair: Pair, tmp_path: Path) -> None:
    """A tree's bundles: placed up to the floor, then it waits, then the rest."""
    for number in range(64):
        pair.offer(f"tree/{number}", os.urandom(64 * 1024))
    pair.serve()
    with small_disk(tmp_path / "disk", "10m") as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(4 * MIB))
        floor = {"CHUNKQ_REQUESTER_DISK_FLOOR": "4MiB"}
        getting = pair.alice.start("get", "bob:docs/tree/", str(disk / "t"), **floor, **TOLD)
        getting.until_said("stay free (disk_floor)")
        assert free(disk) >= 4 * MIB - 128 * 1024

        ballast.unlink()

        assert 0 == getting.wait().code
        assert 64 == len(list((disk / "t").iterdir()))


def test_jobs_of_a_silent_peer_leave_others_theirs(pair: Pair) -> None:
    """Many jobs for a peer that does not answer, one for another: that one is done."""
    pair.offer("here", b"here")
    pair.serve()
    silent = Actor("silent", pair.root)
    silent.quick("init", "--name", "silent", "--link", f"spool://{pair.spool}")
    pair.alice.quick("peer", "add", silent.quick("id"))
    for number in range(4):
        pair.alice.quick("get", "--queue", f"silent:docs/{number}", str(pair.inbox / str(number)))
    pair.alice.quick("get", "--queue", "bob:docs/here", str(pair.inbox / "here"))

    pair.alice.start("work", CHUNKQ_REQUESTER_CONCURRENCY="3")

    until(lambda: (pair.inbox / "here").exists())
    assert b"here" == (pair.inbox / "here").read_bytes()


def free(disk: Path) -> int:
    room = os.statvfs(disk)
    return room.f_bavail * room.f_frsize
