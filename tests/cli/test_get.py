"""`chunkq get`: files, trees, several sources, and where they go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blake3 import blake3

from tests.support.pair import Pair, contents, until

KIB = 1024


@pytest.fixture
def inbox(served: Pair, tmp_path: Path) -> Path:
    """An empty directory of this test's own."""
    path = tmp_path / "in"
    path.mkdir()
    return path


def modes_and_times(top: Path) -> dict[Path, tuple[int, int]]:
    return {
        path.relative_to(top): (path.stat().st_mode, path.stat().st_mtime_ns)
        for path in top.rglob("*")
    }


# ---------------------------------------------------------------- what arrives


@pytest.mark.parametrize("size", [0, 1, 256 * KIB, 256 * KIB + 1, 1024 * KIB - 1])
def test_a_file_arrives_whole(served: Pair, inbox: Path, size: int) -> None:
    """0 bytes, 1 byte, exactly N chunks, N+1: content, mode and time; the digest is b3sum's."""
    content = os.urandom(size)
    source = served.offer(f"size-{size}", content)
    source.chmod(0o640)
    os.utime(source, ns=(1, 1_234_567_890_123_456_789))
    target = inbox / "here"

    done = served.get(f"bob:docs/size-{size}", str(target))

    assert (0, "") == (done.code, done.err)
    assert target.read_bytes() == content
    status = target.stat()
    assert (0o640, 1_234_567_890_123_456_789) == (status.st_mode & 0o777, status.st_mtime_ns)
    assert f"blake3:{blake3(content).hexdigest()}" in done.out
    assert ["here"] == os.listdir(inbox)  # staging is gone


def test_a_sparse_file_stays_sparse(served: Pair, inbox: Path) -> None:
    """Holes are neither asked for nor written."""
    source = served.files / "sparse.img"
    with source.open("wb") as file:
        for at in (0, 40 << 20):
            file.seek(at)
            file.write(os.urandom(300 * KIB))
        file.truncate(64 << 20)

    (result,) = served.get("--json", "bob:docs/sparse.img", str(inbox / "s")).objects[-1:]

    got = inbox / "s"
    assert source.read_bytes() == got.read_bytes()
    assert got.stat().st_blocks * 512 < 2 << 20
    assert result["new_bytes"] < 2 << 20


def test_a_tree_arrives_with_modes_times_and_empty_directories(served: Pair, inbox: Path) -> None:
    """A trailing slash gets the contents of a directory into the destination."""
    top = served.files / "tree"
    served.offer("tree/a/b/c.bin", b"deep")
    served.offer("tree/empty.txt", b"").chmod(0o600)
    served.offer("tree/ünï cödé", b"odd")
    (top / "nothing").mkdir(mode=0o750)
    os.utime(top / "nothing", ns=(1, 1_000_000_000_000_000_001))
    os.utime(top / "a", ns=(1, 1_000_000_000_000_000_002))

    done = served.get("bob:docs/tree/", str(inbox / "t"))

    assert (0, "") == (done.code, done.err)
    assert contents(top) == contents(inbox / "t")
    assert modes_and_times(top) == modes_and_times(inbox / "t")
    assert "3 files" in done.out


def test_the_same_tree_again_moves_nothing(served: Pair, inbox: Path) -> None:
    """What came before is known by size and time."""
    served.offer("again/one", b"1")
    served.offer("again/two", b"2")
    served.get("bob:docs/again/", str(inbox))

    done = served.get("--json", "bob:docs/again/", str(inbox))

    result = done.objects[-1]
    assert (0, 0, 2, 0) == (done.code, result["files"], result["unchanged"], result["new_bytes"])


def test_a_whole_share(served: Pair, inbox: Path) -> None:
    """`SITE:SHARE/` is all of it."""
    top = served.root / "only"
    top.mkdir()
    (top / "x").write_bytes(b"x")
    served.bob.quick("share", "add", "only", str(top), "--to", "alice")

    done = served.get("bob:only/", str(inbox))

    assert (0, {"x": b"x"}) == (done.code, contents(inbox))


def test_links_are_left_out_unless_asked_for(served: Pair, inbox: Path) -> None:
    """And carried as links only where they stay inside the tree."""
    top = served.files / "linked"
    served.offer("linked/real", b"real")
    (top / "good").symlink_to("real")
    (top / "evil").symlink_to("../equal")
    served.offer("equal", b"outside of the tree, inside of the share")

    without = served.get("bob:docs/linked/", str(inbox / "without"))
    carried = served.get("--links", "bob:docs/linked/", str(inbox / "with"))

    assert (0, {"real": b"real"}) == (without.code, contents(inbox / "without"))
    assert "links left out: 2" in without.out
    assert carried.code == 3
    assert {"real", "good"} == set(os.listdir(inbox / "with"))
    assert "real" == os.readlink(inbox / "with" / "good")
    assert "evil" in carried.err


