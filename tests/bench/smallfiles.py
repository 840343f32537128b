"""`smallfiles`: a tree of small files over RabbitMQ, against rsync from a daemon.

What a run brought stays until the end: ext4 looks at each inode that was freed within the last five
minutes before it takes another one, and in the wake of a removed tree every new file, of whomever,
costs several times as much.
"""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.measure import PeerMissing, Report, Settings, alternate, ratio, timed
from tests.bench.peer import command, first_line, program, server
from tests.bench.peer_rsync import CONFIG
from tests.e2e.processes import Pair, Process, wait_until
from tests.support.broker import Broker, free_ports

DEFAULT_FILES = 10_000
DIRECTORIES = 100
FILE_BYTES = 4096
OURS, SYNCED, PLAIN = "chunkq", "rsync --fsync", "rsync"


def make_tree(root: Path, files: int) -> None:
    """`files` files of random bytes, spread over the directories."""
    for number in range(DIRECTORIES):
        (root / f"d{number:03d}").mkdir(parents=True)
    for number in range(files):
        path = root / f"d{number % DIRECTORIES:03d}" / f"f{number // DIRECTORIES:05d}"
        path.write_bytes(os.urandom(FILE_BYTES))


def described(root: Path) -> dict[str, tuple[int, int, bytes]]:
    """Mode and time of each file and directory, and the content of files."""
    found = {}
    for path in root.rglob("*"):
        status = path.stat()
        content = b"" if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(root))] = (status.st_mode, status.st_mtime_ns, content)
    return found


@dataclass
class Targets:
    """A new directory for each run; the first result of each way is compared with the source."""

    source: Path
    root: Path
    numbers: Iterator[int] = field(default_factory=itertools.count)
    compared: set[str] = field(default_factory=set)

    def run(self, way: str, work: Callable[[Path], None]) -> float:
        target = self.root / f"target{next(self.numbers)}"
        taken = timed(lambda: work(target))
        if way not in self.compared:
            assert described(self.source) == described(target), f"{way} brought something else"
            self.compared.add(way)
        return taken


@dataclass
class Ours:
    """Two sites over a link; the origin serves."""

    pair: Pair
    worker: Process
    requester_mib: float = 0.0

    @classmethod
    @contextmanager
    def over(cls, root: Path, link: str, files: int) -> Iterator[Ours]:
        pair = Pair.make(root, link, link)
        try:
            make_tree(pair.files, files)
            worker = pair.bob.start("serve", CHUNKQ_LOG_FORMAT="json")
            wait_until(lambda: any(event.get("event") == "serving" for event in worker.events))
            worker.watch_memory()
            yield cls(pair, worker)
        finally:
            pair.end()

    def get(self, target: Path) -> None:
        """A whole `chunkq get`, from the start of the process to its exit."""
        process = self.pair.alice.start("--quiet", "get", "bob:files/", str(target))
        process.watch_memory()
        assert process.wait() == 0, process.log.read_text()
        self.requester_mib = max(self.requester_mib, process.peak_mib)


@contextmanager
def rsync_daemon(root: Path, tree: Path) -> Iterator[Callable[..., None]]:
    """Gets the tree from a daemon of our own. Raises PeerMissing."""
    rsync = program("rsync", "apt-get install rsync")
    (port,) = free_ports(1)
    config = root / "rsyncd.conf"
    config.write_text(CONFIG.format(port=port, path=tree, uid=os.getuid(), gid=os.getgid()))
    url = f"rsync://127.0.0.1:{port}/files/"
    with server([rsync, "--daemon", "--no-detach", f"--config={config}"], port, root / "rsync.log"):
        yield lambda target, *options: command(rsync, "-a", *options, url, f"{target}/")


def run(settings: Settings) -> Report:
    files = settings.counted(DEFAULT_FILES)
    report = Report(f"smallfiles: {files} files of 4 KiB over RabbitMQ, {settings.pairs} rounds")
    broker = Broker.start(settings.root / "node")
    try:
        link = broker.url(vhost=broker.add_vhost())
        with Ours.over(settings.root / "sites", link, files) as ours:
            targets = Targets(ours.pair.files, settings.root)
            ways = {OURS: lambda: targets.run(OURS, ours.get)}
            try:
                with rsync_daemon(settings.root, ours.pair.files) as rsync:
                    report.about["rsync"] = first_line("rsync", "--version").split()[2]
                    seconds = alternate(
                        {
                            **ways,
                            SYNCED: lambda: targets.run(SYNCED, lambda to: rsync(to, "--fsync")),
                            PLAIN: lambda: targets.run(PLAIN, rsync),
                        },
                        settings,
                    )
            except PeerMissing as error:
                for key, peer in (("ratio_rsync_fsync", SYNCED), ("ratio_rsync", PLAIN)):
                    report.absent(key, f"chunkq ÷ {peer}", str(error))
                seconds = alternate(ways, settings)
            peaks = {"requester": ours.requester_mib, "origin": ours.worker.peak_mib}
        report.about["RabbitMQ"] = broker.version()
    finally:
        broker.stop()
    _tell(report, files, seconds, peaks)
    return report


def _tell(
    report: Report, files: int, seconds: dict[str, list[float]], peaks: dict[str, float]
) -> None:
    rates = {name: files / statistics.median(taken) for name, taken in seconds.items()}
    report.figure("files_per_s", "chunkq get, durable", rates.pop(OURS), " files/s")
    for name, rate in rates.items():
        report.row(f"{name} -a", f"{rate:.0f} files/s")
    for key, peer in (("ratio_rsync_fsync", SYNCED), ("ratio_rsync", PLAIN)):
        if peer in seconds:
            report.figure(key, f"chunkq ÷ {peer} -a", ratio(seconds, OURS, peer))
    for who, peak in peaks.items():
        report.figure(f"{who}_rss_mib", f"largest resident size, {who}", peak, " MiB")
