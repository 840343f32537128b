"""Every transfer as a row: where it stands and why, from the files and from what processes say."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkq.api.operations import Operations
from chunkq.api.source import Source
from chunkq.api.views import Filter, Query
from chunkq.compose import ref_of
from chunkq.errors import NotFound
from chunkq.protocol.condition import Reason, State
from chunkq.settings import Registry
from chunkq.storage.reports import Reports
from chunkq.storage.transferid import transfer_id
from tests.api.operating import NOW_MS, Operated, a_report, a_transfer, age
from tests.storage.samples import CHUNK
from tests.support.quick import quick

LATER_MS = 4_000
STALE_MS = 11_000


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Operated]:
    opened = Operated(tmp_path)
    yield opened
    opened.close()


def test_nothing(site: Operated) -> None:
    """A site that never got anything: empty, and no error."""
    assert set() == site.refresh()
    assert ({}, 0, 1) == (
        dict(site.operations.counts()),
        site.operations.transfers(Query()).total,
        site.operations.transfers(Query()).pages,
    )
    with pytest.raises(NotFound):
        site.operations.transfer("1")


def test_a_job_without_a_worker_waits_for_one(site: Operated) -> None:
    """Until one reports; a worker that is being drained takes none."""
    job = site.job()
    assert {job} == site.refresh()
    assert ("queued", "no_worker", "") == site.told(job)

    site.operations.heard(a_report(draining=True))
    site.refresh()
    assert ("queued", "no_worker", "") == site.told(job)

    site.operations.heard(a_report())
    assert {job} == site.refresh()
    assert ("queued", "", "") == site.told(job)

    site.now_ms += STALE_MS
    site.refresh()
    assert ("queued", "no_worker", "") == site.told(job)


def test_a_job_that_was_given_back_says_why(site: Operated) -> None:
    """The error of the last attempt, and how often it was tried."""
    job = site.job()
    site.store.give_back(site.store.claim(), "PeerSilent", "bob has not answered for 120 s")
    site.operations.heard(a_report())
    site.refresh()

    assert (
        "queued",
        "peer_silent",
        "tried once, last: bob has not answered for 120 s",
    ) == site.told(job)
    assert 1 == site.row(job).retries


def test_a_peer_that_is_not_trusted_is_named(site: Operated) -> None:
    """Its jobs wait, and those of others do not."""
    job, other = site.job(), site.job("carol:docs/b", "b", 1)
    site.operations.heard(a_report())
    site.refresh()
    quick(*site.arguments("alice"), "revoke", "--peer", "bob", "--yes")
    site.refresh()

    assert ("queued", "peer_distrusted") == site.told(job)[:2]
    assert ("queued", "", "") == site.told(other)


def test_a_failed_job_names_its_error(site: Operated) -> None:
    """For good: the reason is from the closed set, the detail the message."""
    job = site.job()
    site.store.fail(site.store.claim(), "NotFound", "bob has no docs/a")
    site.refresh()

    assert ("failed", "not_found", "bob has no docs/a") == site.told(job)
    assert site.row(job).ended_ms > 0


def test_what_is_on_disk_is_told_while_nobody_reports(site: Operated) -> None:
    """Bytes, chunks and phase of the state file, of a job that a process has in hand."""
    job = site.job()
    claim = site.store.claim()
    staged = site.stage(present=(0, 1, 19))
    site.refresh()
    row = site.row(job)

    assert (State.RUNNING, None, 3 * CHUNK, 20 * CHUNK, 3, 20, 15) == (
        row.state,
        row.reason,
        row.done_bytes,
        row.size_bytes,
        row.chunks_present,
        row.chunks_total,
        row.percent,
    )
    assert 1 == site.operations.transfers(Query()).total  # and no row of staging alone

    staged.remove()
    site.store.complete(claim)
    assert {job} == site.refresh()
    assert State.DONE is site.row(job).state


def test_the_phase_on_disk_is_the_state(site: Operated) -> None:
    """Verifying, with nobody reporting."""
    job = site.job()
    site.store.claim()
    site.stage(present=range(20), phase=4)
    site.refresh()

    assert ("verifying", "", "") == site.told(job)


def test_what_a_process_says_counts_while_it_is_there(site: Operated) -> None:
    """State, reason, rate and time left; silent, it is stalled, and its figures stay."""
    job = site.job()
    site.store.claim()
    site.operations.heard(
        a_report(
            transfers=[
                a_transfer(
                    job,
                    State.STALLED,
                    reason=Reason.BROKER_BLOCKED,
                    detail="the broker takes no messages now",
                    size_bytes=1000,
                    done_bytes=400,
                    rate_bytes_per_s=100,
                    chunks_total=10,
                    chunks_present=4,
                )
            ]
        )
    )
    site.refresh()
    row = site.row(job)

    assert ("stalled", "broker_blocked", "the broker takes no messages now") == site.told(job)
    assert (400, 1000, 100, 6.0, "other", "requester-1") == (
        row.done_bytes,
        row.size_bytes,
        row.rate_bytes_per_s,
        row.eta_s,
        row.host,
        row.instance,
    )

    site.now_ms += STALE_MS
    assert {job} == site.refresh()
    assert (
        "stalled",
        "worker_silent",
        "requester, process 42: nothing since 22:13:20 UTC",
    ) == site.told(job)
    assert (400, 0, None) == (
        site.row(job).done_bytes,
        site.row(job).rate_bytes_per_s,
        site.row(job).eta_s,
    )


def test_a_job_whose_process_died_is_queued_again(site: Operated) -> None:
    """As the next worker will have it; the moment after it was taken proves nothing."""
    job = site.job()
    claim = site.store.claim()
    running = site.state / "jobs" / "running" / f"{job}.json"
    age(running)
    site.refresh()
    assert "opening" == site.told(job)[0]

    import os

    os.close(claim.fd)
    site.refresh()
    assert ("queued", "no_worker", "the process that worked on it ended") == site.told(job)
    site.operations.heard(a_report())
    site.refresh()
    assert ("queued", "worker_died", "the process that worked on it ended") == site.told(job)


def test_staging_without_a_job_is_a_row_of_its_own(site: Operated) -> None:
    """Of an embedded program: running while it holds it, interrupted after; then it is gone."""
    staged = site.stage("bob:docs/x/b.bin", "b.bin", (0,))
    site.refresh()
    [row] = site.operations.transfers(Query()).rows

    assert f"staged-{staged.transfer_id}" == row.id
    assert (State.RUNNING, "bob", "b.bin", ("bob:docs/x/b.bin",)) == (
        row.state,
        row.peer,
        row.name,
        row.sources,
    )
    assert str(site.inbox / "b.bin") == row.destination

    staged.close()
    age(site.inbox)
    site.now_ms += LATER_MS
    assert {row.id} == site.refresh()
    assert ("paused", "interrupted", "") == site.told(row.id)

    site.job("bob:docs/x/b.bin", "b.bin")
    assert row.id in site.refresh()
    assert [False] == [
        each.id.startswith("staged-") for each in site.operations.transfers(Query()).rows
    ]


def test_damaged_staging_is_named(site: Operated) -> None:
    """Neither slot holds: what has come is read again by the next run."""
    staged = site.stage()
    staged.close()
    path = Path(staged.path_of(".state"))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"x" * (path.stat().st_size - 4096))
    age(site.inbox)
    site.refresh()
    [row] = site.operations.transfers(Query()).rows

    assert ("paused", "disk_error") == site.told(row.id)[:2]
    assert "the next run reads again what has come" in row.detail


def test_files_of_a_tree_belong_to_its_job(site: Operated) -> None:
    """All are in one staging directory; bytes of what is under way count."""
    job = site.job("bob:docs/", "")
    site.store.claim()
    site.stage("bob:docs/x", "x", (0, 1))
    site.stage("bob:docs/y/z", "z", (0,))
    site.stage("carol:docs/y", "y", (0,))
    site.refresh()
    row = site.row(job)

    assert (True, 3 * CHUNK, None) == (row.tree, row.done_bytes, row.size_bytes)
    assert {job} | {
        each.id for each in site.operations.transfers(Query(filter=Filter(peer="carol"))).rows
    } == {each.id for each in site.operations.transfers(Query()).rows}


def test_one_transfer_in_full(site: Operated) -> None:
    """Pieces, files, rates and the commands that do the same, quoted."""
    job = site.job("bob:docs/a b'c", "a b'c")
    site.store.claim()
    staged = site.stage("bob:docs/a b'c", "a b'c", (0, 1, 5))
    told = a_transfer(job, chunks_total=20, chunks_present=3, in_flight=[(2, 2)])
    for second in range(5):
        told["rate_bytes_per_s"] = second
        site.now_ms = NOW_MS + 1000 * second
        site.operations.heard(a_report(at_ms=site.now_ms, transfers=[told]))
        site.refresh()
    view = site.operations.transfer(job)

    assert view.pieces is not None
    assert "3 of 20, contiguous to 2, 2 gaps, 2 in flight" == view.pieces.text
    assert [staged.path_of(".state")] == list(view.staging)
    assert [(NOW_MS, 0), (NOW_MS + 2000, 2), (NOW_MS + 4000, 4)] == list(view.rates)
    assert ["get", "bob:docs/a b'c", str(site.inbox / "a b'c")] == (
        shlex.split(view.commands["get"])[-3:]
    )
    assert ["pause", job] == shlex.split(view.commands["pause"])[-2:]
    assert "resume" not in view.commands


def test_transfers_of_another_host_are_rows_too(site: Operated) -> None:
    """Its state directory is not this one; what it says is all there is."""
    site.operations.heard(a_report(transfers=[a_transfer("far", done_bytes=7)]))
    assert {"far"} == site.refresh()
    assert (State.RUNNING, "bob", 7) == (
        site.row("far").state,
        site.row("far").peer,
        site.row("far").done_bytes,
    )

    site.operations.heard(a_report(at_ms=NOW_MS + 1))
    assert {"far"} == site.refresh()
    assert 0 == site.operations.transfers(Query()).total


def test_staging_of_a_process_that_has_gone_stays_a_row(site: Operated) -> None:
    """Of an embedded program without a job: as it says, and interrupted when it has ended."""
    staged = site.stage("bob:docs/a", "a", (0,))
    row_id = f"staged-{staged.transfer_id}"
    reports = Reports(site.state, wall_s=lambda: NOW_MS / 1000)
    transfers = [a_transfer(staged.transfer_id)]
    reports.write(a_report(instance="here-1", transfers=transfers))
    site.refresh()
    assert ("running", "here-1") == (site.told(row_id)[0], site.row(row_id).instance)

    staged.close()
    age(site.inbox)
    reports.remove("here-1")
    site.now_ms += LATER_MS
    site.refresh()
    assert ("paused", "interrupted", "") == site.told(row_id)
    assert [row_id] == [row.id for row in site.operations.transfers(Query()).rows]


@pytest.mark.parametrize("path", ["a", "x/"])
def test_a_transfer_is_one_row_while_its_job_is_made(site: Operated, path: str) -> None:
    """What its process said a moment ago still calls it as its staging is called."""
    source = f"bob:docs/{path}"
    origin = ref_of(Registry(site.settings.directories).peer("bob")).first_id
    parts = () if path.endswith("/") else ("a",)
    called = transfer_id(origin, "docs", Source.parse(source).path, parts)
    transfer = {**a_transfer(called, State.OPENING), "source": source}
    reports = Reports(site.state, wall_s=lambda: NOW_MS / 1000)
    reports.write(a_report(instance="here-1", started_ms=NOW_MS - 7, transfers=[transfer]))
    site.refresh()
    assert [f"staged-{called}"] == [row.id for row in site.operations.transfers(Query()).rows]

    job = site.job(source, "a")
    assert {job, f"staged-{called}"} == site.refresh()
    assert [job] == [row.id for row in site.operations.transfers(Query()).rows]
    site.store.cancel(job, "erin@host", drop=False)
    site.refresh()
    assert [job] == [row.id for row in site.operations.transfers(Query()).rows]

    reports.write(a_report(instance="here-1", started_ms=NOW_MS + 7, transfers=[transfer]))
    site.refresh()
    assert {job, f"staged-{called}"} == {row.id for row in site.operations.transfers(Query()).rows}


def test_a_second_look_has_nothing_new(site: Operated) -> None:
    """Of a hundred jobs none is read again, and no row is another."""
    for number in range(100):
        site.job(f"bob:docs/{number}", str(number), number)
    assert 100 == len(site.refresh())
    rows = site.operations._board.rows

    assert set() == site.refresh()
    assert rows is site.operations._board.rows
    assert 100 == site.operations._board.jobs.files_read

    fresh = site.job("bob:docs/x", "x", 100)
    assert {fresh} == site.refresh()
    assert 101 == site.operations._board.jobs.files_read


def test_peers_with_what_they_have_to_do(site: Operated) -> None:
    """Counts of transfers, and of what origins did for them, over all processes."""
    site.job()
    site.job("bob:docs/b", "b", 1)
    site.store.fail(site.store.claim(), "NotFound", "no")
    for instance in ("origin-1", "origin-2"):
        peers = [{"peer": "bob", "requests": 3, "sent_bytes": 10, "refusals": {"busy": 2}}]
        site.operations.heard(a_report("origin", instance=instance, peers=peers))
    site.refresh()
    bob, carol = site.operations.peers()

    assert ("bob", "carol") == (bob.alias, carol.alias)
    assert (1, 1, 6, 20, {"busy": 4}) == (
        bob.waiting,
        bob.failed,
        bob.requests,
        bob.served_bytes,
        dict(bob.refusals),
    )
    assert (0, 0) == (carol.waiting, carol.requests)
    assert [("bob", "busy", 2), ("bob", "busy", 2)] == [
        (each.peer, each.reason, each.count) for each in site.operations.refused()
    ]


def test_workers_that_are_there_and_that_were(site: Operated) -> None:
    """A process not heard of for ten seconds is not alive; an older report has no effect."""
    site.operations.heard(a_report("origin", instance="origin-1", at_ms=NOW_MS + 5))
    site.operations.heard(a_report("origin", instance="origin-1", at_ms=NOW_MS, ready=False))
    site.now_ms += STALE_MS
    site.operations.heard(a_report())
    found = site.operations.workers()

    assert [("requester-1", True, True), ("origin-1", False, True)] == [
        (each.instance, each.alive, each.ready) for each in found
    ]


def test_two_lookers_do_not_disturb(site: Operated) -> None:
    """Nothing is locked or written by looking."""
    job = site.job()
    other = Operations(site.settings, by="x")
    try:
        other.refresh()
        site.refresh()
        assert job == site.store.claim().job.job_id
    finally:
        other.close()
