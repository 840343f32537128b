"""`profile`: what each microsecond per chunk goes to, at the requester and at the origin.

A requester that runs gets one large file over RabbitMQ, new to the origin each time, while `perf
record` samples both processes; `--pairs` says how often. The shares are of the samples, the
microseconds are the kernel's own count of each process's CPU time, divided by the chunks.
Then once more with `py-spy`: which functions the interpreter's part belongs to.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from chunkq.protocol.limits import DEFAULT_CHUNK_SIZE_BYTES
from tests.bench import functions, stacks
from tests.bench.getting import Getting
from tests.bench.measure import PeerMissing, Report, Settings, alternate, rate
from tests.support.broker import Broker

DEFAULT_MIB = 1024
#: Samples a second and thread: not a divisor of anything that runs on a timer.
FREQUENCY_HZ = 499
INSTALL = "apt-get install linux-perf"
INSTALL_SPY = "pip install py-spy"
#: Functions told of each process; what follows has a hundredth each.
FUNCTIONS = 15
US = 1e6


class Recording:
    """`perf record` of some processes while the block runs."""

    def __init__(self, perf: str, file: Path) -> None:
        self._perf = perf
        self._file = file

    @contextmanager
    def of(self, pids: list[int]) -> Iterator[None]:
        """Raises PeerMissing if this kernel does not let us, AssertionError if perf fails."""
        given = ["-F", str(FREQUENCY_HZ), "-g", "-p", ",".join(map(str, pids))]
        recorder = subprocess.Popen(
            [self._perf, "record", "--quiet", *given, "-o", self._file],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield
        finally:
            recorder.send_signal(signal.SIGINT)
            _, said = recorder.communicate()
        if not self._file.exists() or not self._file.stat().st_size:
            raise PeerMissing(
                "perf may not record here: run as root, or set kernel.perf_event_paranoid to 1, "
                f"or install the perf of this kernel ({' '.join(said.split())[:200]})"
            )

    def shares(self) -> dict[int, dict[str, float]]:
        fields = ["-F", "comm,pid,tid,ip,sym,dso"]
        script = subprocess.Popen(
            [self._perf, "script", "-i", self._file, *fields],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert script.stdout is not None
        with script.stdout:
            found = stacks.shares(stacks.parse(script.stdout))
        assert script.wait() == 0, "perf script failed"
        return found


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


class Spying:
    """`py-spy` on some processes while the block runs: who holds the interpreter's lock."""

    def __init__(self, spy: str, directory: Path) -> None:
        self._spy = spy
        self._directory = directory

    @contextmanager
    def on(self, pids: list[int]) -> Iterator[None]:
        options = ["-r", str(FREQUENCY_HZ), "-f", "raw", "--gil", "--nonblocking", "--nolineno"]
        spies = [
            subprocess.Popen(
                [self._spy, "record", "-p", str(pid), *options, "-o", self._file(pid)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for pid in pids
        ]
        try:
            yield
        finally:
            for spy in spies:
                spy.send_signal(signal.SIGINT)
                spy.wait()

    def shares(self, pid: int) -> dict[str, float]:
        """Empty if it may not look into the process."""
        file = self._file(pid)
        return functions.shares(file.read_text().splitlines()) if file.exists() else {}

    def _file(self, pid: int) -> Path:
        return self._directory / f"{pid}.raw"


def run(settings: Settings) -> Report:
    size = settings.size_bytes(DEFAULT_MIB)
    report = Report(f"profile: {size >> 20} MiB over RabbitMQ, {settings.pairs} rounds")
    broker = Broker.start(settings.root / "node")
    try:
        url = broker.url(vhost=broker.add_vhost())
        with Getting.over(settings.root / "sites", url, size) as getting:
            getting.running_unknown()
            pids = {
                "requester": getting.running.popen.pid,
                "origin": getting.worker.popen.pid,
                "broker": broker.pid,
            }
            before = {who: cpu_s(pid) for who, pid in pids.items()}
            sampled = list(pids.values())[:2]
            found, taken = _sampled(report, getting, sampled, settings)
            used = {who: cpu_s(pid) - before[who] for who, pid in pids.items()}
            held = _spied(report, getting, sampled, settings)
        report.about["RabbitMQ"] = broker.version()
    finally:
        broker.stop()
    chunks = settings.pairs * -(-size // DEFAULT_CHUNK_SIZE_BYTES)
    per_chunk = {who: seconds / chunks * US for who, seconds in used.items()}
    report.figure("mb_per_s", "rate while sampled", rate(size, taken), " MB/s")
    for who, us in per_chunk.items():
        report.figure(f"{who}_us_per_chunk", f"CPU of the {who}, per chunk", us, " µs")
    both = ("requester", "origin")
    if found:
        _tell(report, per_chunk, {who: found.get(pids[who], {}) for who in both})
    for who in both:
        top = list(held.get(pids[who], {}).items())[:FUNCTIONS]
        for name, share in top:
            report.row(f"of the {who}'s interpreter", f"{share:6.1%}  {name}")
        if top:
            report.figures[f"{who}_functions"] = {name: round(share, 3) for name, share in top}
    return report


def _rounds(getting: Getting, settings: Settings) -> list[float]:
    return alternate({"chunkq": getting.running_unknown}, settings)["chunkq"]


def _sampled(
    report: Report, getting: Getting, pids: list[int], settings: Settings
) -> tuple[dict[int, dict[str, float]], list[float]]:
    """The shares by process, and the seconds that the rounds took. No shares without perf."""
    taken: list[float] = []
    try:
        perf = shutil.which("perf")
        if perf is None:
            raise PeerMissing(f"perf is not installed; {INSTALL}")
        recording = Recording(perf, settings.root / "perf.data")
        with recording.of(pids):
            taken = _rounds(getting, settings)
        return recording.shares(), taken
    except PeerMissing as error:
        report.absent("parts", "where it goes", str(error))
        return {}, taken or _rounds(getting, settings)


def _spied(
    report: Report, getting: Getting, pids: list[int], settings: Settings
) -> dict[int, dict[str, float]]:
    """By process, its functions' shares of the interpreter."""
    spy = shutil.which("py-spy", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    if spy is None:
        report.absent("functions", "which functions", f"py-spy is not installed; {INSTALL_SPY}")
        return {}
    spying = Spying(spy, settings.root)
    with spying.on(pids):
        _rounds(getting, settings)
    found = {pid: spying.shares(pid) for pid in pids}
    if not all(found.values()):
        report.absent("functions", "which functions", "py-spy must be installed and run as root")
    return found


def _tell(report: Report, per_chunk: dict[str, float], found: dict[str, dict[str, float]]) -> None:
    """A row to a category, the dearest first; in the JSON `parts`, in µs per chunk."""
    parts = {
        who: {name: share * per_chunk[who] for name, share in of_one.items()}
        for who, of_one in found.items()
    }
    report.figures["parts"] = {
        who: {name: round(us, 1) for name, us in of_one.items()} for who, of_one in parts.items()
    }
    names = {name for of_one in parts.values() for name in of_one}
    report.row("", "".join(f"{who:>20}" for who in found))
    for name in sorted(names, key=lambda name: -sum(each.get(name, 0) for each in parts.values())):
        cells = [
            f"{parts[who].get(name, 0):9.1f} µs {of_one.get(name, 0):6.1%}"
            for who, of_one in found.items()
        ]
        report.row(name, "".join(f"{cell:>20}" for cell in cells))
