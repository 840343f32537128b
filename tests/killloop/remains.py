"""What there must be after a round, and what there must not."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.killloop.sources import Found, found
from tests.killloop.world import VHOST, WORKERS, Carrier, Failure, World
from tests.support.pair import Actor, Running

#: How long what is left may take to go: two heartbeats until the broker drops a lost connection,
#: and the pause of a worker before it connects anew.
SETTLE_S = 45.0
POLL_S = 0.05
#: Each has a queue for replies, which the next one takes over: three at once and the one for jobs.
MOST_REQUESTERS = 4
#: Names under which files are written before they are renamed.
TEMPORARY = re.compile(r"\.tmp|\.small$|\.new$")


def check_contents(directory: Path, wanted: Found) -> None:
    """Every file is identical, and nothing else is there: no staging, no part of a file."""
    there = found(directory)
    wrong = [name for name, digest in wanted.items() if there.get(name, "") != digest]
    left = sorted(there.keys() - wanted.keys())
    if wrong or left:
        raise Failure(f"not as it is at the origin: {wrong[:9]}; left behind: {left[:9]}")


def check_remains(world: World, carrier: Carrier) -> None:
    """Broker, spool, state directories and processes are as before the round."""
    carrier.revive()
    if carrier is world.rabbitmq:
        _eventually(lambda: _broker_problem(world, carrier))
    else:
        _eventually(lambda: _spool_problem(carrier.pair.spool))
    for actor in (carrier.pair.alice, carrier.pair.bob):
        _eventually(lambda actor=actor: _state_problem(actor))
    _check_processes(world)


def check_log(running: Running) -> None:
    """No traceback, and nothing that a worker calls an error."""
    if "Traceback" in running.err:
        raise Failure(f"a traceback:\n{running.err[-4000:]}")
    for line in running.err.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("level") in {"error", "critical"}:
            raise Failure(f"an error in a log: {line}")


def found_names(directory: Path) -> list[str]:
    return [
        os.path.relpath(os.path.join(place, name), directory)
        for place, _, files in os.walk(directory)
        for name in files
    ]


def _broker_problem(world: World, carrier: Carrier) -> str | None:
    broker = world.broker
    queues = broker.queues(VHOST)
    if "cq.req.bob" not in queues:
        return "the queue of requests is gone"
    if len([name for name in queues if name.startswith("cq.rep.alice.")]) > MOST_REQUESTERS:
        return f"queues of requesters that are no more: {queues}"
    if len([name for name in queues if name.startswith("cq.rep.bob.")]) > WORKERS:
        return f"queues of workers that are no more: {queues}"
    if "cq.dlq" in queues and (dead := broker.queue_length(VHOST, "cq.dlq")):
        return f"{dead} requests were given up, as if they killed workers"
    if waiting := broker.queue_length(VHOST, "cq.req.bob"):
        return f"{waiting} requests are left in the queue"
    consumers = sorted(name.rpartition(".")[0] for name in broker.consumers(VHOST))
    # a worker hears of commands where it takes no replies; a requester worker where it takes them
    expected = ["cq.rep.alice"] * (carrier.work is not None)
    expected += ["cq.rep.bob"] * WORKERS + ["cq.req"] * WORKERS
    if consumers != expected:
        return f"consumers at the broker: {consumers}, not {expected}"
    connections = broker.connections()
    if connections != 2 * len(carrier.kept):
        return f"{connections} connections of {len(carrier.kept)} processes"
    return None


def _spool_problem(spool: Path) -> str | None:
    left = [
        name
        for name in found_names(spool)
        if name.startswith("req.bob/") and name.split("/")[1] in {"new", "cur", "dead"}
    ]
    left = [name for name in left if not name.endswith("/.lock")]
    if left:
        return f"{len(left)} requests are left in the spool: {left[:3]}"
    return None


def _state_problem(actor: Actor) -> str | None:
    temporary = [name for name in found_names(actor.state) if TEMPORARY.search(name)]
    return (
        f"temporary files are left in {actor.name}'s state: {temporary[:9]}" if temporary else None
    )


def _check_processes(world: World) -> None:
    kept = {running.process.pid for carrier in world.carriers for running in carrier.kept}
    for child in psutil.Process().children():
        if child.pid not in kept and any("chunkq" in word for word in child.cmdline()[1:4]):
            raise Failure(f"a process is left: {child.cmdline()}")


def _eventually(problem: Callable[[], str | None]) -> None:
    deadline = time.monotonic() + SETTLE_S
    while True:
        try:
            told = problem()
        except RuntimeError as error:  # a broker that has just come up does not answer every call
            told = str(error)
        if told is None:
            return
        if time.monotonic() > deadline:
            raise Failure(f"{SETTLE_S:.0f} s after the round, {told}")
        time.sleep(POLL_S)
