"""History: every line once, whatever is killed; kept as long as it should be; readable always."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from chunkq.errors import StorageError
from chunkq.storage import recorder
from chunkq.storage.history import History, Wanted
from chunkq.storage.historydb import NAME, LaterVersion
from chunkq.storage.jobs import JobStore
from chunkq.storage.journal import Event, Journal
from chunkq.storage.recorder import KEEP_DONE_MS, KEEP_MS, PRUNE_EVERY_MS, Recorder
from tests.storage.crashes import run_in_child

NOW_MS = 1_700_000_000_000
DAY_MS = 86_400_000


class Site:
    """A state directory with jobs, a journal and a recorder, whose clock is `now_ms`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now_ms = NOW_MS
        self.notices: list[str] = []
        self.store = JobStore(path, wall_s=lambda: self.now_ms / 1000)
        self.journal = Journal(path)
        self.history = History(path)
        self.recorder = self.another()

    def another(self) -> Recorder:
        return Recorder(
            self.path, self.store, notice=self.notices.append, wall_ms=lambda: self.now_ms
        )

    def tell(self, what: str, transfer: str = "", **fields: str) -> Event:
        event = Event(at_ms=self.now_ms, what=what, transfer=transfer, **fields)
        self.journal.add(event)
        return event

    def end(self, how: str = "done", number: int = 0, source: str = "bob:docs/a") -> str:
        """A job that ended so; the store tells the journal."""
        self.store.add((source,), f"/srv/in/{number}", created_ms=self.now_ms + number, by="ann@h")
        claim = self.store.claim()
        assert claim is not None
        if how == "done":
            self.store.complete(claim, size_bytes=7, content_digest="ab")
        else:
            self.store.fail(claim, "NotFound", "bob has no docs/a")
        return claim.job.job_id

    def told(self) -> list[str]:
        """What the moments say, oldest first."""
        with sqlite3.connect(f"file:{self.path / NAME}?mode=ro", uri=True) as base:
            found = [row[0] for row in base.execute("SELECT detail FROM moments ORDER BY number")]
        base.close()
        return found

    def close(self) -> None:
        self.recorder.close()
        self.store.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    opened = Site(tmp_path)
    yield opened
    opened.close()


def test_nothing_was(site: Site) -> None:
    """No file, an empty one: no error, and nothing."""
    assert ([], [], [], 0, None) == (
        site.history.transfers(Wanted()),
        site.history.audit(),
        site.history.timeline("x"),
        site.history.count(Wanted()),
        site.history.find("x"),
    )
    assert site.recorder.record()
    assert 0 == site.history.count(Wanted())


def test_what_ended_is_remembered(site: Site) -> None:
    """With its figures, its reason and its timeline."""
    good, bad = site.end(), site.end("failed", 1)
    site.recorder.record()

    found = site.history.find(good)
    assert found is not None
    assert ("done", "", 7, "ab", ("bob:docs/a",), "bob", "/srv/in/0", "ann@h") == (
        found.state,
        found.reason,
        found.size_bytes,
        found.digest,
        found.sources,
        found.peer,
        found.destination,
        found.by,
    )
    failed = site.history.find(bad)
    assert failed is not None
    assert ("failed", "not_found", "bob has no docs/a") == (
        failed.state,
        failed.reason,
        failed.detail,
    )
    assert ["queued", "started", "failed"] == [each.what for each in site.history.timeline(bad)]


def test_the_same_job_again_is_one_transfer(site: Site) -> None:
    """Failed, retried and done: as it last ended, and all of its moments."""
    job_id = site.end("failed")
    site.recorder.record()
    site.store.retry(job_id, "ann@h")
    claim = site.store.claim()
    assert claim is not None
    site.store.complete(claim)
    site.recorder.record()

    assert ["done"] == [each.state for each in site.history.transfers(Wanted())]
    assert ["queued", "started", "failed", "retried", "started", "done"] == [
        each.what for each in site.history.timeline(job_id)
    ]
    assert [("retried", "ann@h")] == [(each.what, each.by) for each in site.history.audit()]


