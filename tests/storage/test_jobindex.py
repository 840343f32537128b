"""Jobs in memory: true after each look, and cheap, which is told by the files that are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from chunkq.storage.jobindex import JobIndex
from chunkq.storage.jobs import JobState, JobStore
from chunkq.storage.looking import UNSETTLED_NS

NOW_MS = 1_700_000_000_000
LONG_AGO_S = 1_600_000_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    opened = JobStore(tmp_path)
    yield opened
    opened.close()


def add(store: JobStore, number: int = 0) -> str:
    return store.add((f"alpha:docs/{number}",), "/srv/in", created_ms=NOW_MS + number).job_id


def settle(store: JobStore) -> None:
    """Let all directories have changed long ago."""
    for state in JobState:
        os.utime(os.path.join(store.path, state), (LONG_AGO_S, LONG_AGO_S))


def states(index: JobIndex) -> dict[str, str]:
    return {job_id: str(seen.job.state) for job_id, seen in index.jobs.items()}


def test_every_step_of_a_job_is_seen(store: JobStore) -> None:
    """From pending to done, back for another try, and failed; each look says what changed."""
    index = JobIndex(store)
    assert set() == index.refresh()
    one, two = add(store, 1), add(store, 2)

    assert {one, two} == index.refresh()
    assert {one: "pending", two: "pending"} == states(index)

    first, second = store.claim(), store.claim()
    assert first is not None
    assert second is not None
    assert {one, two} == index.refresh()
    assert {one: "running", two: "running"} == states(index)

    store.complete(first)
    store.give_back(second, "PeerSilent", "nobody answers")
    assert {one, two} == index.refresh()
    assert {one: "done", two: "pending"} == states(index)
    assert ("PeerSilent", 1) == (index.jobs[two].job.error_code, index.jobs[two].job.attempts)
    assert set() == index.refresh()


def test_a_job_that_is_gone_is_gone(store: JobStore) -> None:
    """Somebody removed its file."""
    index = JobIndex(store)
    job_id = add(store)
    index.refresh()
    os.unlink(os.path.join(store.path, "pending", f"{job_id}.json"))

    assert {job_id} == index.refresh()
    assert {} == index.jobs
    assert set() == index.refresh()


def test_nothing_is_read_again_while_nothing_changes(store: JobStore) -> None:
    """A thousand jobs: each file is read once, and of a change only what changed."""
    for number in range(1000):
        add(store, number)
    index = JobIndex(store)
    index.refresh()
    assert 1000 == index.files_read

    index.refresh()
    settle(store)
    index.refresh()
    index.refresh()
    assert 1000 == index.files_read

    add(store, 1000)
    assert 1 == len(index.refresh())
    assert 1001 == index.files_read


def test_settled_directories_are_not_even_listed(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One `stat` each tells that nothing happened."""
    add(store)
    settle(store)
    index = JobIndex(store)
    index.refresh()
    listed: list[object] = []
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(path) or real(path))

    index.refresh()

    assert [] == listed


def test_a_change_in_the_same_moment_as_the_look_is_seen(store: JobStore) -> None:
    """The directory's time is as coarse as a tick: within it, it tells nothing."""
    moment_ns = NOW_MS * 1_000_000
    clock = [moment_ns + UNSETTLED_NS]
    index = JobIndex(store, lambda: clock[0])
    add(store, 1)
    pending = os.path.join(store.path, "pending")
    os.utime(pending, ns=(moment_ns, moment_ns))
    index.refresh()
    two = add(store, 2)
    os.utime(pending, ns=(moment_ns, moment_ns))

    assert {two} == index.refresh()


def test_a_file_that_took_the_inode_of_one_before_is_read_again(store: JobStore) -> None:
    """Two changes between two looks may end at the same inode number, with other content."""
    job_id = add(store)
    index = JobIndex(store)
    index.refresh()
    path = os.path.join(store.path, "pending", f"{job_id}.json")
    content = Path(path).read_bytes()
    Path(path).write_bytes(content.replace(b"/srv/in", b"/srv/on"))  # the very same inode

    assert {job_id} == index.refresh()
    assert "/srv/on" == index.jobs[job_id].job.destination


def test_of_two_places_running_does_not_count(store: JobStore, tmp_path: Path) -> None:
    """As a crash may leave it: the other place says where the job stands."""
    job_id = add(store)
    claim = store.claim()
    assert claim is not None
    running = os.path.join(store.path, "running", f"{job_id}.json")
    content = Path(running).read_bytes()
    store.complete(claim)
    Path(running).write_bytes(content)
    index = JobIndex(store)
    index.refresh()

    assert {job_id: "done"} == states(index)


def test_what_is_no_job_is_left_out(store: JobStore) -> None:
    """Garbage under a job's name, and names of nobody's."""
    add(store, 1)
    name = f"{NOW_MS + 2:013d}-00000000.json"
    Path(store.path, "pending", name).write_text("{")
    Path(store.path, "pending", "notes.json").write_text("{}")
    index = JobIndex(store)
    index.refresh()

    assert 1 == len(index.jobs)
    assert set() == index.refresh()


def test_a_job_that_moves_back_during_the_look_does_not_vanish(
    store: JobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given back after `pending` was listed and before `running` was: in neither of the lists."""
    job_id = add(store)
    claim = store.claim()
    assert claim is not None
    index = JobIndex(store)
    index.refresh()
    real, given = os.scandir, []

    def scandir(path: str) -> object:
        found = real(path)
        if path.endswith("pending") and not given:
            listed = list(found)
            given.append(1)
            store.give_back(claim)
            return _Listed(listed)
        return found

    monkeypatch.setattr(os, "scandir", scandir)
    index.refresh()

    assert [1] == given
    assert {job_id: "pending"} == states(index)


class _Listed(list):  # type: ignore[type-arg]
    """What `os.scandir` returned a moment ago."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        """Nothing to close."""
