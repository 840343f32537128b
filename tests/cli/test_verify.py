"""`chunkq verify`: a file against what was received."""

from __future__ import annotations

import os
import signal
import threading
from itertools import count
from pathlib import Path

import pytest
from blake3 import blake3

from chunkq.runtime.verifying import Verifying
from chunkq.storage import descriptors
from tests.api.verifying import CHUNK, rot
from tests.support.pair import DEADLINE_S, OFTEN, Pair, contents, part_way


@pytest.fixture
def got(served: Pair, tmp_path: Path) -> Path:
    """A file that was fetched."""
    served.offer("checked", b"as it was")
    assert served.alice.run("get", "bob:docs/checked", str(tmp_path)).code == 0
    return tmp_path / "checked"


def test_a_file_as_received(served: Pair, got: Path) -> None:
    """Exit code 0, the digest and where it came from; as JSON too."""
    done = served.alice.run("verify", str(got))
    fields, result = served.alice.run("verify", "--json", str(got)).objects

    digest = blake3(b"as it was").hexdigest()
    assert (0, f"{got}: ok, blake3:{digest}, from bob:docs/checked\n", "") == (
        done.code,
        done.out,
        done.err,
    )
    assert {
        "type": "verified",
        "path": str(got),
        "verdict": "ok",
        "matches": True,
        "blake3": digest,
        "source": "bob:docs/checked",
        "size_bytes": 9,
    } == fields
    assert ("result", 1, 1, 0) == tuple(result[key] for key in ("type", "files", "ok", "wrong"))


def test_an_altered_file(served: Pair, got: Path) -> None:
    """Exit code 6 and the command that makes it what it was; which does, and only then."""
    got.write_bytes(b"as it is now")

    done = served.alice.run("verify", str(got))
    left = served.alice.run("verify", "--repair", str(got))
    kept = got.read_bytes()
    again = served.alice.run("verify", "--repair", "--overwrite", str(got))

    assert (6, 6, b"as it is now") == (done.code, left.code, kept)
    assert "changed: it was changed after it was received: 12 bytes, were 9" in done.out
    assert f"chunkq verify --repair --overwrite {got}" in left.err
    assert (0, b"as it was") == (again.code, got.read_bytes())
    assert f"{got}: repaired, from bob:docs/checked" in again.out
    assert served.alice.run("verify", str(got)).code == 0


def test_a_rotten_file(served: Pair, tmp_path: Path) -> None:
    """Which chunks and bytes, in words and as JSON; the repair is told, with its summary."""
    content = os.urandom(3 * CHUNK)
    served.offer("rotten", content)
    path = tmp_path / "rotten"
    assert served.alice.run("get", "bob:docs/rotten", str(path)).code == 0
    rot(path, CHUNK)

    done = served.alice.run("verify", str(path))
    fields, _, error = served.alice.run("verify", "--json", str(path)).objects
    mended = served.alice.run("verify", "--repair", str(path))

    assert (6, 0) == (done.code, mended.code)
    assert "damaged: it is damaged: nobody wrote to it" in done.out
    assert f"1 of 3 chunks, bytes {CHUNK}+{CHUNK}" in done.out
    assert f"chunkq verify --repair {path}" in done.err
    assert [[1, 1]] == fields["bad_runs"]
    assert ("error", 6) == (error["type"], error["exit_code"])
    assert "1 repaired, 256.0 KiB fetched" in mended.out
    assert content == path.read_bytes()


def test_a_tree(served: Pair, tmp_path: Path) -> None:
    """What is wrong by name, the rest as a number; hostile names do not reach the terminal."""
    for name in ("a/one", "a/two", "b/\x1b[2Jthree"):
        served.offer(f"whole/{name}", name.encode())
    served.offer("whole/four", b"4")
    tree = tmp_path / "tree"
    assert served.alice.run("get", "bob:docs/whole/", str(tree)).code in {0, 3}
    (tree / "a" / "one").unlink()
    (tree / "\x1b[31mmine").write_bytes(b"")

    missing = served.alice.run("verify", str(tree))
    named = served.alice.run("--verbose", "verify", str(tree))
    mended = served.alice.run("verify", "--repair", str(tree))

    assert (4, 4, 0) == (missing.code, named.code, mended.code)
    assert f"{tree}/a/one: missing: it is not there" in missing.out
    assert "1 missing; 1 not known as received" in missing.out
    assert "mine: not known as received" in named.out
    assert "\x1b" not in named.out + missing.out + missing.err
    assert b"a/one" == (tree / "a" / "one").read_bytes()