# ---------------------------------------------------------------- where it goes


def test_destinations_are_as_cp_has_them(served: Pair, inbox: Path) -> None:
    """A path, a directory that exists, one with a slash, and none at all."""
    served.offer("cp/file", b"content")

    codes = [
        served.get("bob:docs/cp/file", str(inbox / "name")).code,
        served.get("bob:docs/cp/file", str(inbox)).code,
        served.get("bob:docs/cp/file", f"{inbox}/new/").code,
    ]

    assert [0, 0] == codes[:2]
    assert {"name": b"content", "file": b"content"}.items() <= contents(inbox).items()
    assert codes[2] == 1  # cp refuses to make a directory, too
    assert not (inbox / "new").exists()


def test_without_a_destination_it_goes_here(served: Pair, inbox: Path) -> None:
    """Under its own name, in the working directory."""
    served.offer("plain", b"here")

    started = served.alice.start("get", "bob:docs/plain", cwd=inbox)

    assert started.wait().code == 0
    assert {"plain": b"here"} == contents(inbox)


def test_several_sources_in_one_command(served: Pair, inbox: Path) -> None:
    """Each under its own name in the directory; a tree becomes a directory there."""
    served.offer("many/one", b"1")
    served.offer("many/two", b"2")
    served.offer("many/sub/three", b"3")

    done = served.get("bob:docs/many/one", "bob:docs/many/two", "bob:docs/many/sub/", str(inbox))

    assert (0, "") == (done.code, done.err)
    assert {"one": b"1", "two": b"2", "sub": None, "sub/three": b"3"} == contents(inbox)


def test_one_of_several_fails_and_the_others_are_there(served: Pair, inbox: Path) -> None:
    """Exit code 3, and the one that failed is named."""
    served.offer("some/one", b"1")

    done = served.get("bob:docs/some/nothing", "bob:docs/some/one", str(inbox))

    assert done.code == 3
    assert "bob:docs/some/nothing" in done.err
    assert {"one": b"1"} == contents(inbox)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["bob:docs"], ["names a share", "bob:docs/"]),
        (["docs/file"], ["names no source", "SITE:SHARE/PATH"]),
        (["bob:docs/a", "bob:docs/x/a", "{inbox}"], ["would both become"]),
        (["bob:docs/a", "bob:docs/b", "{inbox}/missing"], ["no directory"]),
        (["--patience", "soon", "bob:docs/a"], ["patience"]),
    ],
)
def test_usage_errors_exit_2(served: Pair, inbox: Path, args: list[str], words: list[str]) -> None:
    """Found before anything is begun; they say what is wrong and what would be right."""
    done = served.get(*(arg.format(inbox=inbox) for arg in args))

    assert done.code == 2, done.err
    assert [word for word in words if word not in done.err] == []
    assert contents(inbox) == {}


def test_unknown_site_exits_4_and_names_the_nearest(served: Pair, inbox: Path) -> None:
    """Nothing is fetched on trust."""
    done = served.get("bbo:docs/a", str(inbox))

    assert (4, "error: no peer is called 'bbo'\nhint: did you mean bob?\n") == (done.code, done.err)


@pytest.mark.parametrize("path", ["../x", "a//b", "CON.txt", "/etc/passwd"])
def test_paths_that_cannot_be_are_refused_here(served: Pair, inbox: Path, path: str) -> None:
    """No request is made for a name that could not be created."""
    done = served.get(f"bob:docs/{path}", str(inbox / "x"))

    assert done.code in {1, 2}
    assert "error:" in done.err
    assert contents(inbox) == {}


# ---------------------------------------------------------------- what is there already


def test_an_equal_file_is_already_there(served: Pair, inbox: Path) -> None:
    """Exit code 0, nothing moved."""
    served.offer("equal", b"same")
    (inbox / "equal").write_bytes(b"same")

    done = served.get("bob:docs/equal", str(inbox))

    assert (0, "") == (done.code, done.err)
    assert "already there" in done.out
    assert {"equal": b"same"} == contents(inbox)


def test_a_different_file_stays_untouched(served: Pair, inbox: Path) -> None:
    """Exit code 1 and how to replace it; `--overwrite` replaces it."""
    served.offer("differs", b"theirs")
    mine = inbox / "differs"
    mine.write_bytes(b"mine")
    before = mine.stat()

    refused = served.get("bob:docs/differs", str(inbox))
    untouched = mine.stat()
    content = mine.read_bytes()
    replaced = served.get("--overwrite", "bob:docs/differs", str(inbox))

    assert refused.code == 1
    assert str(mine) in refused.err
    assert "--overwrite" in refused.err
    assert (b"mine", before.st_mtime_ns, before.st_ino) == (
        content,
        untouched.st_mtime_ns,
        untouched.st_ino,
    )
    assert replaced.code == 0
    assert {"differs": b"theirs"} == contents(inbox)


