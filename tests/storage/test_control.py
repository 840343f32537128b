"""What people want of running processes, left as small files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkq.errors import UsageError
from chunkq.storage import control
from chunkq.storage.control import Control, Frozen, Wish
from tests.storage.crashes import killed_at_every_step

JOB = "1700000000000-0123abcd"
OTHER = "1700000000001-0123abcd"
NOW_S = 1_700_000_000.0
HOSTILE = ("..", "../../x", "a/b", "", "\0", "\n", "x" * 5000, "peer-x", "ü")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Control]:
    opened = Control(tmp_path, wall_s=lambda: NOW_S)
    yield opened
    opened.close()


def test_a_wish_is_seen_until_it_is_taken(tmp_path: Path) -> None:
    """By every process, the weightiest first; the last of a kind counts."""
    desk = Control(tmp_path)  # with the clock that the directory's times are of
    priority = Wish(job_id=JOB, want="priority", priority="bulk", by="ann@here", at_ms=1)
    pause = Wish(job_id=JOB, want="pause", by="ann@here", at_ms=2)
    cancel = Wish(job_id=OTHER, want="cancel", drop=True, by="bob@here", at_ms=3)
    for wish in (priority, Wish(job_id=JOB, want="pause"), pause, cancel):
        desk.wish(wish)
    other = Control(tmp_path)

    assert [cancel, pause, priority] == desk.wishes() == other.wishes()
    assert [pause, priority] == other.wishes_of(JOB)
    other.take(JOB, "pause")
    assert [cancel, priority] == desk.wishes()
    other.take(JOB)
    other.take(OTHER)
    other.take(OTHER)
    assert [] == desk.wishes()
    assert [] == os.listdir(tmp_path / "control")
    other.close()
    desk.close()


def test_peers_and_links_are_frozen_until_thawed(desk: Control, tmp_path: Path) -> None:
    """Whatever they are called; a peer and a link of one name are two."""
    for name in HOSTILE:
        desk.freeze("peer", name, "ann@here", why="looks odd")
    desk.freeze("link", "ü", "bob@here")

    frozen = Control(tmp_path).frozen()
    by_ann = Frozen(by="ann@here", at_ms=int(NOW_S * 1000), why="looks odd")
    by_bob = Frozen(by="bob@here", at_ms=int(NOW_S * 1000))
    assert {**{("peer", name): by_ann for name in HOSTILE}, ("link", "ü"): by_bob} == frozen
    assert desk.thaw("peer", "ü")
    assert not desk.thaw("peer", "ü")
    assert ("link", "ü") in desk.frozen()
    assert ("peer", "ü") not in desk.frozen()
    assert {"control", "journal.jsonl"} == set(os.listdir(tmp_path))


def test_who_is_to_end_is_told_until_it_has(desk: Control) -> None:
    """And whoever comes after it under that name is not."""
    for name in HOSTILE:
        desk.drain(name, "ann@here")

    assert set(HOSTILE) == desk.draining()
    assert "ann@here" == desk.drained_by("..")
    desk.ended("..")
    desk.ended("..")
    assert ".." not in desk.draining()
    assert "" == desk.drained_by("..")


@pytest.mark.parametrize(
    "job_id", ["", "..", "../x", "x", f"{JOB}/../y", f"{JOB}.pause", f"{JOB}\n"]
)
def test_a_wish_is_about_a_job(desk: Control, tmp_path: Path, job_id: str) -> None:
    """Nothing is written, or removed, outside."""
    with pytest.raises(UsageError):
        desk.wish(Wish(job_id=job_id, want="pause"))
    desk.take(job_id)
    assert [] == desk.wishes_of(job_id)
    assert [] == os.listdir(tmp_path / "control")


def test_what_is_no_wish_is_left_out(desk: Control, tmp_path: Path) -> None:
    """Half written, of another version, too large, under another's name, no file at all."""
    good = Wish(job_id=OTHER, want="pause")
    desk.wish(good)
    desk.freeze("peer", "beta", "ann@here")
    at = tmp_path / "control"
    [frozen] = at.glob("*.frozen")
    for content in (
        "",
        "{",
        "[]",
        '{"job_id": 3, "want": "pause"}',
        f'{{"job_id": "{JOB}", "want": "explode"}}',
        f'{{"job_id": "{OTHER}", "want": "pause"}}',
        f'{{"job_id": "{JOB}", "want": "pause", "by": "{"x" * 20_000}"}}',
    ):
        (at / f"{JOB}.pause").write_text(content)
        assert [good] == desk.wishes()
        assert [] == desk.wishes_of(JOB)
    (at / f"{JOB}.cancel").mkdir()
    (at / f"{JOB}.priority").symlink_to(at / f"{OTHER}.pause")
    (at / ("peer-" + "0" * 32 + ".frozen")).write_bytes(frozen.read_bytes())
    (at / "README").write_text("not a wish")

    assert [good] == desk.wishes()
    assert [("peer", "beta")] == list(desk.frozen())


