"""Two sites as real processes: what the large tests start, kill and watch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from chunkq.protocol.packet import EPOCH_RANDOM_BITS
from tests.support.quick import quick

#: Nothing in these tests takes so long on a machine that works.
DEADLINE_S = 240.0


def wait_until(condition: Callable[[], bool], *, deadline_s: float = DEADLINE_S) -> None:
    """Look until it holds; fails after the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come to hold in time"
        time.sleep(0.02)


@dataclass
class Process:
    """A chunkq command under way, its stderr in a file, its largest resident memory in MiB."""

    popen: subprocess.Popen[bytes]
    log: Path
    peak_mib: float = 0.0
    _watcher: threading.Thread | None = field(default=None, repr=False)

    def watch_memory(self) -> None:
        """Keep the kernel's own high-water mark until the process ends."""

        def look() -> None:
            path = Path(f"/proc/{self.popen.pid}/status")
            while self.popen.poll() is None:
                try:
                    for line in path.read_text().splitlines():
                        if line.startswith("VmHWM:"):
                            self.peak_mib = max(self.peak_mib, int(line.split()[1]) / 1024)
                except OSError:
                    return
                time.sleep(0.05)

        self._watcher = threading.Thread(target=look, daemon=True)
        self._watcher.start()

    def kill(self) -> None:
        """SIGKILL."""
        self.popen.kill()
        self.popen.wait()

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        self.popen.terminate()
        return self.popen.wait(timeout=60)

    def wait(self) -> int:
        return self.popen.wait(timeout=DEADLINE_S)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log so far, without a line that is being written."""
        lines = self.log.read_text(errors="replace").splitlines()
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [event for event in found if isinstance(event, dict)]


class Site:
    """A site with directories of its own."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self.processes: list[Process] = []

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def places(self) -> list[str]:
        return ["--config-dir", str(self.root / "config"), "--state-dir", str(self.state)]

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "chunkq.cli.main", *self.places, *arguments]

    def quick(self, *arguments: str) -> str:
        """What needs no process of its own: setting up. Returns what it printed."""
        return quick(*self.places, *arguments)

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, timeout=120, check=False
        )
        assert 0 == done.returncode, done.stderr
        return done.stdout.strip()

    def start(self, *arguments: str, **environ: str) -> Process:
        log = self.root / f"{len(self.processes)}.log"
        with log.open("wb") as stderr:
            popen = subprocess.Popen(
                self.command(*arguments),
                stdin=subprocess.DEVNULL,
                stdout=stderr,
                stderr=stderr,
                env={**os.environ, **environ},
            )
        process = Process(popen, log)
        self.processes.append(process)
        return process

    def serve(self) -> Process:
        """A worker that logs every request; returns once it is ready."""
        worker = self.start("serve", CHUNKQ_LOG_LEVEL="debug", CHUNKQ_LOG_FORMAT="json")
        wait_until(lambda: any(event.get("event") == "serving" for event in worker.events))
        return worker

    def end(self) -> None:
        for process in self.processes:
            if process.popen.poll() is None:
                process.kill()


@dataclass
class Pair:
    """`alice` gets from `bob`, who offers the directory `files` as the share `files`."""

    alice: Site
    bob: Site
    files: Path
    inbox: Path

    @classmethod
    def make(cls, root: Path, alice_link: str, bob_link: str) -> Pair:
        pair = cls(Site(root / "a", "alice"), Site(root / "b", "bob"), root / "files", root / "in")
        for directory in (pair.alice.root, pair.bob.root, pair.files, pair.inbox):
            directory.mkdir(parents=True)
        pair.alice.quick("init", "--name", "alice", "--link", alice_link)
        pair.bob.quick("init", "--name", "bob", "--link", bob_link)
        pair.alice.quick("peer", "add", pair.bob.quick("id"))
        pair.bob.quick("peer", "add", pair.alice.quick("id"))
        pair.bob.quick("share", "add", "files", str(pair.files), "--to", "alice")
        return pair

    def end(self) -> None:
        self.alice.end()
        self.bob.end()


def asked_after(event: dict[str, Any], moment: float) -> bool:
    """Whether chunks were sent to a requester that was started after a moment (unix time).

    An epoch is the start of a requester, in milliseconds above its random bits.
    """
    if event.get("event") != "chunks_sent":
        return False
    return bool((event["epoch"] >> EPOCH_RANDOM_BITS) / 1000 > moment)


def random_file(path: Path, size_bytes: int) -> None:
    """A file that neither compresses nor repeats."""
    with path.open("wb") as file:
        left = size_bytes
        while left:
            left -= file.write(os.urandom(min(left, 4 << 20)))


def same(first: Path, second: Path) -> bool:
    """Whether two files have the same bytes."""
    return 0 == subprocess.run(["cmp", "-s", first, second], check=False).returncode


def available_disk(path: Path) -> int:
    return psutil.disk_usage(str(path)).free