def test_destination_that_cannot_be(served: Pair, inbox: Path) -> None:
    """Missing directory, FIFO, directory in a file's place: exit code 1; what is there stays."""
    served.offer("thing", b"thing")
    os.mkfifo(inbox / "fifo")
    (inbox / "dir" / "thing").mkdir(parents=True)

    for target, words in (
        (inbox / "missing" / "x", "missing"),
        (inbox / "fifo", "fifo"),
        (inbox / "dir", "is a directory"),
    ):
        for overwrite in ([], ["--overwrite"]):
            done = served.get(*overwrite, "bob:docs/thing", str(target))
            assert (1, True) == (done.code, words in done.err), (target, done.err)
            assert "error:" in done.err

    left = {str(path.relative_to(inbox)) for path in inbox.rglob("*")}
    assert {"fifo", "dir", "dir/thing"} == left


def test_a_file_where_a_directory_is_in_a_tree(served: Pair, inbox: Path) -> None:
    """The file in the way is named, the others arrive: exit code 3."""
    served.offer("way/dir/inner", b"inner")
    served.offer("way/other", b"other")
    (inbox / "dir").write_bytes(b"in the way")

    done = served.get("bob:docs/way/", str(inbox))

    assert done.code == 3
    assert "dir" in done.err
    assert {"dir": b"in the way", "other": b"other"} == contents(inbox)


def test_read_only_destination(served: Pair, tmp_path: Path) -> None:
    """/proc is read-only for everybody, root included."""
    served.offer("readonly", b"x")

    done = served.get("bob:docs/readonly", "/proc/readonly")

    assert done.code == 1
    assert "/proc" in done.err


# ---------------------------------------------------------------- who answers


def test_unknown_share_and_path_exit_4(served: Pair, inbox: Path) -> None:
    """The same answer for both, and for what this site may not see."""
    hidden = served.root / "hidden"
    hidden.mkdir()
    (hidden / "x").write_bytes(b"x")
    served.bob.quick("share", "add", "hidden", str(hidden))

    ended = [
        served.get(f"bob:{what}", str(inbox / "x"))
        for what in ("docs/nothing", "nothing/x", "hidden/x")
    ]
    tree = served.get("bob:nothing/", str(inbox / "t"))

    assert [4, 4, 4, 4] == [done.code for done in (*ended, tree)]
    assert {"no such file there, or this site may not see it"} == {
        done.err.splitlines()[0].split(": ")[-1] for done in ended
    }
    assert "hint: chunkq ls bob:docs shows what is there" in ended[0].err
    assert "no such directory there, or this site may not see it" in tree.err
    assert {"t": None} == contents(inbox)


def test_nobody_serves(pair: Pair) -> None:
    """Exit code 5 once patience ends, with what to look at; it is resumable."""
    done = pair.get("--patience", "1s", "bob:docs/x", str(pair.inbox / "x"))
    listed = pair.alice.run("ls", "--patience", "1s", "bob:docs")

    for ended in (done, listed):
        assert ended.code == 5, ended.err
        assert "no answer" in ended.err
        assert "bob" in ended.err
        assert "chunkq serve" in ended.err


def test_serve_that_starts_later(pair: Pair) -> None:
    """The transfer waits, saying why, and goes on."""
    pair.offer("late", b"late")
    getting = pair.alice.start(
        "get", "bob:docs/late", str(pair.inbox), CHUNKQ_PROGRESS_INTERVAL="0.2s"
    )
    until(lambda: "waiting" in getting.err)

    pair.serve()

    assert getting.wait().code == 0
    assert {"late": b"late"} == contents(pair.inbox)


def test_a_spool_that_is_not_there(pair: Pair) -> None:
    """A stick that is not plugged in: exit code 5, naming it."""
    pair.spool.rename(pair.root / "elsewhere")

    done = pair.get("bob:docs/x", str(pair.inbox / "x"))

    assert done.code == 5, done.err
    assert str(pair.spool) in done.err


def test_a_revoked_peer_gets_nothing(pair: Pair) -> None:
    """Removed at the origin: its requests are dropped unanswered."""
    pair.offer("x", b"x")
    pair.serve()
    assert pair.get("bob:docs/x", str(pair.inbox / "one")).code == 0

    pair.bob.quick("peer", "rm", "alice")
    done = pair.get("--patience", "1s", "bob:docs/x", str(pair.inbox / "two"))

    assert done.code == 5, done.err
    assert not (pair.inbox / "two").exists()
