"""`fairness`: how fast one peer gets a file while another floods the origin, against alone.

The flooding peer is pinned and granted, and all of its requests are valid. `greedy` asks for many
times what the origin can send and takes it; `deaf` asks for as much and takes nothing, so that its
queue is full and the broker refuses what is for it; `rapid` sends many small requests. A fair half
of the origin would be 0.5; the flood takes its part of the machine and of the broker as well.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.bench.getting import Getting
from tests.bench.measure import MIB, Report, Settings, alternate, rate, ratio
from tests.e2e.processes import Site, random_file
from tests.support.broker import Broker

DEFAULT_MIB = 256
#: So long it floods before the other one begins: its requests fill the origin, and the queue.
FLOODED_S = 2
#: What the flooding peer asks for, again and again: one request's worth.
FLOOD_BYTES = 16 * MIB
ALONE = "alone"
#: Requests a second, chunks in each, and whether the replies are left where they are.
FLOODS = {"greedy": (100, 64, 0), "deaf": (100, 64, 1), "rapid": (2000, 1, 0)}
WORDS = {"greedy": "asks for 1.6 GiB/s", "deaf": "and takes nothing", "rapid": "2000 requests/s"}


class Mallory:
    """The flooding peer: one process for each kind of flood."""

    def __init__(self, site: Site) -> None:
        self._site = site
        #: Bytes that came of it while the other one got its file.
        self.taken: dict[str, list[int]] = {}

    @contextmanager
    def flooding(self, kind: str) -> Iterator[None]:
        process = self._start(*FLOODS[kind])
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(b"begin\n")
            process.stdin.flush()
            time.sleep(FLOODED_S)
            before = _mark(process)
            yield
            self.taken.setdefault(kind, []).append(_mark(process) - before)
        finally:
            process.kill()
            process.communicate()

    def _start(self, per_s: int, chunks: int, deaf: int) -> subprocess.Popen[bytes]:
        site = self._site
        program = [sys.executable, "-m", "tests.bench.flood"]
        numbers = (str(per_s), str(chunks), str(deaf))
        with (site.root / "flood.log").open("ab") as log:
            process = subprocess.Popen(
                [*program, str(site.root / "config"), str(site.state), "bob", *numbers],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert process.stdout is not None
        ready = process.stdout.readline()
        assert ready == b"ready\n", (site.root / "flood.log").read_text()
        return process


def _mark(process: subprocess.Popen[bytes]) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"mark\n")
    process.stdin.flush()
    taken: int = json.loads(process.stdout.readline())
    return taken


def run(settings: Settings) -> Report:
    size = settings.size_bytes(DEFAULT_MIB)
    report = Report(f"fairness: {size // MIB} MiB over RabbitMQ, {settings.pairs} rounds")
    broker = Broker.start(settings.root / "node")
    try:
        link = broker.url(vhost=broker.add_vhost())
        with Getting.over(settings.root / "sites", link, size) as getting:
            mallory = Mallory(_join(settings.root / "mallory", link, getting))

            def beside(kind: str) -> float:
                with mallory.flooding(kind):
                    return getting.running_known()

            getting.running_known()
            runs: dict[str, Callable[[], float]] = {ALONE: getting.running_known}
            runs |= {kind: partial(beside, kind) for kind in FLOODS}
            seconds = alternate(runs, settings)
            report.figure("origin_rss_mib", "origin, largest size", getting.peaks["origin"], " MiB")
    finally:
        broker.stop()
    report.figure("mb_per_s_alone", ALONE, rate(size, seconds[ALONE]), " MB/s")
    for kind in FLOODS:
        words = f"beside {kind}, {WORDS[kind]}"
        report.figure(f"mb_per_s_{kind}", words, rate(size, seconds[kind]), " MB/s")
        report.figure(f"ratio_{kind}", f"{kind} ÷ alone", ratio(seconds, kind, ALONE))
        share = size / (size + statistics.median(mallory.taken[kind]))
        report.figure(f"share_{kind}", "its part of what both got meanwhile", share)
    return report


def _join(root: Path, link: str, getting: Getting) -> Site:
    """A third site that bob has pinned and granted."""
    site, bob = Site(root, "mallory"), getting.pair.bob
    root.mkdir()
    random_file(getting.pair.files / "flood", FLOOD_BYTES)
    site.quick("init", "--name", "mallory", "--link", link)
    site.quick("peer", "add", bob.quick("id"))
    bob.quick("peer", "add", site.quick("id"))
    bob.quick("grant", "mallory", "files")
    return site
