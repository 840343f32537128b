"""The journal: what was added is read once, in order, whatever happens to the files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chunkq.storage import journal
from chunkq.storage.journal import Event, Journal

WRITER = """
import sys
from chunkq.storage import journal
from chunkq.storage.journal import Event, Journal
journal.MAX_SIZE_BYTES = 4096
book = Journal(sys.argv[1])
for number in range(100):
    book.add(Event(at_ms=number, what="done", transfer=sys.argv[2]), durable=False)
"""


def an_event(number: int, what: str = "queued") -> Event:
    return Event(at_ms=number, what=what, transfer=f"t{number}", by="ann@here", detail="ü\n")


def drained(book: Journal, cursor: str = "") -> tuple[list[Event], str]:
    """All that is to be read."""
    found: list[Event] = []
    while True:
        events, cursor = book.read(cursor)
        found += events
        if not events:
            return found, cursor


def test_what_was_added_is_read_once(tmp_path: Path) -> None:
    """Whole, in order, by every reader for himself; nothing is read of nothing."""
    book = Journal(tmp_path)
    assert ([], "") == book.read()
    first = [an_event(number) for number in range(3)]
    book.add(*first)

    events, cursor = Journal(tmp_path).read()
    assert first == events
    assert ([], cursor) == book.read(cursor)

    book.add(an_event(3))
    assert [an_event(3)] == book.read(cursor)[0]
    assert [*first, an_event(3)] == book.read()[0]


def test_a_cursor_outlives_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One and even two: then what is gone is missing, and nothing comes twice."""
    monkeypatch.setattr(journal, "MAX_SIZE_BYTES", 2000)
    book = Journal(tmp_path)
    read: list[int] = []
    cursor, rotations, inode = "", 0, 0
    for number in range(200):
        book.add(an_event(number), durable=False)
        now = os.stat(book.path).st_ino
        rotations, inode = rotations + (now != inode), now
        if number % 7 == 0:
            events, cursor = book.read(cursor)
            read += [event.at_ms for event in events]
    read += [event.at_ms for event in book.read(cursor)[0]]

    assert rotations > 4
    assert list(range(200)) == read
    kept = [event.at_ms for event in book.read("0123456789abcdef:77")[0]]
    assert list(range(kept[0], 200)) == kept


def test_a_reader_is_not_given_more_than_it_can_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next read goes on there."""
    monkeypatch.setattr(journal, "MAX_EVENTS", 10)
    book = Journal(tmp_path)
    book.add(*map(an_event, range(35)))

    assert list(range(10)) == [event.at_ms for event in book.read()[0]]
    assert list(range(35)) == [event.at_ms for event in drained(book)[0]]


@pytest.mark.parametrize(
    "clutter",
    [
        b'{"at_ms": 5, "what": "qu',
        b"\xff\xfe\n",
        b"[]\n",
        b'{"at_ms": "5", "what": "done"}\n',
        b'{"at_ms": 5, "what": "of another version"}\n',
        b"x" * 200_000 + b"\n",
        b"[" * 60_000 + b"\n",
        b"\n\n",
    ],
)
def test_a_line_that_is_none_costs_only_itself(tmp_path: Path, clutter: bytes) -> None:
    """Torn, of another version, or of no sense; also as the first of a file."""
    for begun in (False, True):
        book = Journal(tmp_path / str(begun))
        os.makedirs(os.path.dirname(book.path))
        before = [an_event(1)] if begun else []
        book.add(*before)
        with open(book.path, "ab") as file:
            file.write(clutter)
        events, cursor = book.read()
        assert before == events
        book.add(an_event(2))
        book.add(an_event(3))

        assert [*before, an_event(2), an_event(3)] == book.read()[0]
        assert [an_event(2), an_event(3)] == book.read(cursor)[0]


def test_long_texts_are_cut(tmp_path: Path) -> None:
    """A line stays a line."""
    book = Journal(tmp_path)
    book.add(Event(at_ms=1, what="failed", detail="x" * 100_000))

    [event] = book.read()[0]
    assert "x" * journal.MAX_TEXT_CHARS == event.detail


def test_many_processes_write_while_one_reads(tmp_path: Path) -> None:
    """Real ones, and files that are rotated under all of them."""
    commands = [[sys.executable, "-c", WRITER, str(tmp_path), str(number)] for number in range(3)]
    writers = [subprocess.Popen(command) for command in commands]
    book, found, cursor = Journal(tmp_path), [], ""
    while any(writer.poll() is None for writer in writers):
        events, cursor = drained(book, cursor)
        found += events
    found += drained(book, cursor)[0]

    assert [0, 0, 0] == [writer.returncode for writer in writers]
    for number in range(3):
        told = [event.at_ms for event in found if event.transfer == str(number)]
        assert sorted(set(told)) == told
        assert 99 == told[-1]
