"""The Linux-like tree: 2,000 files, deep, oddly named, got over each transport, identical."""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3

from tests.support.pair import Pair

MIB = 1 << 20
FILES = 2_000
SEED = 20_261_121
ODD = [
    "with space",
    "ünïcödé-漢字-🦆",
    "UPPER",
    "-dash",
    "~tilde",
    "dollar$(true)",
    "quote'\"",
    "%41",
    "a" * 200,
    ".hidden",
    "semi;colon",
]
#: Linux has an aux.c; what must not be created here is told, by name.
REFUSED = ["aux.c", "con", "line\nbreak", "a:b", "back\\slash", "dot.", "bidi\u202ex"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree, from a seed."""
    root = tmp_path_factory.mktemp("tree") / "linux"
    chance = random.Random(SEED)
    directories = [root]
    root.mkdir()
    for number in range(160):
        parent = chance.choice(directories[-40:])
        name = f"{chance.choice(ODD)}-{number}" if number % 5 == 0 else f"d{number}"
        if len(parent.relative_to(root).parts) < 40:
            directories.append(parent / name)
            directories[-1].mkdir()
    deep = root
    for number in range(50):
        deep = deep / f"level{number}"
        deep.mkdir()
        directories.append(deep)
    for number in range(FILES):
        name = f"{number}-{chance.choice(ODD)}" if number % 7 == 0 else f"f{number:04d}.c"
        path = chance.choice(directories) / name
        path.write_bytes(chance.randbytes(size_of(number, chance)))
        path.chmod(chance.choice([0o644, 0o644, 0o755, 0o600, 0o444, 0o640]))
        os.utime(path, ns=(0, chance.randrange(2 * 10**18)))
    (root / "link").symlink_to("d1")
    (root / "dangling").symlink_to("not/there")
    for path in sorted(directories[1:], key=lambda each: -len(each.parts)):
        path.chmod(chance.choice([0o755, 0o750, 0o700]))
        os.utime(path, ns=(0, chance.randrange(2 * 10**18)))
    return root


def size_of(number: int, chance: random.Random) -> int:
    """Mostly sources of some KiB; some empty, some at the edges of a chunk, few large."""
    if number == 0:
        return 50 * MIB
    if number < 8:
        return chance.randrange(MIB, 4 * MIB)
    if number % 20 == 0:
        return 0
    if number % 50 == 1:
        return 262_144 + chance.choice([-1, 0, 1])
    return int(chance.paretovariate(0.9) * 500) % 200_000


def described(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything that must be the same of everything below `root`."""
    found: dict[str, tuple[object, ...]] = {}
    for path in root.rglob("*"):
        status = path.lstat()
        what: tuple[object, ...]
        if path.is_symlink():
            what = ("link", os.readlink(path))
        elif path.is_dir():
            what = ("dir", stat.S_IMODE(status.st_mode), status.st_mtime_ns)
        else:
            digest = blake3(path.read_bytes()).hexdigest()
            what = ("file", stat.S_IMODE(status.st_mode), status.st_mtime_ns, digest)
        found[str(path.relative_to(root))] = what
    return found


def check_arrives_identical(pair: Pair, tree: Path) -> None:
    """Over the link of `pair`: the whole tree; and again, when nothing is to be done."""
    pair.bob.quick("share", "add", "linux", str(tree), "--to", "alice")
    pair.serve()
    pair.serve()
    target = pair.inbox / "linux"

    done = pair.alice.run("--json", "get", "--links", "bob:linux/", str(target))
    again = pair.alice.run("--json", "get", "--links", "bob:linux/", str(target))

    assert (0, 0) == (done.code, again.code), done.err
    result, repeated = done.objects[-1], again.objects[-1]
    assert (FILES, 0, 0) == (result["files"], result["unchanged"], result["failed"])
    assert (0, FILES, 0) == (repeated["files"], repeated["unchanged"], repeated["new_bytes"])
    wanted, there = described(tree), described(target)
    assert wanted.keys() == there.keys()
    assert {name: what for name, what in wanted.items() if there[name] != what} == {}


@pytest.fixture
def spooled(tmp_path: Path) -> Iterator[Pair]:
    """Two sites on a spool."""
    made = Pair(tmp_path)
    yield made
    made.close()


def test_the_tree_over_the_spool(spooled: Pair, tree: Path) -> None:
    """Content, modes, times of files and directories, links, empty files and directories."""
    check_arrives_identical(spooled, tree)

    assert [] == list(spooled.inbox.rglob(".chunkq"))


@pytest.mark.rabbitmq
def test_the_tree_over_rabbitmq(amqp_url: str, tree: Path, tmp_path: Path) -> None:
    """The same through a broker."""
    pair = Pair(tmp_path, amqp_url)
    try:
        check_arrives_identical(pair, tree)
        assert [] == list(pair.inbox.rglob(".chunkq"))
    finally:
        pair.close()


def test_names_that_are_refused_are_told(spooled: Pair) -> None:
    """Nothing is left out in silence: exit code 3, each name, and the others are there."""
    for name in [*REFUSED, "good.c"]:
        spooled.offer(f"src/{name}", b"int main;")
    spooled.serve()

    done = spooled.alice.run("--json", "get", "bob:docs/src/", str(spooled.inbox))

    assert done.code == 3
    failed = {each["path"] for each in done.objects if each["type"] == "failed"}
    assert set(REFUSED) == failed
    assert ["good.c"] == os.listdir(spooled.inbox)
