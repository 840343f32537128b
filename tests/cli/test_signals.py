"""Signals: stop, stop now, status; for `get`, `serve` and `work`."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.pair import OFTEN, Actor, Pair, Running, contents, part_way, until

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]


def begin(pair: Pair, *args: str, **environ: str) -> tuple[bytes, Running, Running]:
    """A transfer half way, its origin stopped: the content, the worker and the command."""
    content = os.urandom(16 * MIB)
    pair.offer("big", content)
    worker = pair.serve()
    getting = pair.alice.start(
        *args, "get", "bob:docs/big", str(pair.inbox), **{**OFTEN, **environ}
    )
    part_way(pair, worker, getting)
    return content, worker, getting


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_stops_cleanly(pair: Pair, number: signal.Signals) -> None:
    """Exit code 130, how far it is and how to go on; then it does."""
    content, worker, getting = begin(pair)

    getting.send(number)
    stopped = getting.wait()
    worker.send(signal.SIGCONT)
    again = pair.get("bob:docs/big", str(pair.inbox))

    assert stopped.code == 130
    first, second = stopped.err.splitlines()
    assert first.startswith("error: stopped: ")
    assert "of 16.0 MiB" in first
    assert second == "hint: run the same command to go on"
    assert again.code == 0
    assert "resuming at" in again.err
    assert {"big": content} == contents(pair.inbox)


def test_the_second_signal_ends_at_once(pair: Pair) -> None:
    """Also where the clean stop waits for a disk; nothing is lost that was committed."""
    content, worker, getting = begin(pair)
    kept = pair.transfers()[0].chunks_present

    getting.send(signal.SIGSTOP)  # so that both signals are there when it looks
    getting.send(signal.SIGINT)
    getting.send(signal.SIGTERM)
    began = time.monotonic()
    getting.send(signal.SIGCONT)
    stopped = getting.wait()

    assert stopped.code == 130
    assert time.monotonic() - began < 2
    assert pair.transfers()[0].chunks_present >= kept
    worker.send(signal.SIGCONT)
    assert pair.get("bob:docs/big", str(pair.inbox)).code == 0
    assert {"big": content} == contents(pair.inbox)


def test_stopped_among_several_sources(pair: Pair) -> None:
    """Those that follow are not begun; the same command does the rest."""
    pair.offer("first", b"first")
    pair.offer("last", b"last")
    pair.offer("big", os.urandom(16 * MIB))
    worker = pair.serve()
    sources = ["bob:docs/first", "bob:docs/big", "bob:docs/last"]
    getting = pair.alice.start("get", *sources, str(pair.inbox), **OFTEN)
    part_way(pair, worker, getting)

    getting.send(signal.SIGINT)
    stopped = getting.wait()
    there = {path.name for path in pair.inbox.iterdir()}
    worker.send(signal.SIGCONT)
    again = pair.get(*sources, str(pair.inbox))

    assert (130, {"first", ".chunkq"}) == (stopped.code, there)
    assert again.code == 0
    assert {"first", "big", "last"} == {path.name for path in pair.inbox.iterdir()}


def test_stopped_as_json(pair: Pair) -> None:
    """The last object tells it."""
    _, _, getting = begin(pair, "--json")

    getting.send(signal.SIGINT)
    stopped = getting.wait()

    last = stopped.objects[-1]
    assert (130, "") == (stopped.code, stopped.err)
    assert ("error", "Stopped", 130, True) == (
        last["type"],
        last["error"],
        last["exit_code"],
        last["retry"],
    )


def test_usr1_prints_status(pair: Pair) -> None:
    """One line on stderr each time, and the transfer goes on."""
    _, worker, getting = begin(pair)

    for count in (1, 2):
        getting.send(signal.SIGUSR1)
        until(lambda wanted=count: getting.err.count("\n") >= wanted)
    worker.send(signal.SIGCONT)

    done = getting.wait()
    assert done.code == 0
    assert [True, True] == ["from bob" in line or "bob" in line for line in done.err.splitlines()]
    assert "of 16.0 MiB" in done.err.splitlines()[0]


def test_serve_drains(pair: Pair) -> None:
    """SIGTERM: what it has taken is answered, the rest stays in the queue; exit code 0."""
    content = os.urandom(24 * MIB)
    pair.offer("big", content)
    first = pair.serve()
    getting = pair.alice.start("get", "bob:docs/big", str(pair.inbox), **OFTEN)
    part_way(pair, first, getting)
    pair.serve()

    first.send(signal.SIGTERM)
    first.send(signal.SIGCONT)
    ended = first.wait()

    assert ended.code == 0
    assert ['"stopping"', '"link_closed"', '"stopped"'] == [
        line.split(",")[0].split(": ")[1] for line in ended.err.splitlines()[-3:]
    ]
    assert getting.wait().code == 0
    assert {"big": content} == contents(pair.inbox)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("command", ["serve", "work"])
def test_an_idle_worker_ends_with_0(pair: Pair, command: str, number: signal.Signals) -> None:
    """As a service manager wants it."""
    running = pair.bob.start("-v", command)
    ready = '"serving"' if command == "serve" else "{"
    if command == "serve":
        running.until_said(ready)
    else:
        until(lambda: (pair.bob.state / "jobs" / "pending").is_dir())
        until(lambda: handles(running, number))

    running.send(number)

    assert running.wait().code == 0


def handles(running: Running, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal."""
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("name", ["origin", "requester"])
def test_workers_are_the_same_commands(pair: Pair, name: str) -> None:
    """`workers/*.py` tell the service manager when they are ready and that they stop."""
    import socket

    address = pair.root / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(30)
        program = str(ROOT / "workers" / f"{name}.py")
        running = launch(pair.bob, program, NOTIFY_SOCKET=str(address))
        said = [manager.recv(100)]
        running.send(signal.SIGTERM)
        said.append(manager.recv(100))

    assert [True, True] == [said[0].startswith(b"READY=1"), said[1].startswith(b"STOPPING=1")]
    assert running.wait().code == 0


def launch(actor: Actor, program: str, **environ: str) -> Running:
    directories = {
        "CHUNKQ_CONFIG_DIR": str(actor.config),
        "CHUNKQ_STATE_DIR": str(actor.state),
    }
    return actor.launch([sys.executable, program], **directories, **environ)
