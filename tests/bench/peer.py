"""What every peer of `peers` has: a way to run it, and servers that end with the block."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.measure import PeerMissing, timed
from tests.e2e.processes import same

#: A server that is not up by then will not come up.
START_TIMEOUT_S = 30.0
#: No transfer takes so long on a machine that works.
DEADLINE_S = 600.0


@dataclass
class Peer:
    """`move` brings the source to the target and returns the seconds that it took.

    `tidy` removes what the peer itself keeps of it.
    """

    version: str
    source: Path
    target: Path
    move: Callable[[], float]
    tidy: Callable[[], None]
    #: What `sync` of the target took after each round: not part of what `run` returns.
    sync_s: list[float] = field(default_factory=list)
    _compared: bool = False

    def run(self) -> float:
        """One round, of which nothing stays behind. The first one's result is compared."""
        taken = self.move()
        self.sync_s.append(timed(lambda: command("sync", self.target)))
        if not self._compared:
            assert same(self.source, self.target), "what arrived is not what was sent"
            self._compared = True
        self.target.unlink()
        self.tidy()
        return taken


def program(name: str, install: str) -> str:
    """Where a program is. Raises PeerMissing with the sentence `install`."""
    # Debian keeps servers where the path of a user does not look.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise PeerMissing(f"{name} is not installed; {install}")
    return found


def first_line(*command: str) -> str:
    """What a program says of its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0].strip()


def command(*words: str | Path, cwd: Path | None = None) -> None:
    """Run it to its end; what it said is in the error if it failed."""
    done = subprocess.run(
        words, cwd=cwd, capture_output=True, text=True, check=False, timeout=DEADLINE_S
    )
    assert done.returncode == 0, f"{words} failed ({done.returncode}): {done.stdout}{done.stderr}"


@contextmanager
def server(words: Sequence[str | Path], port: int, log: Path) -> Iterator[None]:
    """A process that listens on 127.0.0.1; ended with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _listens(port):
            assert process.poll() is None, f"{words} ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"{words} did not come up: {log.read_text()}"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False
