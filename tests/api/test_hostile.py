"""An origin that lists whatever it likes: nothing appears outside the root, all of it is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import chunkq
from chunkq.ports import FileIdentity, ListingPage
from tests.api.hub import Hub

CONTENT = b"from an enemy"


class Memory:
    """A file of a program's own making (`chunkq.SourceFile`)."""

    mode = 0o777
    identity = FileIdentity(device=0, inode=1, size_bytes=len(CONTENT), mtime_ns=1, ctime_ns=1)

    def read(self, offset: int, length: int) -> bytes:
        return CONTENT[offset : offset + length]

    def hole_end(self, offset: int) -> int:
        return offset

    def changed(self) -> bool:
        return False

    def close(self) -> None:
        pass


class Liar:
    """A share that lists the given entries at its top, and opens everything (`chunkq.Share`)."""

    def __init__(self, entries: list[chunkq.Entry]) -> None:
        self.entries = entries

    def open(self, path: str) -> Memory:
        return Memory()

    def list(self, path: str, cursor: str | None, limit: int) -> ListingPage:
        return ListingPage(tuple(self.entries) if not path else (), None)


def file(name: str) -> chunkq.Entry:
    return chunkq.Entry(name=name, type="file", size=len(CONTENT), mode=0o644, mtime_ns=1)


@asynccontextmanager
async def liar(root: Path, entries: list[chunkq.Entry]) -> AsyncIterator[Hub]:
    """A site that has pinned itself, as `enemy`, and serves these."""
    (root / "spool").mkdir()
    async with Hub.start("enemy", root, f"spool://{root}/spool") as hub:
        hub.cards["enemy"] = hub.site.card
        share = Liar(entries)
        hub.find = lambda *_: share  # type: ignore[method-assign]
        yield hub


UNSAFE = [
    "..",
    ".",
    "../escaped",
    "/etc/absolute",
    "a/b",
    "nul\0byte",
    "CON.txt",
    "a:b",
    "back\\slash",
    "dot.",
    "space ",
    "bidi\u202egpj.exe",
    "line\nbreak",
    "x" * 256,
    ".chunkq",
    ".Chunkq",
]


async def test_names_that_must_not_be_created(tmp_path: Path) -> None:
    """`..`, absolute, NUL, bidi, CON.txt, a:b, trailing dot: each is refused and named."""
    before = everything(tmp_path.parent)
    async with liar(tmp_path, [*map(file, UNSAFE), file("good")]) as hub:
        result = await hub.site.fetch("enemy:files/", tmp_path / "in" / "tree", patience_s=30)

    assert sorted(UNSAFE) == sorted(path for path, _ in result.failures)
    assert {"UnsafeName"} == {type(error).__name__ for _, error in result.failures}
    assert 1 == result.files
    assert ["good"] == os.listdir(tmp_path / "in" / "tree")
    assert ["tree"] == os.listdir(tmp_path / "in")
    outside = everything(tmp_path.parent) - before
    assert {path for path in outside if tmp_path not in path.parents} <= {tmp_path}


@pytest.mark.parametrize("pair", [("A", "a"), ("é", "e\u0301"), ("STRASSE", "straße")])
async def test_names_that_some_systems_take_for_one(tmp_path: Path, pair: tuple[str, str]) -> None:
    """The first is taken, the second refused: neither overwrites the other anywhere."""
    async with liar(tmp_path, [file(pair[0]), file(pair[1])]) as hub:
        result = await hub.site.fetch("enemy:files/", tmp_path / "in", patience_s=30)

    assert [pair[0]] == os.listdir(tmp_path / "in")
    assert [pair[1]] == [path for path, _ in result.failures]
    assert "differ only in case" in str(result.failures[0][1])


async def test_directories_and_links_that_lead_out(tmp_path: Path) -> None:
    """Also by way of a link that was placed before, and of one that was there."""
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "in"
    root.mkdir()
    (root / "mine").symlink_to(outside)
    entries = [
        chunkq.Entry(name="..", type="dir", mode=0o777),
        chunkq.Entry(name="away", type="link", target="../outside"),
        chunkq.Entry(name="absolute", type="link", target=str(outside)),
        chunkq.Entry(name="climbs", type="link", target="sub/../../outside"),
        chunkq.Entry(name="here", type="link", target="good"),
        chunkq.Entry(name="mine", type="dir", mode=0o777),
        file("good"),
    ]
    async with liar(tmp_path, entries) as hub:
        result = await hub.site.fetch("enemy:files/", root, links=True, patience_s=30)

    assert {"..", "away", "absolute", "climbs", "mine"} == {path for path, _ in result.failures}
    assert {"good", "here", "mine"} == set(os.listdir(root))
    assert "good" == os.readlink(root / "here")
    assert [] == os.listdir(outside)


async def test_a_name_twice_in_one_listing(tmp_path: Path) -> None:
    """A file and a directory, or a link first and a file through it: one stays, whole."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    entries = [
        chunkq.Entry(name="twice", type="link", target="good"),
        file("good"),
        file("twice"),
        chunkq.Entry(name="good", type="dir", mode=0o755),
    ]
    async with liar(tmp_path, entries) as hub:
        result = await hub.site.fetch("enemy:files/", tmp_path / "in", links=True, patience_s=30)

    assert {"twice", "good"} >= {path for path, _ in result.failures}
    assert result.failures
    good = tmp_path / "in" / "good"  # whichever was first
    assert good.is_dir() or CONTENT == good.read_bytes()
    assert b"mine" == outside.read_bytes()


async def test_a_tree_without_end(tmp_path: Path) -> None:
    """Each directory holds one more: it ends at the deepest path that may be."""
    entry = chunkq.Entry(name="d", type="dir", mode=0o755)
    async with liar(tmp_path, []) as hub:
        share = Liar([entry])
        share.list = lambda *_: ListingPage((entry,), None)  # type: ignore[method-assign]
        hub.find = lambda *_: share  # type: ignore[method-assign]
        async with asyncio.timeout(60):
            result = await hub.site.fetch("enemy:files/", tmp_path / "in", patience_s=30)

    assert 1 == len(result.failures)
    assert "deep" in str(result.failures[0][1])


def everything(top: Path) -> set[Path]:
    return set(top.rglob("*"))
