"""What there is to run: a line each. A benchmark is `run(settings) -> Report` in its own file."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable

from tests.bench.measure import Report, Settings

#: Name and what it shows, in the order of `all`; `tests.bench.NAME` is imported once it is asked
#: for, so that a benchmark may import what only it needs.
BENCHMARKS = {
    "throughput": "one large file over RabbitMQ, against clients that move bare bytes",
    "peers": "the same file by NATS Object Store, NNCP, libtorrent and rsync",
    "spool": "one large file over a spool, against a bare maildir loop and against cp and sync",
    "smallfiles": "a tree of small files over RabbitMQ, against rsync with and without fsync",
    "memory": "largest resident sizes at two file sizes",
    "overhead": "bytes on the wire over bytes of the file",
    "link": "the real machines over simulated links, in virtual time",
    "slowlink": "real processes and a real RabbitMQ through a slow proxy",
    "workers": "several origin workers and several requesters side by side",
    "multisource": "one file from origins of different rates, one of which dies",
    "fairness": "what a peer gets of an origin that another peer floods, against alone",
    "commit": "throughput with the commit on, against off",
    "growth": "how cost grows with file size, number of files and pending transfers",
    "profile": "what each microsecond per chunk goes to",
}


def names() -> list[str]:
    """Those whose file is there."""
    return [name for name in BENCHMARKS if importlib.util.find_spec(f"tests.bench.{name}")]


def load(name: str) -> Callable[[Settings], Report]:
    run: Callable[[Settings], Report] = importlib.import_module(f"tests.bench.{name}").run
    return run
