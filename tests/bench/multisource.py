"""`multisource`: one file from three origins at 10:3:1, of which the fastest dies half way.

Each origin's link has a byte rate (a token bucket in front of the broker). What could have been
delivered is each one's rate times the time that it lived, and its burst; the share is what was
delivered of that: by a requester that runs already, and by `chunkq get` from its start to its exit.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chunkq.storage.transfers import list_transfers
from tests.bench.getting import ask_requester, start_requester
from tests.bench.measure import MB, MIB, Report, Settings, alternate
from tests.e2e.processes import Process, Site, random_file, same, wait_until
from tests.support.broker import Broker

DEFAULT_MIB = 128
#: Bytes a second of each origin: slow enough that neither side's processor counts.
RATES = {"ten": 10 * MIB, "three": 3 * MIB, "one": MIB}
#: What may pass at once after a pause: a chunk, so that bursts add next to nothing.
BURST_BYTES = 256 << 10
#: The one that is killed, while the file is this much there.
DYING, DIES_AT = "ten", 0.5
SOURCES = [f"{name}:files/file" for name in RATES]
OURS, COMMAND = "chunkq, link open", "chunkq get, whole process"
#: How exactly "half way" is seen.
POLL_S = 0.02
OFTEN = {"CHUNKQ_REQUESTER_COMMIT_INTERVAL": "250ms"}


@dataclass
class Life:
    """How one round went: seconds from start to exit, and until the kill if there was one."""

    ended_s: float
    killed_s: float | None
    brought: dict[str, int]

    def could_bytes(self, name: str) -> float:
        """What an origin could have delivered while it lived."""
        killed_s = self.killed_s if name == DYING else None
        return RATES[name] * (killed_s or self.ended_s) + BURST_BYTES


class Sites:
    """A requester and the three origins, each with its own copy of the file."""

    def __init__(self, root: Path, url: str, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self._inbox = root / "inbox"
        self._inbox.mkdir(parents=True)
        self._target = self._inbox / "file"
        self.alice = Site(root / "alice", "alice")
        self.origins = {name: Site(root / name, name) for name in RATES}
        self._workers: dict[str, Process] = {}
        self._source = root / "file"
        random_file(self._source, size_bytes)
        for site in (self.alice, *self.origins.values()):
            site.root.mkdir()
            site.quick("init", "--name", site.name, "--link", url)
        for name, origin in self.origins.items():
            shutil.copyfile(self._source, self._files(name) / "file")
            self.alice.quick("peer", "add", origin.quick("id"))
            origin.quick("peer", "add", self.alice.quick("id"))
            origin.quick("share", "add", "files", str(self._files(name)), "--to", "alice")
            limit_rate(origin.root / "config" / "config.toml", RATES[name])
        self.start()
        self._requester = start_requester(self.alice, DYING, **OFTEN)

    def _files(self, name: str) -> Path:
        path = self.origins[name].root / "files"
        path.mkdir(exist_ok=True)
        return path

    def end(self) -> None:
        self._requester.popen.communicate(timeout=60)  # its input ends, and so does it
        for site in (self.alice, *self.origins.values()):
            site.end()

    def start(self) -> None:
        """See that every origin serves: the one that was killed is started again."""
        for name, origin in self.origins.items():
            worker = self._workers.get(name)
            if worker is None or worker.popen.poll() is not None:
                self._workers[name] = origin.start("serve", CHUNKQ_LOG_FORMAT="json")
        for worker in self._workers.values():
            wait_until(
                lambda it=worker: any(event.get("event") == "serving" for event in it.events)
            )

    def running(self) -> Life:
        """Let the requester that runs get the file."""
        return self._live(lambda: ask_requester(self._requester, " ".join(SOURCES), self._target))

    def command(self) -> Life:
        """Get the file by a command."""
        return self._live(self._command)

    def _command(self) -> dict[str, Any]:
        process = self.alice.start("get", "--json", *SOURCES, str(self._target), **OFTEN)
        assert process.wait() == 0, process.log.read_text()
        said = [json.loads(line) for line in process.log.read_text().splitlines()]
        result: dict[str, Any] = next(each for each in said if each["type"] == "result")
        return result

    def _live(self, get: Callable[[], dict[str, Any]]) -> Life:
        """Get it from all of them; kill one half way."""
        self.start()
        killed_s: float | None = None
        with ThreadPoolExecutor(1) as pool:
            began = time.monotonic()
            getting = pool.submit(get)
            while not wait([getting], timeout=POLL_S).done:
                if killed_s is None and self._present() >= DIES_AT:
                    self._workers[DYING].kill()
                    killed_s = time.monotonic() - began
            ended_s = time.monotonic() - began
        said = getting.result()
        assert same(self._source, self._target), "what arrived is not what was sent"
        self._target.unlink()
        return Life(ended_s, killed_s, said["origins"])

    def _present(self) -> float:
        """How much of the file is there, as of the last commit."""
        found = [each for each in list_transfers(self._inbox) if each.chunks_total]
        return found[0].chunks_present / found[0].chunks_total if found else 0.0


def limit_rate(config: Path, bytes_per_s: int) -> None:
    """Give the default link a byte rate."""
    text = config.read_text()
    head, url, tail = text.partition("\nurl = ")
    line, _, rest = tail.partition("\n")
    limits = f'send_rate = "{bytes_per_s // 1024}KiB"\nburst = "{BURST_BYTES // 1024}KiB"\n'
    config.write_text(f"{head}{url}{line}\n{limits}{rest}")


@contextmanager
def running(settings: Settings, size_bytes: int) -> Iterator[Sites]:
    broker = Broker.start(settings.root / "node")
    try:
        sites = Sites(settings.root / "sites", broker.url(vhost=broker.add_vhost()), size_bytes)
        try:
            yield sites
        finally:
            sites.end()
    finally:
        broker.stop()


def run(settings: Settings) -> Report:
    size = settings.size_bytes(DEFAULT_MIB)
    lives: dict[str, list[Life]] = {OURS: [], COMMAND: []}
    with running(settings, size) as sites:

        def one(name: str, get: Callable[[], Life]) -> float:
            lives[name].append(get())
            return lives[name][-1].ended_s

        alternate(
            {
                OURS: lambda: one(OURS, sites.running),
                COMMAND: lambda: one(COMMAND, sites.command),
            },
            settings,
        )
    report = Report(f"multisource: {size >> 20} MiB at 10:3:1, {settings.pairs} rounds")
    for key, name in (("", OURS), ("_command", COMMAND)):
        shares = [size / sum(map(life.could_bytes, RATES)) for life in lives[name]]
        report.figure(f"share_of_sum{key}", f"{name}: of the sum", statistics.median(shares))
        report.figure(f"share_of_sum{key}_worst", f"{name}: the worst round", min(shares))
    for name, rate in RATES.items():
        brought = statistics.median(life.brought[name] for life in lives[OURS])
        died = " (killed half way)" if name == DYING else ""
        report.row(f"{rate / MB:.1f} MB/s origin brought", f"{brought / MB:.0f} MB{died}")
    return report
