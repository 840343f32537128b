"""`chunkq status`: transfers and jobs, from the files on disk."""

from __future__ import annotations

import os
import signal

from tests.support.pair import OFTEN, Pair, part_way

MIB = 1 << 20


def test_nothing(pair: Pair) -> None:
    """Says so, on stderr; JSON says nothing."""
    plain, as_json = pair.alice.run("status"), pair.alice.run("status", "--json")

    assert (0, "", "nothing is under way, and no job waits\n") == (plain.code, plain.out, plain.err)
    assert (0, "", "") == (as_json.code, as_json.out, as_json.err)


def test_a_transfer_under_way_and_stopped(pair: Pair) -> None:
    """State, how far, from where, to where; while it runs and after it was killed."""
    pair.offer("big", os.urandom(16 * MIB))
    worker = pair.serve()
    getting = pair.alice.start("get", "bob:docs/big", str(pair.inbox), **OFTEN)
    found = part_way(pair, worker, getting)

    (running,) = pair.alice.run("status", "--json").objects
    getting.end()
    (stopped,) = pair.alice.run("status", "--json").objects
    table = pair.alice.run("status").out

    assert ("transfer", "running", "bob:docs/big", 64) == (
        running["type"],
        running["state"],
        running["source"],
        running["chunks_total"],
    )
    assert running["chunks_present"] >= found.chunks_present
    assert "stopped" == stopped["state"]
    assert ["STATE", "DONE", "CHUNKS", "SIZE", "SOURCE", "IN"] == table.splitlines()[0].split()
    assert [f"{stopped['chunks_present']}/64", "16.0", "MiB", "bob:docs/big", str(pair.inbox)] == (
        table.splitlines()[1].split()[2:]
    )

    worker.send(signal.SIGCONT)
    assert pair.get("bob:docs/big", str(pair.inbox)).code == 0
    assert "" == pair.alice.run("status").out


def test_a_damaged_state_file_is_named_and_mended(pair: Pair) -> None:
    """Both slots bad: status says so, and the next run reads the part file again."""
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

    (damaged,) = pair.alice.run("status", "--json").objects
    worker.send(signal.SIGCONT)
    done = pair.alice.run("--json", "get", "bob:docs/big", str(pair.inbox))

    assert "damaged" == damaged["state"]
    assert damaged["problem"]
    assert done.code == 0, done.out
    assert done.objects[-1]["new_bytes"] < 16 * MIB
    assert content == (pair.inbox / "big").read_bytes()
