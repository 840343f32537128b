"""`chunkq get --queue` leaves a job, `chunkq work` does it, `chunkq status` shows it."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.support.pair import OFTEN, Pair, contents, part_way, until

MIB = 1 << 20


def jobs(pair: Pair) -> dict[str, dict[str, Any]]:
    """Every job by its source."""
    found = pair.alice.run("status", "--all", "--json").objects
    return {each["sources"][0]: each for each in found}


def test_a_job_from_the_queue_to_done(pair: Pair) -> None:
    """Nothing is fetched before a worker runs; then everything, also a tree."""
    pair.offer("file", b"file")
    pair.offer("tree/x", b"x")
    pair.serve()

    queued = pair.get("--queue", "bob:docs/file", "bob:docs/tree/", str(pair.inbox))
    before = {source: job["state"] for source, job in jobs(pair).items()}
    waiting = contents(pair.inbox)
    done = pair.alice.run("work", "--once")
    after = {source: job["state"] for source, job in jobs(pair).items()}

    assert (0, 0) == (queued.code, done.code), done.err
    assert ["queued:", "queued:"] == [line.split()[0] for line in queued.out.splitlines()]
    assert {"bob:docs/file": "queued", "bob:docs/tree/": "queued"} == before
    assert {} == waiting
    assert {"bob:docs/file": "done", "bob:docs/tree/": "done"} == after
    assert {"file": b"file", "tree": None, "tree/x": b"x"} == contents(pair.inbox)
    assert "" == pair.alice.run("status").out
    assert (pair.alice.state / "history.db").exists()  # the worker kept it
    assert {"bob:docs/file", "bob:docs/tree/"} == {
        each["source"] for each in pair.alice.run("history", "--json").objects
    }


def test_options_go_with_the_job(pair: Pair) -> None:
    """`--overwrite`, and a relative destination is of the place where it was given."""
    pair.offer("file", b"new")
    (pair.inbox / "file").write_bytes(b"old")
    pair.serve()

    queued = pair.alice.start("get", "--queue", "--overwrite", "bob:docs/file", cwd=pair.inbox)
    assert queued.wait().code == 0
    done = pair.alice.run("work", "--once")

    assert done.code == 0
    assert {"file": b"new"} == contents(pair.inbox)


def test_a_job_that_fails_for_good(pair: Pair) -> None:
    """It is kept with its reason, the others are done; exit code 3."""
    pair.offer("good", b"good")
    pair.serve()
    pair.get("--queue", "bob:docs/bad", "bob:docs/good", str(pair.inbox))

    done = pair.alice.run("work", "--once")
    table = pair.alice.run("status").out
    found = jobs(pair)

    assert done.code == 3
    assert "1 of 2 jobs failed" in done.err
    assert ("failed", "not_found", 1) == tuple(
        found["bob:docs/bad"][name] for name in ("state", "reason", "retries")
    )
    assert "no such file there" in found["bob:docs/bad"]["detail"]
    assert "no such file there" in table
    assert "done" == found["bob:docs/good"]["state"]


def test_a_job_for_a_silent_peer_holds_up_no_other(pair: Pair) -> None:
    """It goes back to the queue with its reason; the others are done meanwhile."""
    carol = pair.root / "carol"
    pair.offer("good", b"good")
    pair.serve()
    silent = type(pair.alice)("carol", carol)
    silent.quick("init", "--name", "carol", "--link", f"spool://{pair.spool}")
    pair.alice.quick("peer", "add", silent.quick("id"))
    for number in range(5):
        pair.get("--queue", f"carol:docs/{number}", str(pair.inbox / "x"))
    pair.get("--queue", "bob:docs/good", str(pair.inbox))

    done = pair.alice.run("work", "--once", CHUNKQ_REQUESTER_PATIENCE="1s")
    found = jobs(pair)

    assert done.code == 3
    assert "done" == found["bob:docs/good"]["state"]
    assert {("queued", "no_worker")} == {
        (job["state"], job["reason"]) for source, job in found.items() if "carol" in source
    }
    assert 5 == sum("no answer" in job["detail"] for job in found.values())


def test_a_worker_is_killed_and_another_takes_the_job(pair: Pair) -> None:
    """kill -9 half way: the next worker finds the job and goes on from the part file."""
    content = os.urandom(16 * MIB)
    pair.offer("big", content)
    serving = pair.serve()
    pair.get("--queue", "bob:docs/big", str(pair.inbox / "big"))
    first = pair.alice.start("work", **OFTEN)
    part_way(pair, serving, first)
    running = jobs(pair)["bob:docs/big"]["state"]

    first.end()
    second = pair.alice.start("work", **OFTEN)
    serving.send(signal.SIGCONT)
    until(lambda: (pair.inbox / "big").exists())
    until(lambda: '"job_done"' in second.err)

    assert running in ("running", "stalled")  # the origin stands still
    assert {"big": content} == contents(pair.inbox)
    job = jobs(pair)["bob:docs/big"]
    assert ("done", 1) == (job["state"], job["retries"])


def test_sigterm_gives_the_job_back(pair: Pair) -> None:
    """What came is committed, the job waits again, the exit code is 0; the next one goes on."""
    content = os.urandom(16 * MIB)
    pair.offer("big", content)
    serving = pair.serve()
    pair.get("--queue", "bob:docs/big", str(pair.inbox / "big"))
    first = pair.alice.start("work", **OFTEN)
    part_way(pair, serving, first)

    first.send(signal.SIGTERM)
    ended = first.wait()
    job = jobs(pair)["bob:docs/big"]
    serving.send(signal.SIGCONT)
    again = pair.alice.run("work", "--once")

    assert (0, "queued", 0) == (ended.code, job["state"], job["retries"]), ended.err
    assert again.code == 0
    assert {"big": content} == contents(pair.inbox)


def test_workers_share_the_queue(pair: Pair) -> None:
    """Three workers, twelve jobs: each is done once."""
    names = [f"f{number:02d}" for number in range(12)]
    for name in names:
        pair.offer(name, name.encode())
    pair.serve()
    pair.get("--queue", *(f"bob:docs/{name}" for name in names), str(pair.inbox))

    workers = [pair.alice.start("work", "--once") for _ in range(3)]
    ended = [worker.wait() for worker in workers]

    assert [0, 0, 0] == [done.code for done in ended]
    assert 12 == sum(done.err.count('"job_done"') for done in ended)
    assert {name: name.encode() for name in names} == contents(pair.inbox)


def test_a_peer_pinned_while_the_worker_runs(pair: Pair) -> None:
    """Nothing has to be started again."""
    pair.offer("file", b"file")
    pair.serve()
    card = pair.bob.quick("id")
    pair.alice.quick("peer", "rm", "bob")
    worker = pair.alice.start("work")
    until(lambda: (pair.alice.state / "jobs" / "pending").is_dir())

    pair.alice.quick("peer", "add", card)
    pair.get("--queue", "bob:docs/file", str(pair.inbox))
    until(lambda: '"job_done"' in worker.err or not worker.alive)

    assert {"file": b"file"} == contents(pair.inbox)
