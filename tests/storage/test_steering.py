"""What people do with jobs, at once or by a wish, and what processes that died leave of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkq.errors import NotFound, StorageError, UsageError
from chunkq.protocol.condition import Reason
from chunkq.storage import keeping
from chunkq.storage.job import Job, JobClaim, mark_of
from chunkq.storage.jobs import JobState, JobStore
from chunkq.storage.journal import Journal
from tests.storage.crashes import killed_at_every_step

NOW_MS = 1_700_000_000_000
SOURCES = ("alpha:docs/a", "beta:docs/a")
BY = "ann@here"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore(tmp_path, sleep=lambda _: None)
    yield opened
    opened.close()


def add(store: JobStore, number: int = 0, **options: str) -> str:
    sources = (f"alpha:docs/{number}",)
    return store.add(sources, "/srv/in", options=options, created_ms=NOW_MS + number).job_id


def begin(store: JobStore, created_ms: int = NOW_MS, **more: Any) -> JobClaim:
    return store.begin(SOURCES, "/srv/in/a", created_ms=created_ms, by=BY, **more)


def claimed(store: JobStore) -> JobClaim:
    claim = store.claim()
    assert claim is not None
    return claim


def at(store: JobStore, job_id: str) -> str:
    job = store.find(job_id)
    assert job is not None
    return job.state


def die(claim: JobClaim) -> None:
    """As the end of its process does."""
    os.close(claim.fd)


# ------------------------------------------------------------ at once


def test_paused_resumed_cancelled_retried(store: JobStore, tmp_path: Path) -> None:
    """Each takes effect at once, twice is once, and the journal tells each once."""
    job_id = add(store)
    steps: tuple[tuple[Callable[[], Job], str, str], ...] = (
        (lambda: store.pause(job_id, BY), "paused", "by_operator"),
        (lambda: store.resume(job_id, BY), "pending", ""),
        (lambda: store.cancel(job_id, BY), "cancelled", "by_operator"),
        (lambda: store.retry(job_id, BY), "pending", ""),
        (lambda: store.set_priority(job_id, "urgent", BY), "pending", ""),
    )
    for act, state, reason in steps:
        first = act()
        assert (state, reason, BY) == (first.state, first.reason, first.changed_by)
        assert first == act() == store.find(job_id)

    mine = [event.what for event in Journal(tmp_path).read()[0] if event.by == BY]
    assert ["paused", "resumed", "cancelled", "retried", "priority"] == mine
    assert "urgent" == claimed(store).job.priority


def test_what_waits_for_nobody_is_claimed_by_nobody(store: JobStore) -> None:
    """Paused and cancelled jobs stay where they are; urgent ones go first."""
    ids = [add(store, number, priority="bulk" if number == 1 else "normal") for number in range(5)]
    store.pause(ids[0], BY)
    store.cancel(ids[2], BY)
    store.set_priority(ids[4], "urgent", BY)

    assert [ids[4], ids[3], ids[1]] == [each.job.job_id for each in iter(store.claim, None)]


@pytest.mark.parametrize("end", ["complete", "fail", "cancel"])
def test_what_makes_no_sense_is_refused(store: JobStore, end: str) -> None:
    """With a message that says where the job stands; nothing changes."""
    job_id = add(store)
    claim = claimed(store)
    if end == "complete":
        store.complete(claim)
    elif end == "fail":
        store.fail(claim, "NotFound", "no such file")
    else:
        store.leave_cancelled(claim, BY)
    before = store.find(job_id)
    refused = [lambda: store.pause(job_id, BY), lambda: store.resume(job_id, BY)]
    if end == "complete":
        refused += [lambda: store.cancel(job_id, BY), lambda: store.retry(job_id, BY)]
    if end != "fail":
        refused.append(lambda: store.set_priority(job_id, "bulk", BY))
    for act in refused:
        with pytest.raises(StorageError, match=f"{job_id} is {at(store, job_id)}: "):
            act()
    assert before == store.find(job_id)


def test_nobody_and_nonsense(store: JobStore) -> None:
    """No such job, no such priority."""
    for strange in ("", "x", "../../x", f"{NOW_MS}-00000000", "x" * 5000):
        for act in (store.pause, store.resume, store.cancel, store.retry):
            with pytest.raises(NotFound):
                act(strange, BY)
    with pytest.raises(UsageError, match="asap"):
        store.set_priority(add(store), "asap", BY)


def test_a_job_whose_turn_has_not_come_is_tried_now(store: JobStore) -> None:
    """It waits after an error; who retries it does not wait."""
    job_id = add(store)
    store.give_back(claimed(store), "PeerSilent", "no answer")
    assert store.claim(skip=(job_id,)) is None

    store.retry(job_id, BY)

    again = store.claim(skip=(job_id,))
    assert again is not None
    assert 0 == again.job.attempts


# ------------------------------------------------------------ of a job that a process has


def test_a_wish_waits_for_who_has_the_job(store: JobStore) -> None:
    """The job stays in hand, and its wish is there until it is let go of."""
    job_id = add(store)
    claim = claimed(store)

    assert "running" == store.pause(job_id, BY).state
    assert "running" == store.set_priority(job_id, "bulk", BY).state
    assert ["pause", "priority"] == [wish.want for wish in store.control.wishes()]
    store.leave_paused(claim, Reason.BY_OPERATOR, BY)

    job = store.find(job_id)
    assert job is not None
    assert ("paused", "bulk", BY) == (job.state, job.priority, job.changed_by)
    assert [] == store.control.wishes()


@pytest.mark.parametrize("want", ["pause", "cancel"])
@pytest.mark.parametrize("end", ["dies", "gives back", "fails", "is done"])
def test_who_lets_go_without_looking(store: JobStore, want: str, end: str) -> None:
    """A wish that nobody saw holds all the same, except where the job has ended."""
    job_id = add(store)
    claim = claimed(store)
    act = store.pause if want == "pause" else store.cancel
    act(job_id, BY)

    if end == "dies":
        die(claim)
        assert store.claim() is None
    elif end == "gives back":
        store.give_back(claim, "PeerSilent", "no answer")
    elif end == "fails":
        store.fail(claim, "NotFound", "no such file")
    else:
        store.complete(claim)

    wanted = "paused" if want == "pause" else "cancelled"
    expected = {"fails": "failed", "is done": "done"}.get(end, wanted)
    assert expected == at(store, job_id)
    assert [] == store.control.wishes()
    assert store.claim() is None


def test_resumed_before_anybody_looked(store: JobStore) -> None:
    """The wish to pause is gone, and nothing stops."""
    job_id = add(store)
    claim = claimed(store)
    store.pause(job_id, BY)
    store.resume(job_id, BY)

    assert [] == store.control.wishes()
    assert "done" == store.complete(claim).state


def test_a_wish_left_when_the_job_was_just_given_back(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the wish its process lets go of it: the next thing is done at once."""
    job_id = add(store)
    claim = claimed(store)
    real = store.control.wish

    def late(wish: Any) -> None:
        monkeypatch.undo()
        JobStore(tmp_path).give_back(claim)
        real(wish)

    monkeypatch.setattr(store.control, "wish", late)
    assert "paused" == store.pause(job_id, BY).state
    assert [] == store.control.wishes()
    assert store.claim() is None


