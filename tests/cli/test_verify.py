"""`chunkq verify`: a file against what was received."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from tests.support.pair import Pair


@pytest.fixture
def got(served: Pair, tmp_path: Path) -> Path:
    """A file that was fetched."""
    served.offer("checked", b"as it was")
    assert served.get("bob:docs/checked", str(tmp_path)).code == 0
    return tmp_path / "checked"


def test_a_file_as_received(served: Pair, got: Path) -> None:
    """Exit code 0, the digest and where it came from; as JSON too."""
    done = served.alice.run("verify", str(got))
    (fields,) = served.alice.run("verify", "--json", str(got)).objects

    digest = blake3(b"as it was").hexdigest()
    assert (0, f"{got}: ok, blake3:{digest}, from bob:docs/checked\n", "") == (
        done.code,
        done.out,
        done.err,
    )
    assert {
        "type": "verified",
        "path": str(got),
        "blake3": digest,
        "matches": True,
        "source": "bob:docs/checked",
    } == fields


def test_an_altered_file(served: Pair, got: Path) -> None:
    """Exit code 6 and the command that gets it again."""
    got.write_bytes(b"as it is now")

    done = served.alice.run("verify", str(got))
    again = served.get("--overwrite", "bob:docs/checked", str(got))

    assert done.code == 6
    assert f"chunkq get --overwrite bob:docs/checked {got}" in done.err
    assert again.code == 0
    assert served.alice.run("verify", str(got)).code == 0


def test_a_file_of_a_tree(served: Pair, tmp_path: Path) -> None:
    """Each file of a tree is known by itself."""
    served.offer("verified/a/b", b"b")
    assert served.get("bob:docs/verified/", str(tmp_path)).code == 0

    assert "bob:docs/verified/a/b" in served.alice.run("verify", str(tmp_path / "a" / "b")).out


def test_unknown_and_missing_files(served: Pair, got: Path, tmp_path: Path) -> None:
    """Not received here: exit code 4. Received and gone: exit code 1."""
    stranger = tmp_path / "stranger"
    stranger.write_bytes(b"")
    got.unlink()

    unknown = served.alice.run("verify", str(stranger))
    gone = served.alice.run("verify", str(got))

    assert (4, 1) == (unknown.code, gone.code)
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
