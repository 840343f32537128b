"""The loop that compares: real files, a real log, and a thread that can be told to stop."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from chunkq.errors import Stopped
from chunkq.protocol import cbor
from chunkq.protocol.checking import Checked, Instead, Received, Verdict
from chunkq.runtime import verifying
from chunkq.runtime.verifying import FileNow, KeptManifest, Verifying
from chunkq.storage import descriptors
from chunkq.storage.filecheck import CheckedFile, Tree
from chunkq.storage.kept import KeptManifests
from chunkq.storage.marks import MarksFile
from tests.api.verifying import rot
from tests.storage.manifests import KEYS, signed

CHUNK = 4096
#: Four pages, of which the last has one chunk.
COUNT = 3 * 512 + 1


@dataclass
class Bench:
    """A directory of received files, and comparisons of it."""

    root: Path
    entries: list[Received] = field(default_factory=list)
    checked: list[Checked] = field(default_factory=list)
    reads: int = 0
    #: Called before each read, with its number.
    on_read: Callable[[int], None] = lambda _: None
    #: Called when a file is open.
    on_open: Callable[[Path], None] = lambda _: None

    @property
    def files(self) -> Path:
        return self.root / "files"

    def receive(self, name: str, size: int) -> Path:
        path = self.files / name
        made = signed(os.urandom(size), CHUNK)
        path.write_bytes(made.content)
        many = made.head.geometry.chunk_count > 1
        if many:
            store = KeptManifests(self.root)
            for page in range(made.head.geometry.page_count):
                store.add_page(str(path), made.head, page, made.page(page))
            store.keep(str(path), made.head, cbor.encode(made.reply), KEYS.verify_key)
        entry = Received(
            path=str(path),
            source=f"bob:docs/{name}",
            size_bytes=size,
            blake3=made.head.content_digest.hex(),
            at_ms=0,
            mtime_ns=path.stat().st_mtime_ns,
            root=made.head.root.hex() if many else "",
        )
        self.entries.append(entry)
        return path

    def compare(self) -> dict[str, Verdict]:
        """What this run found, by name. What `on_read` raises comes through."""
        store, self.checked, self.reads = KeptManifests(self.root), [], 0

        def load(entry: Received) -> KeptManifest | None:
            return store.load(entry.path, bytes.fromhex(entry.root))

        marks = MarksFile(
            self.root, [str(self.files)], wall_ms=lambda: 10**12, monotonic_s=lambda: 0.0
        )
        marks.load(finished_too=False)
        self.loop = Verifying(self._open, load, marks, self.checked.append)
        self.loop.run(self.entries)
        return {Path(each.path).name: each.verdict for each in self.checked}

    def _open(self, path: str) -> FileNow | Instead:
        def read(length: int) -> None:
            self.reads += 1
            self.on_read(self.reads)
            self.loop.on_read(length)

        found: CheckedFile | Instead = Tree(str(self.files), read).open(path)
        self.on_open(Path(path))
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    (tmp_path / "files").mkdir()
    return Bench(tmp_path)


def test_stopped_and_run_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any read: what was compared is not read again, and what was found bad stays found."""
    monkeypatch.setattr(verifying, "MARK_BYTES", CHUNK)
    bench.receive("a", 100)
    path = bench.receive("b", COUNT * CHUNK)
    bench.receive("c", 10 * CHUNK)
    rot(path, 5 * CHUNK)
    whole = 1 + COUNT + 10
    for at in (1, 2, 515, 1030, COUNT + 1, COUNT + 2, whole):

        def stop(read: int, at: int = at) -> None:
            if read == at:
                bench.loop.stop()

        bench.on_read = stop
        with pytest.raises(Stopped):
            bench.compare()
        bench.on_read = lambda _: None
        found = bench.compare()

        assert {"a": Verdict.OK, "b": Verdict.DAMAGED, "c": Verdict.OK} == found
        assert [(5, 1)] == bench.checked[1].bad_chunks
        assert bench.reads <= whole - at + 513, at
        for mark in (bench.root / "verify").iterdir():
            mark.unlink()


def test_a_file_that_changed_since_is_begun_anew(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier run found of another state of the file does not count."""
    monkeypatch.setattr(verifying, "MARK_BYTES", CHUNK)
    path = bench.receive("b", COUNT * CHUNK)
    bench.compare()
    assert 0 == (bench.compare(), bench.reads)[1]

    rot(path, 5 * CHUNK)

    assert {"b": Verdict.DAMAGED} == bench.compare()
    assert COUNT == bench.reads


def test_written_to_while_it_is_read(bench: Bench) -> None:
    """Neither right nor rotten; it is read again the next time."""
    path = bench.receive("b", COUNT * CHUNK)

    def write(read: int) -> None:
        if read == 1000:
            with path.open("r+b") as file:
                file.write(b"mine")

    bench.on_read = write
    assert {"b": Verdict.CHANGED} == bench.compare()
    assert "while it was read" in bench.checked[0].detail

    bench.on_read = lambda _: None
    assert {"b": Verdict.CHANGED} == bench.compare()
    assert COUNT == bench.reads


def test_vanished(bench: Bench) -> None:
    """Before it is opened: missing. After that: changed, and missing the next time."""
    path = bench.receive("b", COUNT * CHUNK)
    bench.on_open = Path.unlink
    assert {"b": Verdict.CHANGED} == bench.compare()

    bench.on_open = lambda _: None
    assert not path.exists()
    assert {"b": Verdict.MISSING} == bench.compare()


def test_read_errors_are_damage(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk does not give is bad; the other chunks are compared all the same."""
    bench.receive("big", COUNT * CHUNK)
    bench.receive("small", 100)
    read = descriptors.read_into

    def failing(fd: int, offset: int, data: memoryview) -> int:
        if offset == 7 * CHUNK or os.fstat(fd).st_size == 100:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(fd, offset, data)

    monkeypatch.setattr(descriptors, "read_into", failing)

    assert {"big": Verdict.DAMAGED, "small": Verdict.DAMAGED} == bench.compare()
    assert [(7, 1)] == bench.checked[0].bad_chunks


def test_other_errors_are_of_that_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permission denied, or the network file system away: unreadable, and on to the next."""
    bench.receive("a", COUNT * CHUNK)
    bench.receive("b", 100)
    read, denied = os.open, [errno.EACCES, errno.EIO]

    def failing(path: str, *rest: int, **where: int) -> int:
        if path == "a":
            raise OSError(denied[0], os.strerror(denied[0]))
        return read(path, *rest, **where)

    for _ in (0, 1):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", failing)
            assert {"a": Verdict.UNREADABLE, "b": Verdict.OK} == bench.compare()
        denied.pop(0)


@pytest.mark.parametrize("what", ["fifo", "directory", "link"])
def test_something_else_in_its_place(bench: Bench, what: str) -> None:
    """Told as what it is, and neither followed nor waited for."""
    path = bench.receive("a", 100)
    path.unlink()
    if what == "fifo":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    else:
        path.symlink_to("/etc/passwd")

    assert {"a": Verdict.CHANGED} == bench.compare()
    assert what in bench.checked[0].detail.lower()


def test_a_file_that_became_holes(bench: Bench) -> None:
    """Nothing of it is read, and all of it is wrong."""
    path = bench.receive("b", COUNT * CHUNK)
    path.write_bytes(b"")
    os.truncate(path, COUNT * CHUNK)

    assert {"b": Verdict.CHANGED} == bench.compare()
    assert COUNT == bench.checked[0].bad_chunks[0][1]
