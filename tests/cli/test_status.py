"""`chunkq status` and `chunkq history`: where each transfer stands and why, what was, live."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.api.operating import NOW_MS, Operated
from tests.support.pair import DEADLINE_S, OFTEN, Pair, part_way, until
from tests.support.quick import quick

MIB = 1 << 20


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Operated]:
    """A site with whatever a test leaves on its disk, and nothing running."""
    opened = Operated(tmp_path)
    yield opened
    opened.close()


def said(site: Operated, *words: str) -> str:
    return quick(*site.arguments("alice"), *words)


def objects(site: Operated, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(site, *words, "--json").splitlines()]


def test_nothing(pair: Pair) -> None:
    """Says so, on stderr; JSON says nothing."""
    plain, as_json = pair.alice.run("status"), pair.alice.run("status", "--json")

    assert (0, "", "nothing is under way, and no job waits\n") == (plain.code, plain.out, plain.err)
    assert (0, "", "") == (as_json.code, as_json.out, as_json.err)


def test_a_transfer_under_way_and_killed(pair: Pair) -> None:
    """State, how far, from where, to where; while it runs and after it was killed."""
    pair.offer("big", os.urandom(16 * MIB))
    worker = pair.serve()
    getting = pair.alice.start("get", "bob:docs/big", str(pair.inbox), **OFTEN)
    found = part_way(pair, worker, getting)

    (running,) = pair.alice.run("status", "--json").objects
    assert running["state"] in ("running", "stalled")  # the origin stands still
    assert ("transfer", "bob:docs/big", str(pair.inbox / "big"), 64) == (
        running["type"],
        running["source"],
        running["destination"],
        running["chunks_total"],
    )
    assert running["chunks_present"] >= found.chunks_present

    getting.end()
    until(lambda: pair.alice.run("status", "--json").objects[0]["state"] == "paused")
    table = pair.alice.run("status").out.splitlines()
    assert ["ID", "STATE", "REASON", "DONE", "RATE", "ETA", "NAME"] == table[0].split()
    assert ["paused", "interrupted"] == table[1].split()[1:3]
    assert "bob:big" == table[1].split()[-1]

    worker.send(signal.SIGCONT)
    assert pair.get("bob:docs/big", str(pair.inbox)).code == 0
    assert "" == pair.alice.run("status").out


def test_a_damaged_state_file_is_named_and_mended(pair: Pair) -> None:
    """Both slots bad: the next run reads the part file again, and nothing is lost."""
    content = os.urandom(16 * MIB)
    pair.offer("big", content)
    worker = pair.serve()
    getting = pair.alice.start("get", "bob:docs/big", str(pair.inbox), **OFTEN)
    part_way(pair, worker, getting)
    getting.end()
    (state,) = (pair.inbox / ".chunkq").glob("*.state")
    with state.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(state.stat().st_size - 4096))

    until(lambda: pair.alice.run("status", "--json").objects[0]["state"] == "paused")
    (damaged,) = pair.alice.run("status", "--json").objects
    worker.send(signal.SIGCONT)
    done = pair.alice.run("--json", "get", "bob:docs/big", str(pair.inbox))

    assert "neither copy of the state is whole" in damaged["detail"]
    assert done.code == 0, done.out
    assert done.objects[-1]["new_bytes"] < 16 * MIB
    assert content == (pair.inbox / "big").read_bytes()


def test_the_list_fits_80_columns_and_names_the_cause(site: Operated) -> None:
    """What needs somebody first; below a row what is to be said; filters as with `pause`."""
    site.job("bob:docs/long-name-of-a-report.pdf", "x", 1)
    failed = site.job("carol:docs/b", "b", 0)
    site.store.fail(site.store.claim(), "NotFound", "carol has no docs/b")
    done = site.job("bob:docs/c", "c", -1)
    site.store.complete(site.store.claim(), size_bytes=10)
    lines = said(site, "status").splitlines()

    assert [failed.partition("-")[2], "failed", "not_found"] == lines[1].split()[:3]
    assert "carol has no docs/b" == lines[2].strip()
    assert ["queued", "no_worker"] == lines[3].split()[1:3]
    assert 4 == len(lines)
    assert all(len(line) <= 80 for line in lines)

    assert [failed] == [each["id"] for each in objects(site, "status", "--peer", "carol")]
    assert [failed] == [each["id"] for each in objects(site, "status", "--reason", "not_found")]
    assert [done] == [each["id"] for each in objects(site, "status", "--state", "done")]
    assert 3 == len(objects(site, "status", "--all"))
    assert [] == objects(site, "status", "--text", "nowhere")


def test_one_in_full(site: Operated) -> None:
    """By id, its beginning, or its source: pieces in words, timeline, files, commands."""
    job = site.job("bob:docs/a", "a")
    claim = site.store.claim()
    staged = site.stage(present=(0, 1, 5))
    quick(*site.arguments("alice"), "prio", "urgent", job)
    texts = {said(site, "status", name) for name in (job, job.partition("-")[2][:5], "bob:docs/a")}
    (text,) = texts

    assert "3 of 20, contiguous to 2, 2 gaps" in text
    assert "##...#.............." in text
    assert staged.path_of(".state") in text
    assert re.search(rf"pause: .*chunkq .*pause {job}", text)
    (told,) = objects(site, "status", job)
    assert ("3 of 20, contiguous to 2, 2 gaps", [job]) == (
        told["pieces"]["text"],
        [told["id"]],
    )
    os.close(claim.fd)


def test_a_transfer_that_is_none(pair: Pair) -> None:
    """Exit code 4 and what to do."""
    found = pair.alice.run("status", "nonsense")

    assert 4 == found.code
    assert "no transfer 'nonsense'" in found.err


def test_names_from_a_peer_are_text(site: Operated) -> None:
    """Control characters reach no terminal."""
    site.job("bob:docs/a\x1b[2J", "a")

    assert "\x1b" not in said(site, "status") + said(site, "status", "bob:docs/a\x1b[2J")


def test_history_and_audit(site: Operated) -> None:
    """What ended, the latest first; who did what; with nothing running and no recorder."""
    good = site.job("bob:docs/a", "a")
    site.store.complete(site.store.claim(), size_bytes=2048)
    bad = site.job("carol:docs/b", "b", 1)
    site.store.fail(site.store.claim(), "NotFound", "carol has no docs/b")
    quick(*site.arguments("alice"), "retry", bad)
    quick(*site.arguments("alice"), "cancel", bad)

    assert {good, bad} == {each["id"] for each in objects(site, "history")}
    assert [bad] == [each["id"] for each in objects(site, "history", "--peer", "carol")]
    assert [] == objects(site, "history", "--failed")
    table = said(site, "history")
    assert ["ENDED", "ID", "STATE", "REASON", "SIZE", "NAME"] == table.splitlines()[0].split()
    assert "2.0 KiB" in table
    audit = objects(site, "history", "--audit")
    assert [("cancelled", bad), ("retried", bad)] == [
        (each["what"], each["transfer"]) for each in audit
    ]
    assert all(each["by"] for each in audit)
    assert "retried" in said(site, "history", "--audit")


def test_watching_tells_each_change(site: Operated) -> None:
    """A line each where there is no terminal: what is there, what came of it, what went."""
    job = site.job()
    watching = Watching(site, "status", "--watch", "--json")
    assert (job, "queued") == watching.next("id", "state")
    site.store.pause(job, "erin@host")
    assert (job, "paused") == watching.next("id", "state")
    site.store.cancel(job, "erin@host")
    assert ("gone", job) == watching.next("type", "id")

    assert (130, "") == watching.interrupt()


def test_watching_on_a_terminal(site: Operated) -> None:
    """Drawn in place; Ctrl-C ends it without a traceback, with the cursor shown again."""
    job = site.job()
    watching = Watching(site, "status", "--watch", terminal=True)
    watching.until_drawn("queued")
    site.store.pause(job, "erin@host")
    watching.until_drawn("paused")
    code, text = watching.interrupt()

    assert 130 == code
    assert "Traceback" not in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_watching_ends_with_its_reader(site: Operated) -> None:
    """As with `| head -1`, though nothing changes any more."""
    site.job()
    watching = Watching(site, "status", "--watch", "--json")
    watching.next("id")

    assert 1 == watching.abandon()


class Watching:
    """`chunkq status --watch` as a process of its own."""

    def __init__(self, site: Operated, *words: str, terminal: bool = False) -> None:
        arguments = [sys.executable, "-m", "chunkq.cli.main", *site.arguments("alice"), *words]
        if terminal:
            self._out, end = os.openpty()
        else:
            self._out, end = os.pipe()
        self._process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=end,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        )
        os.close(end)
        self._text = ""
        self._at = 0

    def next(self, *names: str) -> tuple[str, ...]:
        """Fields of the next object."""
        self._read_until(lambda: "\n" in self._text[self._at :])
        line, _, _ = self._text[self._at :].partition("\n")
        self._at += len(line) + 1
        found = json.loads(line)
        return tuple(found[name] for name in names)

    def until_drawn(self, word: str) -> None:
        self._read_until(lambda: word in self._text)

    def abandon(self) -> int:
        """Read no more; the exit code."""
        os.close(self._out)
        return self._process.wait(DEADLINE_S)

    def interrupt(self) -> tuple[int, str]:
        """The exit code, and all that is left to be read."""
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(DEADLINE_S)
        while self._read():
            pass
        os.close(self._out)
        return code, self._text[self._at :]

    def _read_until(self, condition: Any) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, self._text
            assert select.select([self._out], [], [], DEADLINE_S)[0], self._text
            assert self._read(), self._text

    def _read(self) -> bool:
        try:
            got = os.read(self._out, 65536)
        except OSError:  # a terminal whose other end is gone
            return False
        self._text += got.decode(errors="replace")
        return bool(got)


def test_processes(site: Operated) -> None:
    """Those that report; nobody, and it is said."""
    from chunkq.storage.reports import Reports
    from tests.api.operating import a_report

    assert "" == said(site, "status", "--workers")
    Reports(site.state).write(a_report(instance="here-1", at_ms=NOW_MS))
    (worker,) = objects(site, "status", "--workers")
    assert ("worker", "here-1", "requester", True) == (
        worker["type"],
        worker["instance"],
        worker["role"],
        worker["alive"],
    )
    assert "here-1" in said(site, "status", "--workers")
