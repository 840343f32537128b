"""`--priority`: the class of a transfer, on the command line and in jobs."""

from __future__ import annotations

import pytest

from chunkq.protocol import cbor
from chunkq.protocol.messages import Open
from chunkq.storage.jobs import JobState, JobStore
from tests.support.pair import Pair


@pytest.mark.parametrize("priority", ["urgent", "normal", "bulk"])
def test_every_class_gets_its_file(served: Pair, priority: str) -> None:
    """Each word of the closed set is understood by both sides."""
    served.offer(f"{priority}.txt", priority.encode())

    target = served.inbox / f"{priority}.txt"
    done = served.get("--priority", priority, f"bob:docs/{priority}.txt", str(target))

    assert (0, "") == (done.code, done.err)
    assert priority == target.read_text()


def test_another_word_is_a_usage_error(served: Pair) -> None:
    """Nothing is asked for with a class that does not exist; the message names those that do."""
    done = served.get("--priority", "asap", "bob:docs/x", "x")

    assert 2 == done.code
    assert all(word in done.err for word in ("urgent", "normal", "bulk"))


def test_a_job_keeps_its_class(served: Pair) -> None:
    """What is left for `chunkq work` is got with the class that was given."""
    source = served.offer("job.txt", b"job")

    queued = served.get(
        "--queue", "--priority", "bulk", "bob:docs/job.txt", str(served.inbox) + "/"
    )

    assert 0 == queued.code
    store = JobStore(served.alice.state)
    try:
        (job,) = store.jobs(JobState.PENDING)
    finally:
        store.close()
    assert "bulk" == job.options["priority"]
    assert 0 == served.alice.run("work", "--once").code
    assert source.read_bytes() == (served.inbox / "job.txt").read_bytes()


def test_the_usual_class_is_not_said() -> None:
    """A request of the usual class has the bytes it always had; another says its class."""
    usual = Open(instance="a", share="s", path="p", largest_chunk=4096)
    bulk = usual.model_copy(update={"priority": "bulk"})

    assert b"priority" not in cbor.encode(usual)
    assert "normal" == cbor.decode(Open, cbor.encode(usual)).priority
    assert "bulk" == cbor.decode(Open, cbor.encode(bulk)).priority
