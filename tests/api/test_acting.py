"""What an operator does, by filter: done, refused with a reason, and written down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkq.api.views import Filter, Outcome, Query
from chunkq.errors import NotFound, UsageError
from chunkq.protocol.condition import State
from chunkq.storage.job import JobState
from tests.api.operating import NOW_MS, Operated, a_report, a_transfer, age


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Operated]:
    opened = Operated(tmp_path)
    yield opened
    opened.close()


def just(*ids: str) -> Filter:
    return Filter(ids=frozenset(ids))


def audit(site: Operated) -> list[tuple[str, str, str]]:
    """What, about which, by whom; oldest first."""
    site.operations.record()
    found = site.operations.audit(1, 50).rows
    return [(each.what, each.transfer or each.subject, each.by) for each in reversed(found)]


def test_one_transfer_there_and_back(site: Operated) -> None:
    """Paused, resumed, given a priority, cancelled, retried: each once in its timeline."""
    job = site.job()
    site.operations.heard(a_report())
    site.refresh()
    one = site.operations

    assert Outcome(1) == one.pause(just(job))
    site.refresh()
    assert ("paused", "by_operator", "by erin@host") == site.told(job)
    one.resume(just(job), by="page:ann@host")
    one.prioritise(just(job), "urgent")
    site.refresh()
    assert (("queued", "", ""), "urgent") == (site.told(job), site.row(job).priority)
    one.cancel(just(job))
    site.refresh()
    assert "cancelled" == site.told(job)[0]
    one.retry(just(job))
    site.refresh()
    assert "queued" == site.told(job)[0]

    expected = [
        ("paused", job, "erin@host"),
        ("resumed", job, "page:ann@host"),
        ("priority", job, "erin@host"),
        ("cancelled", job, "erin@host"),
        ("retried", job, "erin@host"),
    ]
    assert expected == audit(site)
    timeline = [each.what for each in one.transfer(job).timeline]
    assert ["queued", *(each[0] for each in expected)] == timeline


def test_what_is_so_already_is_not_written_down_again(site: Operated) -> None:
    """To pause twice is to pause."""
    job = site.job()
    site.refresh()
    assert (Outcome(1), Outcome(1)) == (
        site.operations.pause(just(job)),
        site.operations.pause(just(job)),
    )

    assert [("paused", job, "erin@host")] == audit(site)


def test_all_of_a_peer(site: Operated) -> None:
    """A filter means those that it can be done to; others are left, not refused."""
    first, second = site.job(), site.job("bob:docs/b", "b", 1)
    other = site.job("carol:docs/c", "c", 2)
    failed = site.job("bob:docs/d", "d", -1)
    site.store.fail(site.store.claim(), "NotFound", "no")
    site.refresh()

    assert Outcome(2) == site.operations.pause(Filter(peer="bob"))
    assert {first, second} == {job.job_id for job in site.store.jobs(JobState.PAUSED)}
    assert {other} == {job.job_id for job in site.store.jobs(JobState.PENDING)}
    assert Outcome(1) == site.operations.retry(Filter(states=frozenset({State.FAILED})))
    assert "pending" == site.store.find(failed).state


def test_one_that_cannot_be_says_why(site: Operated) -> None:
    """By its id; the others of the same command are done."""
    done, job = site.job(), site.job("bob:docs/b", "b", 1)
    site.store.complete(site.store.claim())
    site.refresh()
    found = site.operations.cancel(just(done, job, "nonsense"))

    assert (1, [done, "nonsense"]) == (found.done, sorted(each[0] for each in found.refused))
    assert "there is nothing to cancel" in dict(found.refused)[done]
    with pytest.raises(UsageError):
        site.operations.prioritise(just(job), "fastest")


def test_a_transfer_in_hand_gets_a_wish(site: Operated) -> None:
    """Its process does it, and says so; nothing is written here."""
    job = site.job()
    site.store.claim()
    site.refresh()

    assert Outcome(1) == site.operations.pause(just(job))
    [wish] = site.store.control.wishes()
    assert (job, "pause", "erin@host") == (wish.job_id, wish.want, wish.by)
    assert [] == audit(site)


def test_a_job_that_came_since_the_last_look(site: Operated) -> None:
    """Named by its id it is found."""
    job = site.job()

    assert Outcome(1) == site.operations.pause(just(job))
    assert "paused" == site.store.find(job).state


def test_what_is_in_staging_alone(site: Operated) -> None:
    """Is no job's to pause; given up with what has come, its files go, unless they are in use."""
    staged = site.stage(present=(0,))
    site.refresh()
    row = f"staged-{staged.transfer_id}"
    one = site.operations
    assert "no job" in dict(one.pause(just(row)).refused)[row]
    assert row in dict(one.cancel(just(row), drop=True).refused)  # it is locked

    staged.close()
    age(site.inbox)
    site.now_ms += 60_000
    assert row in dict(one.cancel(just(row)).refused)
    assert Outcome(1) == one.cancel(just(row), drop=True)
    site.refresh()
    assert 0 == one.transfers(Query()).total
    assert not list(site.inbox.glob(".chunkq/*"))
    assert [("cancelled", row, "erin@host")] == audit(site)


