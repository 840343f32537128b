"""`smallfiles`: a tree of small files over RabbitMQ, against rsync from a daemon."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import Report, Settings, alternate, ratio, timed
from tests.e2e.processes import Pair, Process, wait_until
from tests.support.broker import Broker

#: 10,000 files of 4 KiB in 100 directories.
FILES = 10_000
DIRECTORIES = 100
FILE_BYTES = 4096
DEFAULT_MIB = FILES * FILE_BYTES // (1 << 20)
DEADLINE_S = 60
NEED_RSYNC = "rsync is missing; on Debian, as root: apt-get install rsync"


def make_tree(root: Path, files: int) -> None:
    """`files` files of random bytes, spread over the directories."""
    for number in range(DIRECTORIES):
        (root / f"d{number:03d}").mkdir(parents=True)
    for number in range(files):
        path = root / f"d{number % DIRECTORIES:03d}" / f"f{number // DIRECTORIES:05d}"
        path.write_bytes(os.urandom(FILE_BYTES))


def described(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode, time and content of each file; mode and time of each directory."""
    found = {}
    for path in root.rglob("*"):
        status = path.stat()
        content = b"" if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(root))] = (status.st_mode, status.st_mtime_ns, content)
    return found


@contextmanager
def rsync_daemon(root: Path, tree: Path) -> Iterator[str]:
    """A daemon of our own on 127.0.0.1 that offers `tree`; its URL."""
    program = shutil.which("rsync")
    if program is None:
        raise SystemExit(NEED_RSYNC)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = root / "rsyncd.conf"
    config.write_text(f"use chroot = no\naddress = 127.0.0.1\n[tree]\npath = {tree}\n")
    command = [program, "--daemon", "--no-detach", f"--port={port}", f"--config={config}"]
    daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + DEADLINE_S
        while not _listens(port):
            assert daemon.poll() is None, "the rsync daemon did not start"
            assert time.monotonic() < end, "the rsync daemon does not listen"
            time.sleep(0.05)
        yield f"rsync://127.0.0.1:{port}/tree/"
    finally:
        daemon.terminate()
        daemon.wait(DEADLINE_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Runs:
    """Both ways to the same tree; each run leaves nothing behind."""

    pair: Pair
    worker: Process
    url: str
    target: Path
    requester_mib: float = 0.0
    compare: bool = True

    def chunkq(self) -> float:
        """A whole `chunkq get`."""
        return self._run(self._get)

    def rsync(self, *options: str) -> float:
        """A whole `rsync -a`."""
        command = ["rsync", "-a", *options, self.url, f"{self.target}/"]
        return self._run(lambda: subprocess.run(command, check=True))

    def _get(self) -> None:
        process = self.pair.alice.start("--quiet", "get", "bob:files/", str(self.target))
        process.watch_memory()
        assert process.wait() == 0, process.log.read_text()
        self.requester_mib = max(self.requester_mib, process.peak_mib)

    def _run(self, work: object) -> float:
        assert callable(work)
        taken = timed(work)
        if self.compare:
            assert described(self.pair.files) == described(self.target), "the trees differ"
        shutil.rmtree(self.target)
        return taken


def run(settings: Settings) -> Report:
    files = settings.size_bytes(DEFAULT_MIB) // FILE_BYTES if settings.size_mib else FILES
    if shutil.which("rsync") is None:
        raise SystemExit(NEED_RSYNC)
    broker = Broker.start(settings.root / "node")
    try:
        link = broker.url(vhost=broker.add_vhost())
        pair = Pair.make(settings.root / "sites", link, link)
        try:
            make_tree(pair.files, files)
            worker = pair.bob.start("serve", CHUNKQ_LOG_FORMAT="json")
            wait_until(lambda: any(event.get("event") == "serving" for event in worker.events))
            worker.watch_memory()
            with rsync_daemon(settings.root, pair.files) as url:
                runs = Runs(pair, worker, url, settings.root / "target")
                for once in (runs.chunkq, runs.rsync):  # what arrives is compared here, once
                    once()
                runs.compare = False
                ways = {
                    "chunkq": runs.chunkq,
                    "rsync --fsync": lambda: runs.rsync("--fsync"),
                    "rsync": runs.rsync,
                }
                seconds = alternate(ways, settings)
        finally:
            pair.end()
    finally:
        broker.stop()
    title = f"smallfiles: {files} files of 4 KiB over RabbitMQ, {settings.pairs} rounds"
    report = Report(title)
    medians = {name: sorted(taken)[len(taken) // 2] for name, taken in seconds.items()}
    report.figure("files_per_s", "chunkq get, durable", files / medians["chunkq"], " files/s")
    report.row("rsync -a --fsync", f"{files / medians['rsync --fsync']:.0f} files/s")
    report.row("rsync -a", f"{files / medians['rsync']:.0f} files/s")
    fsync = ratio(seconds, "chunkq", "rsync --fsync")
    report.figure("ratio_rsync_fsync", "chunkq ÷ rsync -a --fsync", fsync)
    report.figure("ratio_rsync", "chunkq ÷ rsync -a", ratio(seconds, "chunkq", "rsync"))
    report.figure(
        "requester_rss_mib", "largest resident size, requester", runs.requester_mib, " MiB"
    )
    report.figure("origin_rss_mib", "largest resident size, origin", worker.peak_mib, " MiB")
    return report