def test_forgotten(served: Pair, got: Path) -> None:
    """What is forgotten is neither missed nor known."""
    got.unlink()

    assert served.alice.run("verify", str(got)).code == 4
    assert "1 file forgotten\n" == served.alice.run("verify", "--forget", str(got)).out
    again = served.alice.run("verify", "--forget", str(got))
    assert (4, "not known" in again.err) == (again.code, True)


def test_options_that_exclude_each_other(served: Pair, got: Path) -> None:
    """A usage error, before anything is read."""
    for options in (
        ["--repair", "--forget"],
        ["--overwrite"],
        ["--repair", "--blake3", "0" * 64],
    ):
        assert served.alice.run("verify", *options, str(got)).code == 2


def test_stopped_and_run_again(
    served: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while it reads: exit code 130 and the hint; the same command goes on."""
    for name in "abc":
        served.offer(f"three/{name}", name.encode())
    tree = tmp_path / "tree"
    assert served.alice.run("get", "bob:docs/three/", str(tree)).code == 0
    asked, reads = threading.Event(), count(1)
    stop, read = Verifying.stop, descriptors.read_into

    def on_stop(self: Verifying) -> None:
        stop(self)
        asked.set()

    def interrupted(fd: int, offset: int, data: memoryview) -> int:
        if next(reads) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            assert asked.wait(DEADLINE_S)
        return read(fd, offset, data)

    with monkeypatch.context() as patch:
        patch.setattr(Verifying, "stop", on_stop)
        patch.setattr(descriptors, "read_into", interrupted)
        stopped = served.alice.run("verify", str(tree))
    again = served.alice.run("verify", str(tree))

    assert 130 == stopped.code
    assert "run the same command to go on" in stopped.err
    assert 0 == again.code
    assert "3 ok (1 of them compared by an earlier run)" in again.out


def test_a_repair_is_killed(pair: Pair) -> None:
    """kill -9 while chunks come: the damaged file is as it was, the next run fetches the rest."""
    content = os.urandom(48 * CHUNK)
    pair.offer("big", content)
    worker = pair.serve()
    path = pair.inbox / "big"
    assert pair.alice.run("get", "bob:docs/big", str(path)).code == 0
    rot(path, *range(0, len(content), CHUNK))
    damaged = path.read_bytes()

    repairing = pair.alice.start("verify", "--repair", str(path), **OFTEN)
    part_way(pair, worker, repairing)
    repairing.end()
    assert damaged == path.read_bytes()
    worker.send(signal.SIGCONT)
    (result,) = [
        fields
        for fields in pair.alice.run("verify", "--json", "--repair", str(path)).objects
        if fields["type"] == "result"
    ]

    assert (0, 1, 1) == (result["wrong"], result["repaired"], result["resumed"])
    assert 0 < result["new_bytes"] < len(content)
    assert {"big": content} == contents(pair.inbox)


def test_a_file_of_a_tree(served: Pair, tmp_path: Path) -> None:
    """Each file of a tree is known by itself."""
    served.offer("verified/a/b", b"b")
    assert served.alice.run("get", "bob:docs/verified/", str(tmp_path)).code == 0

    assert "bob:docs/verified/a/b" in served.alice.run("verify", str(tmp_path / "a" / "b")).out


def test_unknown_and_missing_files(served: Pair, got: Path, tmp_path: Path) -> None:
    """Not received here, and received and gone: exit code 4."""
    stranger = tmp_path / "stranger"
    stranger.write_bytes(b"")
    got.unlink()

    unknown = served.alice.run("verify", str(stranger))
    gone = served.alice.run("verify", str(got))

    assert (4, 4) == (unknown.code, gone.code)
    assert "--blake3" in unknown.err
    assert str(got) in gone.err


def test_against_a_digest(served: Pair, tmp_path: Path) -> None:
    """Any file, in either case; what is no digest is a usage error."""
    path = tmp_path / "any"
    path.write_bytes(b"any")
    digest = blake3(b"any").hexdigest()

    codes = [
        served.alice.run("verify", "--blake3", given, str(path)).code
        for given in (digest, digest.upper(), "0" * 64, "xyz")
    ]

    assert [0, 0, 6, 2] == codes
