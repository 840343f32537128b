"""Trees of small files while everything that takes part is killed, and on a disk that is full."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkq.storage.received import ReceivedLog
from tests.support.pair import Pair, Running, small_disk, until

FILES = 2_000
DIRECTORIES = 20
SEED = 20_261_121
KILLS = 4


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Path to content, from a seed: mostly 4 KiB, some empty, some larger than any bundle."""
    chance = random.Random(SEED)
    sizes = [4096] * 16 + [0, 1, 40_000, 262_144]
    made = {
        f"d{number % DIRECTORIES}/f{number:04d}": chance.randbytes(sizes[number % len(sizes)])
        for number in range(FILES)
    }
    made["large"] = chance.randbytes(3_000_000)
    return made


def put(pair: Pair, tree: dict[str, bytes]) -> None:
    for name, content in tree.items():
        pair.offer(name, content)


def there(target: Path) -> dict[str, Path]:
    """The files that are in their places; staging is none."""
    found = {}
    for directory, below, names in os.walk(target):  # while others come and go
        below[:] = [name for name in below if name != ".chunkq"]
        for name in names:
            path = Path(directory, name)
            found[path.relative_to(target).as_posix()] = path
    return found


def check_complete_or_absent(target: Path, tree: dict[str, bytes]) -> set[str]:
    """What is there is whole. Returns its names."""
    found = there(target)
    assert [] == [name for name, path in found.items() if path.read_bytes() != tree[name]]
    return set(found)


def check_survives_kills(pair: Pair, tree: dict[str, bytes]) -> None:
    """The requester is killed again and again, an origin once; in the end all of it is there."""
    put(pair, tree)
    workers = [pair.serve(), pair.serve()]
    target = pair.inbox / "tree"
    chance = random.Random(SEED)
    for number in range(KILLS):
        mark = len(tree) * (number + chance.random()) / (KILLS + 1)
        getting = pair.alice.start("get", "bob:docs/", str(target))
        kill_at(getting, target, mark)
        before = check_complete_or_absent(target, tree)
        if number == 1:
            workers[0].end()

    last = pair.alice.run("--json", "get", "bob:docs/", str(target))

    assert 0 == last.code, last.err
    result = last.objects[-1]
    assert len(before) == result["unchanged"]
    assert len(tree) - len(before) == result["files"]
    assert tree.keys() == check_complete_or_absent(target, tree)
    assert not (target / ".chunkq").exists()
    # What was counted was durable, and noted; what was killed before was at least whole.
    received = ReceivedLog(pair.alice.state)
    new = {name for name in tree if received.find(str(target / name)) is not None}
    assert tree.keys() - before <= new


def kill_at(getting: Running, target: Path, files: float) -> None:
    """SIGKILL once so many files are there, or at the end if that comes first."""
    until(lambda: not getting.alive or (target.exists() and len(there(target)) >= files))
    getting.end()


@pytest.fixture
def spooled(tmp_path: Path) -> Iterator[Pair]:
    """Two sites on a spool."""
    made = Pair(tmp_path)
    yield made
    made.close()


def test_kills_over_the_spool(spooled: Pair, tree: dict[str, bytes]) -> None:
    """kill -9 in the midst of 2,000 files: each is complete or absent, and the next run goes on."""
    check_survives_kills(spooled, tree)


@pytest.mark.rabbitmq
def test_kills_over_rabbitmq(amqp_url: str, tree: dict[str, bytes], tmp_path: Path) -> None:
    """The same through a broker."""
    pair = Pair(tmp_path, amqp_url)
    try:
        check_survives_kills(pair, tree)
    finally:
        pair.close()


def test_a_full_disk(spooled: Pair, tmp_path: Path) -> None:
    """It pauses and says so; what came is whole; with room it goes on by itself."""
    tree = {f"f{number:03d}": os.urandom(4096) for number in range(400)}
    put(spooled, tree)
    spooled.serve()
    with small_disk(tmp_path / "small", "3M") as disk:
        target, ballast = disk / "tree", disk / "ballast"
        target.mkdir()
        ballast.write_bytes(bytes(2 << 20))
        getting = spooled.alice.start(
            "get", "bob:docs/", str(target), CHUNKQ_PROGRESS_INTERVAL="0.2s"
        )
        until(lambda: "no room on this disk" in getting.err)
        assert getting.alive
        assert 0 < len(check_complete_or_absent(target, tree)) < len(tree)
        ballast.unlink()

        done = getting.wait()

        assert 0 == done.code, done.err
        assert tree.keys() == check_complete_or_absent(target, tree)
        assert not (target / ".chunkq").exists()


def test_what_is_there_already(spooled: Pair) -> None:
    """The same content under another time is no conflict; another content is, unless replaced."""
    tree = {f"d/f{number}": os.urandom(1000) for number in range(20)}
    put(spooled, tree)
    spooled.serve()
    target = spooled.inbox / "tree"
    shutil.copytree(spooled.files, target)
    for path in there(target).values():
        os.utime(path, ns=(1, 1))
    (target / "d" / "f3").write_bytes(b"mine")

    refused = spooled.alice.run("--json", "get", "bob:docs/", str(target))

    assert 3 == refused.code
    assert ["d/f3"] == [each["path"] for each in refused.objects if each["type"] == "failed"]
    assert "another file is at the destination already" in refused.out
    assert b"mine" == (target / "d" / "f3").read_bytes()
    replaced = spooled.alice.run("--json", "get", "--overwrite", "bob:docs/", str(target))
    assert 0 == replaced.code, replaced.err
    assert tree.keys() == check_complete_or_absent(target, tree)


def test_a_file_that_was_begun_on_its_own_goes_on_there(spooled: Pair) -> None:
    """Staging of an earlier run is used and removed, not left behind."""
    spooled.offer("small", b"small")
    spooled.offer("begun", b"begun" * 100)
    worker = spooled.serve()
    target = spooled.inbox / "tree"
    target.mkdir()
    worker.end()
    # The single way stages; a tree's file has the same transfer id as this one.
    getting = spooled.alice.start(
        "get", "--patience", "1s", "bob:docs/begun", str(target / "begun")
    )
    getting.wait()
    spooled.serve()

    done = spooled.alice.run("--json", "get", "bob:docs/", str(target))

    assert 0 == done.code, done.err
    assert {"begun": b"begun" * 100, "small": b"small"} == {
        name: path.read_bytes() for name, path in there(target).items()
    }
    assert not (target / ".chunkq").exists()
