"""Jobs left for a requester: each done once, none lost."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkq.errors import NotFound, StorageError, SyncFailed
from chunkq.storage import descriptors, jobfiles, jobs, keeping, locks
from chunkq.storage.jobs import JobState, JobStore
from tests.storage.crashes import killed_at_every_step

NOW_MS = 1_700_000_000_000

HOLDER = """
import sys
from chunkq.storage.jobs import JobStore
claim = JobStore(sys.argv[1]).claim()
print(claim.job.job_id, flush=True)
sys.stdin.read()
"""
WORKER = """
import sys
from chunkq.storage.jobs import JobStore
store = JobStore(sys.argv[1])
while (claim := store.claim()) is not None:
    print(claim.job.job_id, flush=True)
    if hash(claim.job.job_id) % 3 == 0 and claim.job.attempts == 0:
        store.give_back(claim, "busy", "later")
        continue
    print("did", claim.job.job_id, flush=True)
    store.complete(claim)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore(tmp_path)
    yield opened
    opened.close()


def add(store: JobStore, number: int = 0) -> str:
    return store.add((f"alpha:docs/{number}",), "/srv/in", created_ms=NOW_MS + number).job_id


def places(path: Path) -> dict[str, list[str]]:
    return {
        each.name: sorted(os.listdir(each))
        for each in (path / "jobs").iterdir()
        if os.listdir(each)
    }


def test_a_job_goes_from_pending_through_running_to_done(store: JobStore, tmp_path: Path) -> None:
    """With all that was said about it."""
    job = store.add(
        ("alpha:docs/a", "alpha:docs/ü"),
        "/srv/in",
        options={"overwrite": True, "patience_s": 3.5, "label": None},
        created_ms=NOW_MS,
    )
    assert [job] == store.jobs(JobState.PENDING)
    claim = store.claim()
    assert claim is not None
    assert [claim.job] == store.jobs(JobState.RUNNING)
    assert store.claim() is None

    store.complete(claim)

    [done] = store.jobs(JobState.DONE)
    assert (job.job_id, job.sources, job.options, 0) == (
        done.job_id,
        done.sources,
        done.options,
        done.attempts,
    )
    assert {"done": [f"{job.job_id}.json"]} == places(tmp_path)


@pytest.mark.parametrize("name", ["\udcff", "\udcff😀", 'a"b\n', "\\ud800"])
def test_a_destination_of_any_name(store: JobStore, name: str) -> None:
    """Whatever a file system allows, text or not."""
    job = store.add((f"alpha:docs/{name}",), f"/srv/{name}", created_ms=NOW_MS)

    claim = store.claim()

    assert claim is not None
    assert (job.sources, job.destination) == (claim.job.sources, claim.job.destination)


def test_the_oldest_is_taken_first(store: JobStore) -> None:
    """In the order in which they were left."""
    ids = [add(store, number) for number in (5, 1, 3)]

    taken = [claim.job.job_id for claim in iter(store.claim, None)]

    assert sorted(ids) == taken


def test_a_failed_job_keeps_its_reason_and_can_be_retried(store: JobStore) -> None:
    """From anew, by whoever asks."""
    job_id = add(store)
    claim = store.claim()
    assert claim is not None
    store.fail(claim, "not_found", "no such file")

    [failed] = store.jobs(JobState.FAILED)
    assert (1, "not_found", "no such file") == (
        failed.attempts,
        failed.error_code,
        failed.error_message,
    )
    renewed = store.retry(job_id)

    assert [renewed] == store.jobs(JobState.PENDING)
    assert (0, "") == (renewed.attempts, renewed.error_code)
    assert [] == store.jobs(JobState.FAILED)
    assert renewed == store.retry(job_id)
    for strange in ("nobody", "../../x", f"{NOW_MS}-00000000"):
        with pytest.raises(NotFound):
            store.retry(strange)