def test_a_name_that_is_no_text_is_refused(desk: Control, tmp_path: Path) -> None:
    """And who is told of by such a name is told of all the same."""
    for wrong in (
        lambda: desk.freeze("peer", "\udcff", "ann@here"),
        lambda: desk.thaw("peer", "\udcff"),
        lambda: desk.drain("\udcff", "ann@here"),
    ):
        with pytest.raises(UsageError):
            wrong()
    desk.wish(Wish(job_id=JOB, want="pause", by="\udcff" + "x" * 5000))

    [wish] = desk.wishes()
    assert "?xx" == wish.by[:3]


def test_clutter_goes(tmp_path: Path) -> None:
    """What nobody will ever take; freezes are for a person to end."""
    now_s = [NOW_S]
    desk = Control(tmp_path, wall_s=lambda: now_s[0])
    at = tmp_path / "control"
    desk.wish(Wish(job_id=JOB, want="pause"))
    desk.wish(Wish(job_id=OTHER, want="pause"))
    desk.freeze("peer", "beta", "ann@here")
    desk.drain("gone", "ann@here")
    (at / f"{JOB}.pause.77.tmp").write_text("ha")
    (at / "README").write_text("not ours")
    for path in at.iterdir():
        os.utime(path, (NOW_S, NOW_S))

    desk.sweep(lambda job_id: job_id == JOB)
    assert [OTHER] == [wish.job_id for wish in desk.wishes()]
    assert {"gone"} == desk.draining()
    assert (at / f"{JOB}.pause.77.tmp").exists()

    now_s[0] += 30 * 86400
    desk.sweep(lambda _: False)
    assert not (at / f"{JOB}.pause.77.tmp").exists()
    assert set() == desk.draining()
    assert [("peer", "beta")] == list(desk.frozen())
    assert (at / "README").exists()
    desk.close()


def test_clutter_is_bounded(desk: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever fills the directory does not fill memory."""
    monkeypatch.setattr(control, "MAX_FILES", 10)
    for number in range(30):
        desk.wish(Wish(job_id=f"{number:013d}-00000000", want="pause"))

    assert 10 == len(desk.wishes())


def test_a_look_at_what_has_not_changed_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done twice a second; a change is seen at the next."""
    desk = Control(tmp_path)
    desk.wish(Wish(job_id=JOB, want="pause"))
    long_ago = NOW_S * 1e9
    os.utime(tmp_path / "control", ns=(int(long_ago), int(long_ago)))
    assert [JOB] == [wish.job_id for wish in desk.wishes()]
    scans = []
    monkeypatch.setattr(os, "scandir", lambda fd, real=os.scandir: scans.append(fd) or real(fd))

    assert [JOB] == [wish.job_id for wish in desk.wishes()]
    assert {} == desk.frozen()
    assert [] == scans
    desk.take(JOB)
    assert [] == desk.wishes()
    desk.close()


def test_kill_at_every_step_of_a_wish(tmp_path: Path) -> None:
    """It is there, whole, or not at all; so is what is frozen."""

    def work() -> None:
        desk = Control(tmp_path)
        desk.wish(Wish(job_id=JOB, want="cancel", drop=True))
        desk.freeze("link", "default", "ann@here")

    def reset() -> None:
        for each in (tmp_path / "control").glob("*"):
            each.unlink()

    def check(step: int) -> None:
        desk = Control(tmp_path)
        wishes, frozen = desk.wishes(), desk.frozen()
        names = [name for name in os.listdir(tmp_path / "control") if not name.endswith(".tmp")]
        assert len(names) == len(wishes) + len(frozen), step
        assert all(wish.drop for wish in wishes), step
        desk.close()

    assert killed_at_every_step(work, check, reset) >= 6