def test_a_line_that_comes_before_its_file(site: Site) -> None:
    """The journal says done, and the job's file is still on its way."""
    site.store.add(("bob:docs/a",), "/srv/in", created_ms=NOW_MS)
    claim = site.store.claim()
    assert claim is not None
    site.tell("done", claim.job.job_id)
    site.recorder.record()
    assert 0 == site.history.count(Wanted())

    site.store.complete(claim)
    site.recorder.record()
    assert 1 == site.history.count(Wanted())


def test_jobs_that_ended_while_nobody_recorded(site: Site) -> None:
    """Of an earlier version, say, that wrote no journal: found at the beginning."""
    for number in range(3):
        site.end(number=number)
    os.unlink(site.journal.path)
    site.recorder.record()

    assert 3 == site.history.count(Wanted())


def test_what_nobody_recorded_yet_is_in_the_timeline(site: Site) -> None:
    """With nothing running, too."""
    site.tell("queued", "x")
    site.recorder.record()
    site.recorder.close()
    site.tell("started", "x")
    site.tell("started", "y")

    assert ["queued", "started"] == [each.what for each in site.history.timeline("x")]


def test_pages_orders_and_filters(site: Site) -> None:
    """The latest first unless asked otherwise; text letter case aside."""
    ids = [site.end("done" if n % 2 else "failed", n, f"bob:docs/Straße {n}") for n in range(6)]
    site.recorder.record()

    def found(wanted: Wanted, **query: object) -> list[int]:
        rows = site.history.transfers(wanted, **query)  # type: ignore[arg-type]
        return [ids.index(each.id) for each in rows]

    assert [1, 3, 5] == sorted(found(Wanted(states=("done",))))
    assert [0, 2, 4] == sorted(found(Wanted(reasons=("not_found",), peer="bob")))
    assert [] == found(Wanted(peer="carol"))
    assert [4] == found(Wanted(text="STRASSE 4"))
    assert [2] == found(Wanted(ids=(ids[2], "x")))
    assert [0, 1, 2] == found(Wanted(), order="created", descending=False, rows=3)
    assert [3, 4, 5] == found(Wanted(), order="created", descending=False, rows=3, first=3)
    assert 3 == site.history.count(Wanted(states=("failed",)))


def test_one_records_at_a_time(site: Site) -> None:
    """Another may when the first lets go, and goes on where that was."""
    second = site.another()
    site.tell("queued", "x", detail="1")
    assert site.recorder.record()
    assert not second.record()
    site.recorder.close()
    site.tell("started", "x", detail="2")

    assert second.record()
    assert ["1", "2"] == site.told()
    second.close()


def test_old_history_is_forgotten(site: Site) -> None:
    """Successes after a season, failures and the audit after more than a year."""
    done, failed = site.end(), site.end("failed", 1)
    site.tell("peer_frozen", by="ann@h", subject="bob")
    site.tell("queued", "never ended")
    site.recorder.record()

    site.now_ms += KEEP_DONE_MS + DAY_MS
    site.recorder.record()
    assert (None, []) == (site.history.find(done), site.history.timeline(done))
    assert [] == site.history.timeline("never ended")
    assert site.history.find(failed) is not None
    assert 1 == site.history.count_audit()

    site.now_ms = NOW_MS + KEEP_MS + DAY_MS
    site.recorder.record()
    assert (None, []) == (site.history.find(failed), site.history.timeline(failed))
    assert 0 == site.history.count_audit()


