"""Received files compared with what was received, and repaired: the library in use."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from chunkq.errors import DestinationExists, NotFound, OtherVersion, PeerSilent, StorageError
from chunkq.protocol.checking import Checked, Verdict
from chunkq.storage.staging import Staging
from tests.api.verifying import CHUNK, World, only, rot, unnoticed, verdicts, world

#: Thirteen chunks, the last of them short.
SIZE = 12 * CHUNK + 5


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    """Both sites; north serves."""
    async with world(tmp_path) as made:
        yield made


async def test_a_file_as_received(here: World) -> None:
    """All is well, and nothing crosses the link."""
    path = await here.get("big", os.urandom(SIZE))

    found = await here.verify(path)

    assert ({Verdict.OK: 1}, (), SIZE) == (found.counts, found.wrong, found.bytes_total)
    assert [] == here.sent


async def test_rotten_chunks_are_named_and_only_they_are_fetched(here: World) -> None:
    """Three bits in two runs of chunks: these, by number and by byte; then the file is whole."""
    content = os.urandom(SIZE)
    path = await here.get("big", content)
    os.chmod(path, 0o600)
    before = path.stat()
    rot(path, 3 * CHUNK + 7, 4 * CHUNK, SIZE - 1)

    checked = only(await here.verify(path))
    found = await here.repair(path)

    assert Verdict.DAMAGED is checked.verdict
    assert [(3, 2), (12, 1)] == checked.bad_chunks
    assert [(3 * CHUNK, 2 * CHUNK), (12 * CHUNK, 5)] == checked.bad_bytes
    assert ((), 1, 2 * CHUNK + 5) == (found.wrong, len(found.repaired), found.new_bytes)
    assert 3 == sum(here.sent)
    assert content == path.read_bytes()
    assert before.st_mtime_ns == path.stat().st_mtime_ns
    assert ["big"] == os.listdir(here.inbox)
    assert () == (await here.verify(path)).wrong


async def test_a_file_that_was_changed_on_purpose(here: World) -> None:
    """It is told from a rotten one, and left alone without consent."""
    content = os.urandom(SIZE)
    path = await here.get("big", content)
    with path.open("r+b") as file:
        file.write(b"mine")

    left = await here.repair(path)
    mine = path.read_bytes()[:4]
    replaced = await here.repair(path, overwrite=True)

    assert {"big": Verdict.CHANGED} == verdicts(left)
    assert (b"mine", ()) == (mine, left.repaired)
    assert () == replaced.wrong
    assert content == path.read_bytes()
    assert 1 == sum(here.sent)


@pytest.mark.parametrize(
    ("size", "fetched"),
    [(0, 13), (1, 13), (5 * CHUNK, 8), (SIZE - 1, 1), (SIZE + 1, 0), (SIZE + 2 * CHUNK, 0)],
)
async def test_a_file_of_another_size(here: World, size: int, fetched: int) -> None:
    """Cut or grown: it counts as changed, and what is still right is not fetched."""
    content = os.urandom(SIZE)
    path = await here.get("big", content)
    os.truncate(path, size)

    left = await here.verify(path)
    found = await here.repair(path, overwrite=True)

    assert {"big": Verdict.CHANGED} == verdicts(left)
    assert f"{size} bytes, were {SIZE}" in only(left).detail
    assert () == found.wrong
    assert content == path.read_bytes()
    assert fetched == sum(here.sent)


async def test_a_file_that_was_only_touched(here: World) -> None:
    """Another time and the same bytes are no difference."""
    path = await here.get("big", os.urandom(SIZE))
    os.utime(path, ns=(0, 0))

    assert () == (await here.verify(path)).wrong


@pytest.mark.parametrize("size", [0, 1, CHUNK])
async def test_files_of_one_chunk_and_of_none(here: World, size: int) -> None:
    """They need no manifest: the digest does; damage is repaired by fetching the only chunk."""
    content = os.urandom(size)
    path = await here.get("small", content)
    assert () == (await here.verify(path)).wrong
    assert not (here.state / "kept").exists()
    if size:
        rot(path, size - 1)
    else:
        with unnoticed(path):
            path.write_bytes(b"not empty")

    found = await here.repair(path, overwrite=not size)

    assert (1, ()) == (len(found.repaired), found.wrong)
    assert content == path.read_bytes()


async def test_a_tree(here: World) -> None:
    """Damaged, missing, unknown, and links in the place of a file and of a directory."""
    outside = here.root / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"f")
    files = {f"many/{n:03d}": os.urandom(100) for n in range(50)}
    big = os.urandom(SIZE)
    files |= {"big": big, "sub/f": b"f", "link": b"l", "deep/a/b": b"deep", "empty": b""}
    tree = await here.get_tree(files)
    rot(tree / "big", CHUNK)
    (tree / "many" / "007").unlink()
    (tree / "deep" / "a" / "b").unlink()
    (tree / "deep" / "a").rmdir()
    (tree / "sub" / "f").unlink()
    (tree / "sub").rmdir()
    (tree / "sub").symlink_to(outside)
    (tree / "link").unlink()
    (tree / "link").symlink_to(outside / "f")
    (tree / "mine").write_bytes(b"m")

    seen = await here.verify(tree)
    found = await here.repair(tree)
    again = await here.verify(tree)

    wrong = {
        "007": Verdict.MISSING,
        "b": Verdict.MISSING,
        "big": Verdict.DAMAGED,
        "f": Verdict.CHANGED,
        "link": Verdict.CHANGED,
    }
    assert wrong == verdicts(seen)
    assert (str(tree / "mine"),) == seen.unknown
    assert {"f": Verdict.CHANGED, "link": Verdict.CHANGED} == verdicts(found) == verdicts(again)
    assert 3 == len(found.repaired)
    assert b"deep" == (tree / "deep" / "a" / "b").read_bytes()
    assert ["f"] == os.listdir(outside)


async def test_consent_never_leads_through_a_link(here: World) -> None:
    """A link in a file's place is replaced; one in a directory's place stops the repair."""
    outside = here.root / "outside"
    outside.mkdir()
    (outside / "f").write_bytes(b"theirs")
    tree = await here.get_tree({"sub/f": b"f", "link": b"l"})
    (tree / "sub" / "f").unlink()
    (tree / "sub").rmdir()
    (tree / "sub").symlink_to(outside)
    (tree / "link").unlink()
    (tree / "link").symlink_to(outside / "f")

    found = await here.repair(tree, overwrite=True)

    assert [str(tree / "link")] == [each.path for each in found.repaired]
    assert [str(tree / "sub" / "f")] == [path for path, _ in found.failures]
    assert b"theirs" == (outside / "f").read_bytes()
    assert (b"l", False) == ((tree / "link").read_bytes(), (tree / "link").is_symlink())


async def test_the_origin_has_another_version(here: World) -> None:
    """The repair says so, and what to do; neither version gets into the other."""
    path = await here.get("big", os.urandom(SIZE))
    rot(path, 0)
    rotten = path.read_bytes()
    here.offer("big", os.urandom(SIZE))

    found = await here.repair(path)

    ((failed, error),) = found.failures
    assert (str(path), OtherVersion) == (failed, type(error))
    assert f"chunkq get --overwrite north:files/big {path}" in (error.hint or "")
    assert rotten == path.read_bytes()


async def test_the_origin_no_longer_has_it(here: World) -> None:
    """Not found, by name; the others are repaired."""
    one, two = await here.get("one", b"1" * SIZE), await here.get("two", b"2" * SIZE)
    rot(one, 0)
    rot(two, 0)
    (here.files / "one").unlink()

    found = await here.repair(one, two)

    assert {"one": Verdict.DAMAGED} == verdicts(found)
    assert [NotFound] == [type(error) for _, error in found.failures]
    assert b"2" * SIZE == two.read_bytes()


async def test_the_peer_is_pinned_no_more(here: World) -> None:
    """Comparing needs no peer; repairing says which one it needs."""
    path = await here.get("big", os.urandom(SIZE))
    rot(path, 0)
    here.cards.clear()

    found = await here.repair(path)

    ((_, error),) = found.failures
    assert "north" in error.message
    assert {"big": Verdict.DAMAGED} == verdicts(found)


async def test_nobody_answers_and_later_somebody_does(tmp_path: Path) -> None:
    """The repair ends as silent; the next one goes on, without comparing anything again."""
    content = os.urandom(SIZE)
    async with world(tmp_path) as here:
        path = await here.get("big", content)
    rot(path, CHUNK)
    async with world(tmp_path, serving=False) as here:
        silent = await here.south.verify(path, repair=True, patience_s=0.5)
    async with world(tmp_path) as here:
        found = await here.repair(path)

        assert [PeerSilent] == [type(error) for _, error in silent.failures]
        assert (1, ()) == (found.resumed, found.wrong)
        assert 1 == sum(here.sent)
    assert content == path.read_bytes()


async def test_what_is_not_known(here: World) -> None:
    """A path of which nothing was received is not found."""
    with pytest.raises(NotFound, match="not known as received"):
        await here.verify(here.inbox)


async def test_manifests_that_are_gone(here: World) -> None:
    """Then the whole file is compared, and its chunks once the origin tells the leaves again."""
    content = os.urandom(SIZE)
    path = await here.get("big", content)
    for kept in (here.state / "kept").iterdir():
        kept.unlink()
    rot(path, 5 * CHUNK)

    seen = only(await here.verify(path))
    found = await here.repair(path)

    assert (Verdict.DAMAGED, []) == (seen.verdict, seen.bad_chunks)
    assert () == found.wrong
    assert content == path.read_bytes()
    assert 1 == sum(here.sent)
    assert (await here.verify(path)).wrong == ()
    rot(path, 5 * CHUNK)
    assert [(5, 1)] == only(await here.verify(path)).bad_chunks


async def test_leaves_that_are_gone(here: World) -> None:
    """The page is in doubt as a whole; still only what is bad is fetched."""
    content = os.urandom(SIZE)
    path = await here.get("big", content)
    (kept,) = (here.state / "kept").iterdir()
    with kept.open("r+b") as file:
        file.write(b"\0" * 64)
    assert () == (await here.verify(path)).wrong
    rot(path, 5 * CHUNK)

    seen = only(await here.verify(path))
    found = await here.repair(path)

    assert (False, [(0, 13)]) == (seen.exact, seen.bad_chunks)
    assert () == found.wrong
    assert content == path.read_bytes()
    assert 1 == sum(here.sent)


async def test_a_sparse_file(here: World) -> None:
    """Holes are not read; data in one is damage, and the repair makes it a hole again."""
    source = here.files / "image"
    with source.open("wb") as file:
        file.truncate(1 << 30)
        file.seek(512 << 20)
        file.write(b"data")
    path = here.inbox / "image"
    await here.south.fetch("north:files/image", path, patience_s=20)
    assert () == (await here.verify(path)).wrong
    with unnoticed(path), path.open("r+b") as file:
        file.write(b"x")

    checked = only(await here.verify(path))
    found = await here.repair(path)

    assert [(0, 1)] == checked.bad_chunks
    assert () == found.wrong
    assert path.stat().st_blocks * 512 < 2 << 20
    assert () == (await here.verify(path)).wrong


async def test_a_received_file_is_replaced_by_a_newer_version(here: World) -> None:
    """The manifest of the last receipt counts, and is the only one that is kept."""
    await here.get("big", os.urandom(SIZE))
    here.offer("big", os.urandom(SIZE + CHUNK))
    path = here.inbox / "big"
    await here.south.fetch("north:files/big", path, overwrite=True, patience_s=20)

    assert () == (await here.verify(path)).wrong
    assert 1 == len(os.listdir(here.state / "kept"))
    rot(path, 13 * CHUNK)
    assert [(13, 1)] == only(await here.verify(path)).bad_chunks


async def test_a_file_that_is_already_there_is_known_too(here: World) -> None:
    """A second fetch keeps the manifest of the first."""
    content = os.urandom(SIZE)
    path = await here.get("big", content)
    await here.south.fetch("north:files/big", path, patience_s=20)
    rot(path, CHUNK)

    assert [(1, 1)] == only(await here.verify(path)).bad_chunks


async def test_a_file_that_is_changed_between_comparing_and_repairing(here: World) -> None:
    """What somebody writes meanwhile is not replaced without consent."""
    path = await here.get("big", os.urandom(SIZE))
    rot(path, 0)

    def write(_: Checked) -> None:
        path.write_bytes(b"mine")

    found = await here.verify(path, repair=True, on_checked=write)

    assert [DestinationExists] == [type(error) for _, error in found.failures]
    assert b"mine" == path.read_bytes()


async def test_received_is_noted_before_the_transfer_is_forgotten(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends between the two leaves a file that is known, and staging that tells the rest."""
    here.offer("big", os.urandom(SIZE))
    path = here.inbox / "big"

    def fails(self: Staging) -> None:
        raise StorageError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Staging, "remove", fails)
        with pytest.raises(StorageError):
            await here.south.fetch("north:files/big", path, patience_s=20)

    assert () == (await here.verify(path)).wrong
    await here.south.fetch("north:files/big", path, patience_s=20)
    assert ["big"] == os.listdir(here.inbox)
    rot(path, CHUNK)
    assert [(1, 1)] == only(await here.verify(path)).bad_chunks


