"""`chunkq ls`: what a peer offers."""

from __future__ import annotations

import os

from tests.support.pair import Pair


def test_a_directory(served: Pair) -> None:
    """Mode, size, UTC time and name, by name; a slash after directories."""
    source = served.offer("listing/b.txt", b"12345")
    source.chmod(0o640)
    os.utime(source, (0, 86_400 * 365))
    (served.files / "listing" / "a").mkdir(mode=0o755)
    os.utime(served.files / "listing" / "a", (0, 0))

    done = served.alice.run("ls", "bob:docs/listing")

    assert (0, "") == (done.code, done.err)
    assert [
        ["drwxr-xr-x", "0", "1970-01-01", "00:00", "a/"],
        ["-rw-r-----", "5", "1971-01-01", "00:00", "b.txt"],
    ] == [line.split() for line in done.out.splitlines()]


def test_as_json(served: Pair) -> None:
    """One object a line."""
    served.offer("objects/x", b"123")

    done = served.alice.run("ls", "--json", "bob:docs/objects")

    (entry,) = done.objects
    assert ("entry", "x", "file", 3) == (
        entry["type"],
        entry["name"],
        entry["kind"],
        entry["size_bytes"],
    )


def test_the_top_of_a_share_with_and_without_slash(served: Pair) -> None:
    """`bob:docs` and `bob:docs/` are the same."""
    served.offer("top", b"")

    lines = [served.alice.run("ls", source).out for source in ("bob:docs", "bob:docs/")]

    assert lines[0] == lines[1]
    assert "top" in lines[0]


def test_more_entries_than_one_reply_holds(served: Pair) -> None:
    """Pages are joined; every name once and in order."""
    for number in range(2500):
        served.offer(f"many/{number:05d}-{'x' * 200}", b"")

    done = served.alice.run("ls", "--json", "bob:docs/many")

    names = [each["name"] for each in done.objects]
    assert [f"{number:05d}-{'x' * 200}" for number in range(2500)] == names


def test_what_is_not_there(served: Pair) -> None:
    """Unknown share, unknown directory, a file, an unknown site: exit code 4."""
    served.offer("file", b"")

    codes = {
        what: served.alice.run("ls", what).code
        for what in ("bob:nothing", "bob:docs/nothing", "bob:docs/file", "bbo:docs")
    }

    assert {4} == set(codes.values()), codes


def test_names_cannot_steer_a_terminal(served: Pair) -> None:
    """Control characters in names are shown as what they are not."""
    served.offer("steer/x\x1b[2Jy", b"")

    done = served.alice.run("ls", "bob:docs/steer")

    assert done.code == 0
    assert "\x1b" not in done.out


def test_a_reader_that_goes_away(served: Pair) -> None:
    """`chunkq ls … | head -1`."""
    import subprocess
    import sys

    for number in range(300):
        served.offer(f"piped/{number:03d}", b"")
    command = [sys.executable, "-m", "chunkq.cli.main", *served.alice.arguments]
    with subprocess.Popen(
        [*command, "ls", "bob:docs/piped"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        process.wait(30)

    assert (b"", 1) == (said, process.returncode)