def test_a_priority_given_to_a_job_in_hand(store: JobStore) -> None:
    """Its process writes it down and keeps the job."""
    add(store)
    claim = claimed(store)
    store.reprioritise(claim, "urgent", BY)
    store.recover()

    assert "urgent" == claim.job.priority
    assert [claim.job] == store.jobs(JobState.RUNNING)
    assert ("done", "urgent") == ((done := store.complete(claim)).state, done.priority)


# ------------------------------------------------------------ what a program begins itself


def test_what_was_begun_and_left_is_paused(store: JobStore) -> None:
    """No worker takes it; the same command goes on with it, another does not."""
    first = begin(store)
    job_id = first.job.job_id
    die(first)

    assert store.claim() is None
    assert ("paused", Reason.INTERRUPTED) == (at(store, job_id), store.jobs(JobState.PAUSED)[0].why)
    other = store.begin(SOURCES[:1], "/srv/in/a", created_ms=NOW_MS + 1)
    again = begin(store, NOW_MS + 2)

    assert job_id != other.job.job_id
    assert (job_id, NOW_MS, True) == (
        again.job.job_id,
        again.job.created_ms,
        again.job.foreground,
    )


@pytest.mark.parametrize("end", ["paused", "failed", "cancelled", "retried", "orphan"])
def test_the_same_command_takes_over(store: JobStore, tmp_path: Path, end: str) -> None:
    """Wherever it had got to, by whichever process; only one that is done is done."""
    claim = begin(store)
    if end == "paused":
        store.leave_paused(claim, Reason.INTERRUPTED)
    elif end == "cancelled":
        store.leave_cancelled(claim, BY)
    elif end == "orphan":
        die(claim)
    else:
        store.fail(claim, "PeerSilent", "no answer")
        if end == "retried":
            store.retry(claim.job.job_id, BY)
    other = JobStore(tmp_path)

    again = begin(other, NOW_MS + 5)
    assert claim.job.job_id == again.job.job_id
    assert 1 == sum(1 for _ in other.scan())
    other.complete(again)
    anew = begin(other, NOW_MS + 6)
    assert claim.job.job_id != anew.job.job_id
    other.close()


