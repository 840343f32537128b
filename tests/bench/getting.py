"""Our side of a comparison: `chunkq serve` runs, and a file is got in one of two ways.

`chunkq get`, from the start of its process to its exit; or by a requester that runs already, from
the call to the published file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.measure import timed
from tests.e2e.processes import Pair, Process, Site, random_file, same, wait_until

#: The program of a requester that runs.
REQUESTER = "tests.bench.requester"


@dataclass
class Getting:
    """One file offered, got as often as asked. `peaks` are the largest resident sizes in MiB.

    `running` is the requester that runs already.
    """

    pair: Pair
    worker: Process
    source: Path
    target: Path
    running: Process
    requester_mib: float = 0.0
    others: list[Process] = field(default_factory=list)

    @classmethod
    @contextmanager
    def over(
        cls, root: Path, link: str, size_bytes: int, *, requester_link: str | None = None
    ) -> Iterator[Getting]:
        """Two sites on a link, the origin serving with its usual logging.

        `requester_link`: where the requester reaches it by another way.
        """
        pair = Pair.make(root, requester_link or link, link)
        try:
            source = pair.files / "file"
            random_file(source, size_bytes)
            worker = pair.bob.start("serve", CHUNKQ_LOG_FORMAT="json")
            wait_until(lambda: any(event.get("event") == "serving" for event in worker.events))
            worker.watch_memory()
            running = start_requester(pair.alice, "bob")
            getting = cls(pair, worker, source, pair.inbox / "file", running)
            try:
                yield getting
            finally:
                for each in (running, *getting.others):
                    each.popen.communicate(timeout=60)  # its input ends, and so does it
        finally:
            pair.end()

    def unknown(self) -> float:
        """Get it as a file that the origin has never seen: it is hashed first."""
        os.utime(self.source)
        return self.known()

    def running_unknown(self) -> float:
        """The same from a requester that runs, its link open."""
        os.utime(self.source)
        return self.running_known()

    def another(self, module: str) -> Process:
        """A second requester that runs, of another program."""
        other = start_requester(self.pair.alice, "bob", module)
        self.others.append(other)
        return other

    def running_known(self, requester: Process | None = None) -> float:
        """As `known`, from a requester that runs."""
        taken: float = self.fetch(requester)["seconds"]
        self._check()
        return taken

    def fetch(self, requester: Process | None = None) -> dict[str, Any]:
        """Let a requester that runs fetch it; what that took, in `seconds` and `cpu_s`."""
        return ask_requester(requester or self.running, "bob:files/file", self.target)

    def known(self) -> float:
        """Get it; the origin has its manifest if it was got before."""
        taken = timed(self._get)
        self._check()
        return taken

    @property
    def peaks(self) -> dict[str, float]:
        requester = max(self.requester_mib, self.running.peak_mib)
        return {"requester": requester, "origin": self.worker.peak_mib}

    def _check(self) -> None:
        assert same(self.source, self.target), "what arrived is not what was sent"
        assert self.worker.popen.poll() is None, self.worker.log.read_text()
        self.target.unlink()

    def _get(self) -> None:
        process = self.pair.alice.start("--quiet", "get", "bob:files/file", str(self.target))
        process.watch_memory()
        assert process.wait() == 0, process.log.read_text()
        self.requester_mib = max(self.requester_mib, process.peak_mib)


def start_requester(site: Site, peer: str, module: str = REQUESTER, **environ: str) -> Process:
    """A requester of this site that runs, with its link to a peer open."""
    log = site.root / f"requester-{len(site.processes)}.log"
    program = [sys.executable, "-m", module]
    with log.open("wb") as stderr:
        popen = subprocess.Popen(
            [*program, str(site.root / "config"), str(site.state), peer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **environ},
        )
    process = Process(popen, log)
    site.processes.append(process)
    assert popen.stdout is not None
    assert popen.stdout.readline() == b"ready\n", log.read_text()
    process.watch_memory()
    return process


def ask(requester: Process, sources: str, target: Path) -> None:
    """Let a requester that runs begin to fetch one file; `told` says how it went."""
    stdin = requester.popen.stdin
    assert stdin is not None
    stdin.write(f"{sources}\t{target}\n".encode())
    stdin.flush()


def told(requester: Process) -> dict[str, Any]:
    """Wait for the end of what was asked; what the requester says of it."""
    assert requester.popen.stdout is not None
    line = requester.popen.stdout.readline()
    assert line, requester.log.read_text()
    said: dict[str, Any] = json.loads(line)
    return said


def ask_requester(requester: Process, sources: str, target: Path) -> dict[str, Any]:
    """Let it fetch one file; what it says of that."""
    ask(requester, sources, target)
    return told(requester)
