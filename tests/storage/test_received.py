"""The log of what was received."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from chunkq.errors import StorageError
from chunkq.protocol.checking import Received
from chunkq.storage import received
from chunkq.storage.received import ReceivedLog
from tests.storage.crashes import FailingCall


def an_entry(path: str, blake3: str = "00" * 32) -> Received:
    return Received(path=path, source="bob:docs/x", size_bytes=1, blake3=blake3, at_ms=5)


def test_the_last_line_of_a_path_counts(tmp_path: Path) -> None:
    """As absolute paths; what is only longer or shorter is another path."""
    log = ReceivedLog(tmp_path)
    log.add(an_entry("/a/b", "01"), an_entry("/a/bc"), an_entry("/a"))
    log.add(an_entry("/a/b", "02"))

    assert an_entry("/a/b", "02") == log.find("/a/../a/b")
    assert log.find("/b") is None
    assert {"/a", "/a/b", "/a/bc"} == set(log.look("/a"))
    assert {"/a/b"} == set(log.look("/a/b"))
    assert {"/a", "/a/b", "/a/bc"} == set(log.look("/"))


@pytest.mark.parametrize("name", ["ü", 'a"b', "a\\b", "new\nline", "\udcff", "\u2028", "{}"])
def test_any_name(tmp_path: Path, name: str) -> None:
    """Whatever a file system allows is found again, by itself and below its directory."""
    log = ReceivedLog(tmp_path)
    entry = an_entry(f"/dir {name}/{name}")
    log.add(entry)

    assert entry == log.find(entry.path)
    assert {entry.path: entry} == log.look(f"/dir {name}")


def test_forgotten_and_received_again(tmp_path: Path) -> None:
    """What is forgotten is expected no more, until it comes again."""
    log = ReceivedLog(tmp_path)
    log.add(an_entry("/a/b"), an_entry("/a/c"))
    log.forget(["/a/b"])
    assert {"/a/c"} == set(log.look("/a"))

    log.add(an_entry("/a/b"))
    assert {"/a/b", "/a/c"} == set(log.look("/a"))


def test_lines_of_earlier_versions(tmp_path: Path) -> None:
    """They had neither time nor root; lines of later ones with more fields do not disturb."""
    fields = {"path": "/f", "source": "bob:x/f", "size_bytes": 1, "blake3": "00", "at_ms": 5}
    log = ReceivedLog(tmp_path)
    Path(log.path).write_text(json.dumps(fields) + "\n" + json.dumps({**fields, "new": 1}) + "\n")

    found = log.find("/f")

    assert found is not None
    assert (None, "") == (found.mtime_ns, found.root)


def test_a_line_that_was_cut_costs_only_itself(tmp_path: Path) -> None:
    """A crash or a full disk in the middle of a line: the next one is whole all the same."""
    log = ReceivedLog(tmp_path)
    log.add(an_entry("/first"))
    os.truncate(log.path, os.path.getsize(log.path) - 10)
    log.add(an_entry("/second"))

    assert {"/second"} == set(log.look("/"))


def test_a_write_that_comes_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest is written, too."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:7]))
    log = ReceivedLog(tmp_path)
    log.add(an_entry("/f"))

    assert an_entry("/f") == log.find("/f")


def test_lines_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not take them is told, and not taken for granted."""
    FailingCall(monkeypatch, "fdatasync", 5)

    with pytest.raises(StorageError, match=r"received\.jsonl"):
        ReceivedLog(tmp_path).add(an_entry("/f"))


def test_a_full_log_makes_way_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several at once: no line is lost, and history not twice."""
    monkeypatch.setattr(received, "MAX_SIZE_BYTES", 40 * 120)
    paths = [f"/{number:03d}" for number in range(60)]

    def add(mine: list[str]) -> None:
        log = ReceivedLog(tmp_path)
        for path in mine:
            log.add(an_entry(path, ""))

    threads = [threading.Thread(target=add, args=(paths[n::4],)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    log = ReceivedLog(tmp_path)
    assert os.path.getsize(f"{log.path}.1") >= 40 * 120
    assert paths == sorted(log.look("/"))