def test_a_transfer_of_another_host_is_told_there(site: Operated) -> None:
    """By whoever can; without a way there, the host is named."""
    site.operations.heard(a_report(transfers=[a_transfer("far")]))
    site.refresh()
    assert "on other" in dict(site.operations.pause(just("far")).refused)["far"]

    sent: list[tuple[object, ...]] = []
    site.operations._actions._send = lambda row, *rest: sent.append((row.instance, *rest))
    assert Outcome(1) == site.operations.cancel(just("far"), drop=True)
    assert [("requester-1", "cancel", "", True, "erin@host")] == sent


def test_peers_and_links_are_frozen_and_thawed(site: Operated) -> None:
    """Their jobs wait and say why; a name that is none is refused."""
    job = site.job()
    one = site.operations
    one.heard(a_report())
    one.freeze("peer", "bob", why="moves house")
    one.freeze("link", "default")
    site.refresh()
    assert ("queued", "peer_frozen", "by erin@host moves house") == site.told(job)
    assert [True, False] == [peer.frozen for peer in one.peers()]

    assert one.thaw("peer", "bob")
    site.refresh()
    assert ("queued", "link_frozen", "by erin@host") == site.told(job)
    assert one.thaw("link", "default")
    assert not one.thaw("link", "default")
    site.refresh()
    assert ("queued", "", "") == site.told(job)

    assert ["peer_frozen", "link_frozen", "peer_thawed", "link_thawed"] == [
        each[0] for each in audit(site)
    ]
    for kind in ("peer", "link"):
        with pytest.raises(NotFound):
            one.freeze(kind, "nobody")


def test_a_process_is_drained(site: Operated) -> None:
    """One of this host; of another, it is said where."""
    site.operations.heard(a_report())
    with pytest.raises(NotFound, match="on other"):
        site.operations.drain("requester-1")
    with pytest.raises(NotFound, match="no process"):
        site.operations.drain("nobody")

    from chunkq.storage.reports import Reports

    Reports(site.state, wall_s=lambda: NOW_MS / 1000).write(a_report(instance="here-1"))
    site.refresh()
    site.operations.drain("here-1")
    assert {"here-1"} == site.store.control.draining()
    assert [("drained", "here-1", "erin@host")] == audit(site)


def test_history_and_what_only_it_knows(site: Operated) -> None:
    """A transfer that is forgotten as a job is still one in full."""
    job = site.job()
    site.store.complete(site.store.claim(), size_bytes=5, content_digest="ab")
    site.operations.record()
    (site.state / "jobs" / "done" / f"{job}.json").unlink()
    site.refresh()
    [row] = site.operations.history(Query()).rows

    assert (job, State.DONE, 5, "a", 100) == (
        row.id,
        row.state,
        row.size_bytes,
        row.name,
        row.percent,
    )
    assert "ab" == site.operations.transfer(job).digest
    assert 0 == site.operations.history(Query(filter=Filter(text="zzz"))).total
    assert [job] == [each.id for each in site.operations.history(Query(page=7, sort="peer")).rows]
