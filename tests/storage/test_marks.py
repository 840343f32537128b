"""Where a comparison stands, across restarts."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from chunkq.ports import FileIdentity
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.checking import Mark, Verdict
from chunkq.storage.marks import FLUSH_S, LIFETIME_MS, MarksFile

NOW_MS = 1_700_000_000_000
IDENTITY = FileIdentity(1, 2, 3, 4, 5)


def marks(
    root: Path, now_ms: Callable[[], int] = lambda: NOW_MS, clock: list[float] | None = None
) -> MarksFile:
    seconds = clock or [0.0]
    return MarksFile(root, ["/a"], wall_ms=now_ms, monotonic_s=lambda: seconds[0])


def a_mark(path: str = "/a/f", verdict: Verdict | None = Verdict.OK) -> Mark:
    good = Bitmap(20)
    good.fill(3, 9)
    return Mark(path=path, identity=IDENTITY, version="v", verdict=verdict, good=good, next_page=2)


def test_taken_up_again(tmp_path: Path) -> None:
    """Each file's last mark, for the same set of paths; how many were done."""
    first = marks(tmp_path)
    first.note(a_mark(verdict=None))
    first.note(a_mark())
    first.note(a_mark("/a/g", None))
    first.flush()

    second = marks(tmp_path)

    assert 1 == second.load(finished_too=False)
    assert (a_mark(), a_mark("/a/g", None)) == (second.get("/a/f"), second.get("/a/g"))
    other = MarksFile(tmp_path, ["/b"], wall_ms=lambda: NOW_MS, monotonic_s=lambda: 0.0)
    assert 0 == other.load(finished_too=False)


def test_lines_wait_for_others(tmp_path: Path) -> None:
    """One write for many files; none waits for long."""
    clock = [0.0]
    writer = marks(tmp_path, clock=clock)
    writer.note(a_mark())
    assert not Path(writer.path).exists()

    clock[0] = FLUSH_S
    writer.note(a_mark("/a/g"))
    assert 2 == marks(tmp_path).load(finished_too=False)


def test_an_end(tmp_path: Path) -> None:
    """A comparison begins anew after it; a repair goes on from it."""
    first = marks(tmp_path)
    first.note(a_mark())
    first.finish()

    assert 1 == marks(tmp_path).load(finished_too=True)
    assert 0 == marks(tmp_path).load(finished_too=False)
    assert 0 == marks(tmp_path).load(finished_too=True)


def test_a_run_after_the_end(tmp_path: Path) -> None:
    """A repair that was stopped behind an end is no end."""
    first = marks(tmp_path)
    first.note(a_mark())
    first.finish()
    second = marks(tmp_path)
    second.load(finished_too=True)
    second.note(a_mark("/a/g"))
    second.flush()

    assert 2 == marks(tmp_path).load(finished_too=False)


def test_what_is_old_counts_no_more(tmp_path: Path) -> None:
    """Each mark for itself; files that nobody came back to are removed."""
    now = [NOW_MS]
    first = marks(tmp_path, lambda: now[0])
    first.note(a_mark("/a/old"))
    now[0] += LIFETIME_MS
    first.note(a_mark("/a/young"))
    first.flush()

    second = marks(tmp_path, lambda: now[0])
    assert 0 == second.load(finished_too=False) - 1
    assert second.get("/a/old") is None

    os.utime(first.path, (1, 1))
    marks(tmp_path, lambda: now[0]).load(finished_too=False)
    assert not Path(first.path).exists()


def test_any_cut_and_any_line(tmp_path: Path) -> None:
    """What does not hold is as if it were not there, and the next line is whole."""
    first = marks(tmp_path)
    first.note(a_mark("/a/f"))
    first.flush()
    path = Path(first.path)
    whole = path.read_bytes()
    for size in range(0, len(whole) - 2, 7):
        path.write_bytes(whole[:size])
        writer = marks(tmp_path)
        writer.note(a_mark("/a/g"))
        writer.flush()
        assert 1 == marks(tmp_path).load(finished_too=False)
    path.write_bytes(
        b'[]\n{"path":1}\n\xff\n{"path":"/a/f","verdict":"ok","good":[9999999999,""]}\n'
    )
    assert 0 == marks(tmp_path).load(finished_too=False)
