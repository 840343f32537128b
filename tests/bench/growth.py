"""`growth`: how cost grows with the file's size, the number of files, and the transfers that wait.

CPU seconds (user and system) of the requester's and the origin's process over RabbitMQ; a file's
are those of a whole `chunkq get`, so the fixed cost is that of starting and ending as well.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.bench.measure import MIB, Report, Settings
from tests.e2e.processes import Pair, Process, Site, random_file, same, wait_until
from tests.support.broker import Broker

#: The largest file; the others are a sixteenth of it, and so on, down to 1 MiB.
DEFAULT_MIB = 4096
SMALLEST_MIB = 1
STEP = 16
#: The kernel counts hundredths of a second: for less they say nothing about a GiB.
LEAST_FOR_A_RATE_MIB = 64
#: The most files, and their size; then a tenth, and a hundredth.
DEFAULT_FILES = 10_000
FILE_BYTES = 4096
FILES_IN_A_DIRECTORY = 100
#: Transfers that wait: a tenth of the most files, a hundredth, and one.
PENDING_BYTES = 64 * 1024
#: How long is looked at what waiting costs, and what is left out before: the first askings again.
IDLE_S = 10.0
CALM_S = 5.0
GIB = 1 << 30


@dataclass
class Cost:
    """CPU seconds of both sides, and the time that passed."""

    requester_s: float
    origin_s: float
    seconds: float

    @property
    def cpu_s(self) -> float:
        return self.requester_s + self.origin_s


@contextmanager
def _sites(root: Path, link: str) -> Iterator[tuple[Pair, Process]]:
    pair = Pair.make(root, link, link)
    try:
        yield pair, _serve(pair.bob)
    finally:
        pair.end()


def _serve(site: Site) -> Process:
    worker = site.start("serve", CHUNKQ_LOG_FORMAT="json")
    wait_until(lambda: any(event.get("event") == "serving" for event in worker.events))
    return worker


def _used_s(process: Process) -> float:
    times = psutil.Process(process.popen.pid).cpu_times()
    return float(times.user + times.system)


def _get(pair: Pair, worker: Process, what: str, target: Path) -> Cost:
    """A whole `chunkq get`; its CPU is what the kernel tells at its end."""
    began, origin = time.monotonic(), _used_s(worker)
    before = os.times()
    getting = pair.alice.start("--quiet", "get", what, str(target))
    assert getting.popen.wait(3600) == 0, getting.log.read_text()
    after = os.times()
    requester_s = sum(after[2:4]) - sum(before[2:4])
    return Cost(requester_s, _used_s(worker) - origin, time.monotonic() - began)


def _median(costs: list[Cost]) -> Cost:
    return sorted(costs, key=lambda cost: cost.cpu_s)[len(costs) // 2]


# ---------------------------------------------------------------- size of a file


def _sizes(largest_mib: int) -> list[int]:
    sizes = [largest_mib]
    while sizes[-1] > SMALLEST_MIB:
        sizes.append(max(SMALLEST_MIB, sizes[-1] // STEP))
    return sizes[::-1]


def _by_size(report: Report, settings: Settings, pair: Pair, worker: Process) -> None:
    sizes = _sizes(settings.size_mib or DEFAULT_MIB)
    costs = {}
    for mib in sizes:
        source, target = pair.files / f"{mib}", pair.inbox / f"{mib}"
        random_file(source, mib * MIB)
        found = []
        for _ in range(settings.pairs if mib < GIB // MIB else 1):
            os.utime(source)  # new to the origin: it is hashed
            found.append(_get(pair, worker, f"bob:files/{mib}", target))
            assert same(source, target)
            target.unlink()
        source.unlink()
        costs[mib] = _median(found)
    fixed = costs[sizes[0]]
    report.figure("fixed_cpu_s", f"a file of {sizes[0]} MiB, CPU of both", fixed.cpu_s, " s")
    for mib in sizes[1:]:
        cost = costs[mib]
        told = f"requester {cost.requester_s:.2f} s, origin {cost.origin_s:.2f} s"
        if mib >= LEAST_FOR_A_RATE_MIB:
            per_gib = (cost.cpu_s - fixed.cpu_s) * 1024 / (mib - sizes[0])
            report.figures[f"cpu_s_per_gib_{mib}_mib"] = round(per_gib, 3)
            told += f"; {per_gib:.2f} s for each further GiB"
        report.row(f"a file of {mib} MiB, CPU", told)


# ---------------------------------------------------------------- number of files


def _steps(most: int) -> list[int]:
    return sorted({max(1, most // 100), max(1, most // 10), most})


def _by_files(report: Report, settings: Settings, pair: Pair, worker: Process) -> None:
    for count in _steps(settings.counted(DEFAULT_FILES)):
        source, target = pair.files / f"tree-{count}", pair.inbox / f"tree-{count}"
        _make_tree(source, count)
        cost = _get(pair, worker, f"bob:files/{source.name}/", target)
        arrived = sum(len(names) for _, _, names in os.walk(target))
        assert arrived == count, f"{arrived} of {count} files arrived"
        each = [1000 * cost.requester_s / count, 1000 * cost.origin_s / count]
        report.figures[f"cpu_ms_per_file_{count}"] = round(sum(each), 3)
        report.row(
            f"{count} files of 4 KiB, CPU of each",
            f"requester {each[0]:.2f} ms, origin {each[1]:.2f} ms; {cost.seconds:.1f} s in all",
        )


def _make_tree(root: Path, count: int) -> None:
    for number in range(count):
        directory = root / f"{number // FILES_IN_A_DIRECTORY:04d}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{number:06d}").write_bytes(os.urandom(FILE_BYTES))


# ---------------------------------------------------------------- transfers that wait


class _Waiting:
    """A requester that does what it is told (`pending`)."""

    def __init__(self, pair: Pair, inbox: Path, count: int) -> None:
        inbox.mkdir()
        program = [sys.executable, "-m", "tests.bench.pending"]
        places = [str(pair.alice.root / "config"), str(pair.alice.state), str(inbox), str(count)]
        self.popen = subprocess.Popen(
            [*program, *places], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline() == b"ready\n"

    def do(self, what: str) -> dict[str, float]:
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self.popen.stdin.write(f"{what}\n".encode())
        self.popen.stdin.flush()
        line = self.popen.stdout.readline()
        assert line, f"{what}: the requester ended"
        taken: dict[str, float] = json.loads(line)
        return taken

    def close(self) -> None:
        self.popen.communicate(timeout=120)


def _by_pending(report: Report, settings: Settings, pair: Pair, link: str) -> None:
    spans = (CALM_S, IDLE_S) if settings.settle_s else (0.1, 0.5)
    random_file(pair.files / "file", PENDING_BYTES)
    offered = settings.root / "offered"
    offered.mkdir()
    silent = Site(settings.root / "silent", "silent")
    silent.root.mkdir()
    silent.quick("init", "--name", "silent", "--link", link)
    silent.quick("peer", "add", pair.alice.quick("id"))
    silent.quick("share", "add", "files", str(offered), "--to", "alice")
    pair.alice.quick("peer", "add", silent.quick("id"))
    counts = sorted({1, *_steps(max(1, settings.counted(DEFAULT_FILES) // 10))[1:]})
    for number in range(counts[-1]):
        random_file(offered / f"{number}", PENDING_BYTES)
    try:
        for count in counts:
            _serve(silent).stop()  # it has been there: requests to it wait in its queue
            waiting = _Waiting(pair, pair.inbox / f"pending-{count}", count)
            try:
                _one_pending(report, waiting, count, silent, spans)
            finally:
                waiting.close()
            silent.end()
    finally:
        silent.end()


def _one_pending(
    report: Report, waiting: _Waiting, count: int, silent: Site, spans: tuple[float, float]
) -> None:
    began = waiting.do("wait")
    waiting.do(f"idle {spans[0]}")
    idle = waiting.do(f"idle {spans[1]}")
    live = statistics.median(waiting.do("live")["seconds"] for _ in range(5))
    worker = _serve(silent)
    done = waiting.do("finish")
    origin_s = _used_s(worker)
    idle_percent = 100 * idle["cpu_s"] / idle["seconds"]
    report.figures |= {
        f"pending_{count}_resident_mib": round(idle["resident_mib"], 1),
        f"pending_{count}_idle_cpu_percent": round(idle_percent, 2),
        f"pending_{count}_live_s": round(live, 3),
        f"pending_{count}_cpu_ms_each": round(1000 * done["cpu_s"] / count, 3),
    }
    report.row(
        f"{count} pending",
        f"{1000 * began['cpu_s'] / count:.2f} ms each to begin, {idle['resident_mib']:.0f} MiB, "
        f"{idle_percent:.2f} % of a core idle, another peer's file in {1000 * live:.0f} ms; then "
        f"{1000 * done['cpu_s'] / count:.2f} ms each, {done['seconds']:.1f} s in all "
        f"(origin {origin_s:.1f} s)",
    )


def run(settings: Settings) -> Report:
    report = Report("growth: with size, number of files, and transfers that wait")
    broker = Broker.start(settings.root / "node")
    link = broker.url(vhost=broker.add_vhost())
    try:
        with _sites(settings.root / "sites", link) as (pair, worker):
            _by_size(report, settings, pair, worker)
            _by_files(report, settings, pair, worker)
            _by_pending(report, settings, pair, link)
    finally:
        broker.stop()
    return report