async def test_the_state_directory_is_read_only(
    here: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nothing is taken up later; the comparison itself is as good."""
    path = await here.get("big", os.urandom(SIZE))
    rot(path, CHUNK)

    def denied(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for call in ("makedirs", "utime", "unlink"):
        monkeypatch.setattr(os, call, denied)

    assert [(1, 1)] == only(await here.verify(path)).bad_chunks


async def test_a_tree_of_a_thousand_small_files(here: World) -> None:
    """No manifest is kept for any; each is compared, and what is wrong comes several at once."""
    files = {f"{n % 7}/{n}": b"%d" % n for n in range(1000)}
    tree = await here.get_tree(files)
    for number in range(0, 1000, 100):
        rot(tree / str(number % 7) / str(number), 0)
        (tree / str((number + 1) % 7) / str(number + 1)).unlink()

    seen = await here.verify(tree)
    found = await here.repair(tree)

    assert {Verdict.OK: 980, Verdict.DAMAGED: 10, Verdict.MISSING: 10} == seen.counts
    assert (20, (), 990) == (len(found.repaired), found.wrong, found.resumed)
    assert 20 == sum(here.sent)
    assert not (here.state / "kept").exists()
    assert [] == sorted(tree.rglob(".chunkq"))
    for name, content in files.items():
        assert content == (tree / name).read_bytes()
