"""Steering transfers of real processes from the command line."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkq.storage.control import Control
from chunkq.storage.jobs import Job, JobStore
from chunkq.storage.journal import Journal
from chunkq.storage.reports import Reports
from tests.support.pair import OFTEN, Pair, Running, part_way, until

MIB = 1 << 20
SIZE = 12 * MIB


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Pair, Running, Running]]:
    """Two sites, an origin and a requester worker; for all tests that leave them running."""
    pair = Pair(tmp_path_factory.mktemp("control"))
    serving = pair.serve()
    working = pair.alice.start("work", **OFTEN)
    yield pair, serving, working
    pair.close()


@pytest.fixture(autouse=True)
def afterwards(both: tuple[Pair, Running, Running]) -> Iterator[None]:
    """A test that failed half way leaves nothing frozen, stopped or begun for the next."""
    yield
    pair, serving, _ = both
    for actor in (pair.alice, pair.bob):
        control = Control(actor.state)
        for kind, name in control.frozen():
            control.thaw(kind, name)
        control.close()
    if serving.alive:
        serving.send(signal.SIGCONT)


def job(pair: Pair, source: str) -> Job:
    """The newest of that source."""
    store = JobStore(pair.alice.state)
    try:
        found = [store.read(state, name) for state, name, _ in store.scan()]
        named = [each for each in found if each is not None and source in each.sources]
        return max(named, key=lambda each: each.job_id)
    finally:
        store.close()


def until_state(pair: Pair, source: str, state: str) -> Job:
    until(lambda: job(pair, source).state == state)
    return job(pair, source)


def steer(pair: Pair, *args: str) -> list[dict[str, Any]]:
    import json

    return [json.loads(line) for line in pair.alice.quick(*args, "--json").splitlines()]


def told(pair: Pair, job_id: str) -> list[str]:
    """What the journal says of a transfer."""
    events, _ = Journal(pair.alice.state).read()
    return [event.what for event in events if event.transfer == job_id]


def half_way(both: tuple[Pair, Running, Running], name: str, *options: str) -> tuple[str, bytes]:
    """A queued transfer that the worker has in hand, some of it committed; the origin stands."""
    pair, serving, working = both
    content = os.urandom(SIZE)
    pair.offer(name, content)
    source = f"bob:docs/{name}"
    pair.alice.quick("get", "--queue", *options, source, str(pair.inbox / name))
    part_way(pair, serving, working)
    return source, content


def staged(pair: Pair) -> list[Path]:
    return list((pair.inbox / ".chunkq").glob("*"))


def test_paused_and_resumed(both: tuple[Pair, Running, Running]) -> None:
    """It stops while its worker goes on, says who did it, and comes whole when resumed."""
    pair, serving, working = both
    source, content = half_way(both, "rested")

    [asked] = steer(pair, "pause", source)
    paused = until_state(pair, source, "paused")
    kept = pair.transfers()[0]
    again = steer(pair, "pause", source)
    serving.send(signal.SIGCONT)
    pair.alice.quick("resume", source)
    done = until_state(pair, source, "done")

    assert ("pausing", "running") == (asked["outcome"], asked["state"])
    assert ["paused"] == [each["outcome"] for each in again]
    assert "by_operator" == paused.why
    assert "@" in paused.changed_by
    assert not kept.locked
    assert kept.chunks_present > 0
    assert content == (pair.inbox / "rested").read_bytes()
    assert done.new_bytes < SIZE
    assert (SIZE, "") == (done.size_bytes, done.error_code)
    what = ["queued", "started", "paused", "resumed", "started", "done"]
    assert what == told(pair, done.job_id)
    assert working.alive


def test_cancelled_keeps_and_drops(both: tuple[Pair, Running, Running]) -> None:
    """What has come stays for a retry; with --drop it goes, also afterwards."""
    pair, serving, _ = both
    source, content = half_way(both, "given-up")

    pair.alice.quick("cancel", source)
    cancelled = until_state(pair, source, "cancelled")
    kept = staged(pair)
    serving.send(signal.SIGCONT)
    pair.alice.quick("retry", cancelled.job_id[-8:])
    done = until_state(pair, source, "done")
    other, _ = half_way(both, "unwanted")
    pair.alice.quick("cancel", "--drop", other)
    until_state(pair, other, "cancelled")
    dropped = staged(pair)
    serving.send(signal.SIGCONT)

    assert kept
    assert content == (pair.inbox / "given-up").read_bytes()
    assert done.new_bytes < SIZE
    assert [] == dropped
    assert not (pair.inbox / "unwanted").exists()


def test_priority_changes_under_way(both: tuple[Pair, Running, Running]) -> None:
    """The job and the transfer have it at once; afterwards the job says so."""
    pair, serving, _ = both
    source, content = half_way(both, "hurried", "--priority", "bulk")

    pair.alice.quick("prio", "urgent", source)
    until(lambda: job(pair, source).priority == "urgent")
    now = job(pair, source)
    serving.send(signal.SIGCONT)
    done = until_state(pair, source, "done")

    assert "running" == now.state
    assert "urgent" == done.priority
    assert content == (pair.inbox / "hurried").read_bytes()
    assert "priority" in told(pair, done.job_id)


def test_a_frozen_peer_is_left_alone_until_thawed(both: tuple[Pair, Running, Running]) -> None:
    """What is under way goes back with the reason, nothing is begun, and all goes on by itself."""
    pair, serving, _ = both
    source, content = half_way(both, "frozen")

    pair.alice.quick("peer", "freeze", "bob", "--why", "moving house")
    waiting = until_state(pair, source, "pending")
    serving.send(signal.SIGCONT)
    pair.offer("later", b"later")
    pair.alice.quick("get", "--queue", "bob:docs/later", str(pair.inbox / "later"))
    getting = pair.alice.start("--json", "get", "bob:docs/later", str(pair.inbox / "own"))
    until(lambda: job_in(pair, "bob:docs/later", "running"))
    getting.until_said("peer_frozen")
    still = job(pair, source).state
    pair.alice.quick("peer", "thaw", "bob")
    done = getting.wait()

    assert ("peer_frozen", 0) == (waiting.why, waiting.attempts)
    assert "pending" == still
    until_state(pair, source, "done")
    until(lambda: (pair.inbox / "later").exists())
    assert content == (pair.inbox / "frozen").read_bytes()
    assert (0, b"later") == (done.code, (pair.inbox / "own").read_bytes())


def job_in(pair: Pair, source: str, state: str) -> bool:
    store = JobStore(pair.alice.state)
    try:
        found = [store.read(where, name) for where, name, _ in store.scan() if where == state]
        return any(each is not None and source in each.sources for each in found)
    finally:
        store.close()


def test_an_origin_that_froze_a_peer_lets_it_wait(both: tuple[Pair, Running, Running]) -> None:
    """It is refused as busy, with why, and gets the file once it is thawed there."""
    pair, _, _ = both
    pair.offer("refused", b"refused")
    pair.bob.quick("peer", "freeze", "alice")
    until(lambda: Control(pair.bob.state).frozen())

    getting = pair.alice.start("--json", "get", "bob:docs/refused", str(pair.inbox / "refused"))
    getting.until_said("frozen here by its operator")
    pair.bob.quick("peer", "thaw", "alice")
    done = getting.wait()

    assert 0 == done.code
    assert b"refused" == (pair.inbox / "refused").read_bytes()


def test_a_get_that_somebody_pauses(both: tuple[Pair, Running, Running]) -> None:
    """It ends with 130, says who did it and how to go on; the same command does, then."""
    pair, serving, _ = both
    content = os.urandom(SIZE)
    pair.offer("mine", content)
    arguments = ("get", "bob:docs/mine", str(pair.inbox / "mine"))
    getting = pair.alice.start(*arguments, **OFTEN)
    part_way(pair, serving, getting)

    pair.alice.quick("pause", "bob:docs/mine")
    stopped = getting.wait()
    paused = job(pair, "bob:docs/mine")
    serving.send(signal.SIGCONT)
    again = pair.alice.run(*arguments)
    done = job(pair, "bob:docs/mine")

    assert 130 == stopped.code
    assert f"paused by {paused.changed_by}" in stopped.err
    assert f"chunkq resume {paused.job_id}" in stopped.err
    assert 0 == again.code
    assert "resuming at" in again.err
    assert content == (pair.inbox / "mine").read_bytes()
    assert (paused.job_id, "done") == (done.job_id, done.state)


def test_an_interrupted_get_is_paused(both: tuple[Pair, Running, Running]) -> None:
    """No worker snatches it, also not where it was killed; resumed, one goes on with it."""
    pair, serving, _ = both
    content = os.urandom(SIZE)
    pair.offer("cut", content)
    arguments = ("get", "bob:docs/cut", str(pair.inbox / "cut"))
    getting = pair.alice.start(*arguments, **OFTEN)
    part_way(pair, serving, getting)
    getting.send(signal.SIGINT)
    stopped = getting.wait()
    interrupted = job(pair, "bob:docs/cut")
    second = pair.alice.start(*arguments, **OFTEN)
    until(lambda: job(pair, "bob:docs/cut").state == "running")
    second.end()
    killed = until_state(pair, "bob:docs/cut", "paused")

    serving.send(signal.SIGCONT)
    pair.alice.quick("resume", "bob:docs/cut")
    done = until_state(pair, "bob:docs/cut", "done")

    assert 130 == stopped.code
    assert ("paused", "interrupted") == (interrupted.state, interrupted.why)
    assert "interrupted" == killed.why
    assert {interrupted.job_id} == {killed.job_id, done.job_id}
    assert content == (pair.inbox / "cut").read_bytes()


def test_by_filter_and_what_is_refused(both: tuple[Pair, Running, Running]) -> None:
    """Each is told of; 3 where some were refused, 4 where nothing is found, 2 for half a wish."""
    pair, _, _ = both
    pair.alice.quick("link", "freeze", "default")
    for number in range(3):
        source = f"bob:docs/of-many-{number}"
        pair.alice.quick("get", "--queue", source, str(pair.inbox / f"of-many-{number}"))

    paused = steer(pair, "pause", "--text", "OF-MANY", "--state", "queued", "--peer", "bob")
    resumed = steer(pair, "resume", *(each["id"] for each in paused[:2]))
    some = pair.alice.run("cancel", paused[0]["id"], "bob:docs/nowhere")
    none = pair.alice.run("retry", "--text", "nowhere at all")
    both_given = pair.alice.run("pause", "--all", paused[0]["id"])
    unknown = pair.alice.run("pause", "--state", "sleeping")
    several = pair.alice.run("cancel", "1")
    rest = steer(pair, "cancel", "--text", "of-many")
    pair.alice.quick("link", "thaw", "default")

    # a worker looks now and then whether one of them may go on
    assert {"paused", "pausing"} >= {each["outcome"] for each in paused}
    assert 3 == len(paused)
    assert 2 == len(resumed)
    refused = (some, none, both_given, unknown, several)
    assert [3, 4, 2, 2, 2] == [each.code for each in refused]
    assert "bob:docs/nowhere" in some.err
    assert f"cancelled: {paused[0]['id']}" in some.out
    assert {"cancelled", "cancelling"} >= {each["outcome"] for each in rest}
    assert 2 == len(rest)


def test_drained_workers_finish_what_they_have(both: tuple[Pair, Running, Running]) -> None:
    """Nothing new is taken; the transfer in hand is done, and both end with 0. The last test."""
    pair, serving, working = both
    source, content = half_way(both, "finished")
    pair.offer("untouched", b"untouched")
    names = {each.role: each.instance for each in Reports(pair.alice.state).read_all()}

    refused = pair.alice.run("drain", "nobody")
    pair.alice.quick("drain", names["requester"])
    working.until_said('"draining"')
    queued = "bob:docs/untouched"
    pair.alice.quick("get", "--queue", queued, str(pair.inbox / "untouched"))
    serving.send(signal.SIGCONT)
    ended = working.wait()
    pair.bob.quick("drain", "--all")
    served = serving.wait()

    assert 4 == refused.code
    assert [0, 0] == [ended.code, served.code]
    assert "done" == job(pair, source).state
    assert content == (pair.inbox / "finished").read_bytes()
    assert "pending" == job(pair, queued).state
    assert set() == Control(pair.alice.state).draining()


def test_a_state_is_the_one_that_status_shows(pair: Pair) -> None:
    """What a process has in hand and waits for a silent peer is stalled, and nothing else is."""
    pair.offer("quick", b"quick")
    pair.alice.quick("get", "--queue", "bob:docs/slow", str(pair.inbox / "slow"))
    working = pair.alice.start("work")
    until(lambda: [each["state"] for each in steer(pair, "status")] == ["stalled"])
    none = pair.alice.run("pause", "--state", "running")
    (paused,) = steer(pair, "pause", "--state", "stalled", "--reason", "peer_silent")
    until_state(pair, "bob:docs/slow", "paused")
    working.end()

    assert 4 == none.code
    assert "pausing" == paused["outcome"]