def test_a_job_given_back_is_tried_again(store: JobStore) -> None:
    """With its error it counts as an attempt, without (a stop) it does not."""
    add(store)
    for code, attempts in (("", 0), ("unreachable", 1), ("unreachable", 2)):
        claim = store.claim()
        assert claim is not None
        store.give_back(claim, code)
        [job] = store.jobs(JobState.PENDING)
        assert (attempts, code) == (job.attempts, job.error_code)


def test_a_killed_workers_claim_comes_back(store: JobStore, tmp_path: Path) -> None:
    """And one that kills its workers ends as failed."""
    job_id = add(store)
    for attempt in range(1, jobs.MAX_ATTEMPTS_LOST + 1):
        with subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as holder:
            assert holder.stdout is not None
            assert f"{job_id}\n" == holder.stdout.readline()
            store.recover()
            assert [] == store.jobs(JobState.PENDING)
            holder.kill()
            holder.wait()
        store.recover()
        last = attempt == jobs.MAX_ATTEMPTS_LOST
        [job] = store.jobs(JobState.FAILED if last else JobState.PENDING)
        assert (attempt, "worker_died") == (job.attempts, job.error_code)

    assert store.claim() is None


def test_waiting_for_a_silent_peer_is_no_death(store: JobStore, tmp_path: Path) -> None:
    """A job that was often given back is not given up when its worker is killed."""
    add(store)
    for _ in range(2 * jobs.MAX_ATTEMPTS_LOST):
        claim = store.claim()
        assert claim is not None
        store.give_back(claim, "PeerSilent", "bob: no answer")
    claim = store.claim()
    assert claim is not None

    os.close(claim.fd)  # as the end of its process does

    again = store.claim()
    assert again is not None
    assert (2 * jobs.MAX_ATTEMPTS_LOST + 1, 1) == (again.job.attempts, again.job.lost)


def test_what_a_killed_process_had_begun_to_write_goes(store: JobStore, tmp_path: Path) -> None:
    """As soon as the next one begins, and nothing that is being written or is not ours."""
    left = [tmp_path / "jobs" / state / f"{NOW_MS}-00000000.json.77.tmp" for state in JobState]
    being_written = tmp_path / "jobs" / "done" / f"{NOW_MS}-00000001.json.78.tmp"
    other = tmp_path / "jobs" / "done" / "mine.tmp"
    for path in (*left, being_written, other):
        path.write_text("half")

    with being_written.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        JobStore(tmp_path).claim()

    assert [False] * len(left) == [path.exists() for path in left]
    assert (True, True) == (being_written.exists(), other.exists())