def test_history_is_bounded_in_number(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of successes the latest stay, in whatever small steps they go; failures all."""
    monkeypatch.setattr(recorder, "MAX_DONE", 4)
    monkeypatch.setattr(recorder, "PRUNE_ROWS", 2)
    for number in range(9):
        site.now_ms = NOW_MS + number
        site.end()
    site.end("failed", 1)
    site.now_ms += PRUNE_EVERY_MS
    site.recorder.record()

    assert (4, 1) == tuple(
        site.history.count(Wanted(states=(each,))) for each in ("done", "failed")
    )
    assert NOW_MS + 8 == site.history.transfers(Wanted(states=("done",)))[0].ended_ms


@pytest.mark.parametrize("damage", ["garbage", "torn"])
def test_a_damaged_file_is_moved_away(site: Site, damage: str) -> None:
    """With a notice; what the journal still has comes again, and the jobs that ended."""
    job_id = site.end()
    for number in range(300):
        site.tell("queued", f"t{number}", detail=str(number))
    site.recorder.record()
    site.recorder.close()
    path = site.path / NAME
    if damage == "garbage":
        path.write_bytes(b"no database, and long enough to be looked at" * 100)
    else:
        raw = bytearray(path.read_bytes())
        raw[4096:] = b"\xa5" * (len(raw) - 4096)
        path.write_bytes(raw)
    with pytest.raises(StorageError):
        site.history.transfers(Wanted())

    assert site.recorder.record()
    assert 1 == len(site.notices)
    assert [str(each) for each in range(300)] == [each for each in site.told() if each]
    assert site.history.find(job_id) is not None
    assert 1 == len(list(site.path.glob("history.db.damaged-*")))


def test_a_file_of_a_later_version_is_left_alone(site: Site) -> None:
    """Neither written nor moved: that version wants it back."""
    site.recorder.record()
    site.recorder.close()
    with sqlite3.connect(site.path / NAME) as base:
        base.execute("PRAGMA user_version = 99")
    base.close()

    for attempt in (site.recorder.record, lambda: site.history.count(Wanted())):
        with pytest.raises(LaterVersion):
            attempt()
    assert [] == list(site.path.glob("history.db.damaged-*"))


def test_a_full_disk_loses_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines stay in the journal; once there is room they come, once each."""
    site.tell("queued", "x", detail="0")
    site.recorder.record()
    base = site.recorder._connection
    assert base is not None
    pages = base.execute("PRAGMA page_count").fetchone()[0]
    base.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(1, 200):
        site.tell("queued", "x", detail=str(number))
    with pytest.raises(StorageError, match="full"):
        site.recorder.record()
    base.execute("PRAGMA max_page_count = 1000000")

    site.recorder.record()
    assert [str(each) for each in range(200)] == site.told()


def test_killed_at_every_statement(tmp_path: Path) -> None:
    """No line is lost and none comes twice; what a killed writer left half done can be read."""
    step = 0
    while True:
        step += 1
        site = Site(tmp_path / str(step))
        for number in range(3):
            site.tell("queued", f"t{number}", detail=str(number))
        job_id = site.end()
        die = partial(_record_and_die, site, step)
        ended = run_in_child(die)

        site.history.transfers(Wanted())
        assert ["queued"] == [each.what for each in site.history.timeline("t0")]
        site.recorder.record()
        told = ["0", "1", "2", "", "", ""]
        assert (told, True) == (site.told(), site.history.find(job_id) is not None)
        site.close()
        if ended == 0:
            break
        assert -signal.SIGKILL == ended
    assert step > 10


def _record_and_die(site: Site, step: int) -> None:
    """Killed before the nth statement."""
    left = [step]

    def traced(_: str) -> None:
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    real: Callable[..., sqlite3.Connection] = sqlite3.connect

    def connect(*arguments: object, **keywords: object) -> sqlite3.Connection:
        connection = real(*arguments, **keywords)
        connection.set_trace_callback(traced)
        # small: so that a transaction is on disk before its end
        connection.execute("PRAGMA cache_size = 1")
        return connection

    sqlite3.connect = connect  # type: ignore[assignment]
    site.recorder.record()