def test_two_that_begin_the_same_at_once(store: JobStore, tmp_path: Path) -> None:
    """Two jobs: the second learns from the transfer itself that another is at it."""
    other = JobStore(tmp_path)
    ids = {begin(store).job.job_id, begin(other).job.job_id}

    assert 2 == len(ids)
    assert {mark_of(SOURCES, "/srv/in/a")} == {job_id[-8:] for job_id in ids}
    other.close()


def test_resumed_by_an_operator_a_worker_does_it(store: JobStore) -> None:
    """And if that dies, it is a job from the queue like any other."""
    claim = begin(store)
    store.leave_paused(claim, Reason.INTERRUPTED)
    store.resume(claim.job.job_id, BY)

    die(claimed(store))

    assert claim.job.job_id == claimed(store).job.job_id


def test_what_only_was_interrupted_is_bounded(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program may never come back to what it began; what somebody paused stays."""
    monkeypatch.setattr(keeping, "MAX_PAUSED", 3)
    kept = add(store)
    store.pause(kept, BY)
    for number in range(6):
        claim = store.begin((f"alpha:docs/{number}",), "/x", created_ms=NOW_MS + number)
        store.leave_paused(claim, Reason.INTERRUPTED)

    left = {job.job_id: job.reason for job in store.jobs(JobState.PAUSED)}
    assert "by_operator" == left[kept]
    assert 4 == len(left)


def test_jobs_of_earlier_versions(store: JobStore, tmp_path: Path) -> None:
    """They had none of the later fields."""
    job_id = f"{NOW_MS}-0123abcd"
    fields = {"job_id": job_id, "sources": ["a:s/f"], "destination": "/x", "attempts": 2}
    (tmp_path / "jobs" / "pending" / f"{job_id}.json").write_text(json.dumps(fields))

    assert ("paused", "") == ((job := store.pause(job_id, BY)).state, job.origin)
    store.resume(job_id, BY)
    assert "done" == store.complete(claimed(store), size_bytes=7).state


# ------------------------------------------------------------ crashes

ACTS: dict[str, tuple[str, Callable[[JobStore, str], object]]] = {
    "pause": ("pending", lambda store, job_id: store.pause(job_id, BY)),
    "cancel": ("pending", lambda store, job_id: store.cancel(job_id, BY)),
    "priority": ("pending", lambda store, job_id: store.set_priority(job_id, "bulk", BY)),
    "resume": ("paused", lambda store, job_id: store.resume(job_id, BY)),
    "retry": ("failed", lambda store, job_id: store.retry(job_id, BY)),
    "begin": ("paused", lambda store, _: store.complete(begin(store, NOW_MS + 9))),
}


@pytest.mark.parametrize("act", ACTS)
def test_kill_at_every_step_of_what_people_do(tmp_path: Path, act: str) -> None:
    """The job is what it was, or what it was to be; in one place that counts, and claimed once."""
    before, work = ACTS[act]
    after = {"pause": "paused", "cancel": "cancelled", "begin": "done"}.get(act, "pending")
    ids: list[str] = []

    def reset() -> None:
        for each in (tmp_path / "jobs").rglob("*.*"):
            each.unlink()
        store = JobStore(tmp_path)
        claim = begin(store)
        ids[:] = [claim.job.job_id]
        if before == "failed":
            store.fail(claim, "x", "y")
        else:
            store.leave_paused(claim, Reason.INTERRUPTED)
            if before == "pending":
                store.resume(ids[0], BY)
        store.close()

    def check(step: int) -> None:
        store = JobStore(tmp_path)
        store.recover()
        places = [state for state, name, _ in store.scan() if name.startswith(ids[0])]
        assert 1 == len(places), step
        assert places[0] in {before, after}, step
        assert places[0] == at(store, ids[0])
        taken = [each.job.job_id for each in iter(store.claim, None)]
        assert ids * (places[0] == "pending") == taken, step
        store.close()

    assert killed_at_every_step(lambda: work(JobStore(tmp_path), ids[0]), check, reset) >= 4
