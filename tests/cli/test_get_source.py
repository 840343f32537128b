"""`chunkq get` of a source that changes, goes away, cannot be read, or is made by an enemy."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from tests.support.pair import OFTEN, Pair, Running, contents, part_way

MIB = 1 << 20
CHUNK = 256 << 10


def begin(pair: Pair, content: bytes) -> tuple[Path, Running, Running]:
    """A transfer half way: the source, the worker (stopped) and the command."""
    source = pair.offer("big", content)
    worker = pair.serve()
    getting = pair.alice.start("--json", "get", "bob:docs/big", str(pair.inbox), **OFTEN)
    part_way(pair, worker, getting, 16)
    return source, worker, getting


def test_a_source_that_changes(pair: Pair) -> None:
    """The new version arrives whole, and the chunks that did not change were kept."""
    content = bytearray(os.urandom(16 * MIB))
    source, worker, getting = begin(pair, bytes(content))

    content[5 * CHUNK : 5 * CHUNK + 3] = b"new"
    content[-3:] = b"end"
    with source.open("r+b") as file:
        file.write(content)
    worker.send(signal.SIGCONT)
    done = getting.wait()

    assert done.code == 0, done.out
    assert {"big": bytes(content)} == contents(pair.inbox)
    assert done.objects[-1]["new_bytes"] <= 16 * MIB + 8 * CHUNK


def test_a_source_that_shrinks(pair: Pair) -> None:
    """To a length that is no multiple of anything."""
    content = os.urandom(16 * MIB)
    source, worker, getting = begin(pair, content)

    os.truncate(source, 5 * MIB + 3)
    worker.send(signal.SIGCONT)
    done = getting.wait()

    assert done.code == 0, done.out
    assert {"big": content[: 5 * MIB + 3]} == contents(pair.inbox)


def test_a_source_that_is_replaced(pair: Pair) -> None:
    """By a larger one, by rename, as editors and mirrors do."""
    source, worker, getting = begin(pair, os.urandom(16 * MIB))
    content = os.urandom(17 * MIB + 1)
    other = pair.root / "other"
    other.write_bytes(content)

    other.replace(source)
    worker.send(signal.SIGCONT)
    done = getting.wait()

    assert done.code == 0, done.out
    assert {"big": content} == contents(pair.inbox)


def test_a_source_that_vanishes(pair: Pair) -> None:
    """Exit code 4; what came stays, and goes on should the file come back."""
    content = os.urandom(16 * MIB)
    source, worker, getting = begin(pair, content)

    aside = source.rename(pair.root / "aside")
    worker.send(signal.SIGCONT)
    gone = getting.wait()
    aside.rename(source)
    back = pair.get("bob:docs/big", str(pair.inbox))

    assert 4 == gone.code
    assert back.code == 0
    assert "resuming at" in back.err
    assert {"big": content} == contents(pair.inbox)


def test_an_unreadable_file_in_a_tree(pair: Pair) -> None:
    """The others arrive; exit code 3 and its name."""
    pair.offer("tree/a", b"a")
    pair.offer("tree/b/secret", b"secret").chmod(0)
    pair.offer("tree/c", b"c")
    serve_without_privileges(pair)

    done = pair.get("bob:docs/tree/", str(pair.inbox))
    alone = pair.get("bob:docs/tree/b/secret", str(pair.inbox / "secret"))

    assert done.code == 3, done.err
    assert "b/secret" in done.err
    assert {"a": b"a", "b": None, "c": b"c"} == contents(pair.inbox)
    assert alone.code in {1, 4}, alone.err
    assert "bob:docs/tree/b/secret" in alone.err


def test_a_directory_that_cannot_be_entered(pair: Pair) -> None:
    """The same for a whole directory of a tree."""
    pair.offer("tree/a", b"a")
    pair.offer("tree/closed/x", b"x")
    pair.offer("tree/z", b"z")
    (pair.files / "tree" / "closed").chmod(0)
    serve_without_privileges(pair)

    done = pair.get("bob:docs/tree/", str(pair.inbox))

    (pair.files / "tree" / "closed").chmod(0o755)
    assert done.code == 3, done.err
    assert "closed" in done.err
    assert {"a": b"a", "closed": None, "z": b"z"} == contents(pair.inbox)


def test_a_tree_whose_files_vanish_after_the_listing(pair: Pair) -> None:
    """Those that are gone are named, the others arrive."""
    for number in range(300):
        pair.offer(f"tree/{number:03d}", bytes([number % 256]))
    worker = pair.serve()
    getting = pair.alice.start("get", "bob:docs/tree/", str(pair.inbox))
    while not list(pair.inbox.glob("0*")):
        assert getting.alive
    worker.send(signal.SIGSTOP)
    for number in range(290, 300):
        (pair.files / "tree" / f"{number:03d}").unlink()
    worker.send(signal.SIGCONT)

    done = getting.wait()

    assert done.code in {0, 3}
    left = {f"{number:03d}" for number in range(290)}
    assert left <= contents(pair.inbox).keys()
    assert (done.code == 3) == ("29" in done.err)


def serve_without_privileges(pair: Pair) -> None:
    """An origin that obeys permissions, also where the tests are run by root."""
    command = [sys.executable, "-m", "chunkq.cli.main", *pair.bob.arguments, "serve"]
    if os.geteuid() == 0:
        assert shutil.which("setpriv"), "util-linux has it"
        command = ["setpriv", "--bounding-set=-all", *command]
    pair.bob.launch(command).until_said('"serving"')