def test_what_is_swept_away_as_it_is_begun_is_begun_again(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sweeps has it locked just then: the job is written all the same."""
    swept = []

    def lock_file(*given: Any, **options: Any) -> int | None:
        if not swept:
            swept.append(given[1])
            return None
        return locks.lock_file(*given, **options)

    monkeypatch.setattr(jobfiles, "lock_file", lock_file)

    job_id = add(store)

    assert [job_id] == [job.job_id for job in store.jobs(JobState.PENDING)]
    assert [f"{job_id}.json"] == os.listdir(tmp_path / "jobs" / "pending")


@pytest.mark.parametrize("end", ["complete", "fail", "give_back"])
def test_a_disk_that_fails_keeps_no_job_locked(
    store: JobStore, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """The same process finds it again, in one place."""
    job_id = add(store)
    claim = store.claim()
    assert claim is not None

    def fail(directory_fd: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(descriptors, "sync_directory", fail)
        with pytest.raises(SyncFailed):
            getattr(store, end)(*((claim,) if end != "fail" else (claim, "code", "message")))
    store.recover()

    assert [] == store.jobs(JobState.RUNNING)
    found = [job.job_id for state in JobState for job in store.jobs(state)]
    assert [job_id] == found


def test_a_job_that_cannot_be_claimed_is_not_kept(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the disk does as it is told again, the same process may have it."""
    job_id = add(store)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with pytest.raises(StorageError):
            store.claim()

    claim = store.claim()
    assert claim is not None
    assert job_id == claim.job.job_id


def test_workers_do_each_job_once(store: JobStore, tmp_path: Path) -> None:
    """Real processes, and jobs that go back and forth between them."""
    ids = [add(store, number) for number in range(60)]
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    lines = [line for worker in workers for line in worker.communicate(timeout=60)[0].splitlines()]
    assert [0, 0, 0] == [worker.returncode for worker in workers]
    rest = [claim.job.job_id for claim in iter(store.claim, None)]

    did = [line.removeprefix("did ") for line in lines if line.startswith("did ")]
    assert sorted(ids) == sorted(did + rest)
    assert sorted(did) == [job.job_id for job in store.jobs(JobState.DONE)]


@pytest.mark.parametrize("end", ["complete", "fail", "give_back", "claim"])
def test_kill_at_every_step_of_a_job(tmp_path: Path, end: str) -> None:
    """Afterwards it is in one place that counts, and no second worker has it."""

    def work() -> None:
        store = JobStore(tmp_path)
        claim = store.claim()
        assert claim is not None
        if end == "complete":
            store.complete(claim)
        elif end == "fail":
            store.fail(claim, "x", "y")
        elif end == "give_back":
            store.give_back(claim, "x", "y")

    def reset() -> None:
        for each in (tmp_path / "jobs").rglob("*.*"):
            each.unlink()
        store = JobStore(tmp_path)
        add(store)
        store.close()

    def check(step: int) -> None:
        store = JobStore(tmp_path)
        store.recover()
        found = {state: len(store.jobs(state)) for state in JobState if store.jobs(state)}
        assert {1} == set(found.values()), step
        assert 1 == len(found), step
        assert JobState.RUNNING not in found
        store.close()

    assert killed_at_every_step(work, check, reset) >= 1


def test_kill_while_a_job_is_left(tmp_path: Path) -> None:
    """It is there, whole, or not at all."""

    def reset() -> None:
        for each in (tmp_path / "jobs").rglob("*.json"):
            each.unlink()

    def check(step: int) -> None:
        store = JobStore(tmp_path)
        names = [name for name in os.listdir(store.path + "/pending") if name.endswith(".json")]
        assert len(names) == len(store.jobs(JobState.PENDING)), step
        store.close()

    assert killed_at_every_step(lambda: print(add(JobStore(tmp_path))), check, reset) >= 4


def test_what_is_no_job_is_set_aside(store: JobStore, tmp_path: Path) -> None:
    """A damaged file does not hold up the others."""
    add(store, 5)
    pending = tmp_path / "jobs" / "pending"
    bad = [f"{NOW_MS}-0000000{number}.json" for number in range(5)]
    typed_wrong = '{"job_id": 5, "sources": ["a:s/f"], "destination": "/x"}'
    contents = ("", "[]", '{"sources": 3}', '{"job_id": "x"}', typed_wrong)
    for name, content in zip(bad, contents, strict=True):
        (pending / name).write_text(content)
    (pending / "README").write_text("not a job")

    claim = store.claim()

    assert claim is not None
    assert ("alpha:docs/5",) == claim.job.sources
    assert sorted(bad) == places(tmp_path)["failed"]
    assert ["README"] == places(tmp_path)["pending"]


def test_history_is_bounded(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Failures are kept longer than successes; the newest of each stay."""
    monkeypatch.setattr(keeping, "MAX_DONE", 2)
    monkeypatch.setattr(keeping, "MAX_FAILED", 4)
    for number in range(12):
        add(store, number)
        claim = store.claim()
        assert claim is not None
        if number % 2:
            store.fail(claim, "x", "y")
        else:
            store.complete(claim)

    assert [8, 10] == [job.created_ms - NOW_MS for job in store.jobs(JobState.DONE)]
    assert [5, 7, 9, 11] == [job.created_ms - NOW_MS for job in store.jobs(JobState.FAILED)]
    assert keeping.MAX_FAILED > keeping.MAX_DONE
