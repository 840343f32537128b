"""Two sites: alice gets, bob serves as a process of its own. Between them one link."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from chunkq.storage.transfers import TransferSummary, list_transfers
from tests.support.quick import Done, quick, run_inside

#: Longest wait for anything that must happen; the machine may be busy.
DEADLINE_S = 45.0
POLL_S = 0.01


class Running:
    """A command under way; what it says goes to files, so it never waits for a reader."""

    def __init__(
        self, command: list[str], logs: Path, environ: dict[str, str], cwd: Path | None = None
    ) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        stem = f"{len(list(logs.iterdir())):03d}"
        self._out, self._err = logs / f"{stem}.out", logs / f"{stem}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **environ},
                cwd=cwd,
            )

    @property
    def out(self) -> str:
        return self._out.read_text("utf-8", "surrogateescape")

    @property
    def err(self) -> str:
        return self._err.read_text("utf-8", "surrogateescape")

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> Done:
        """Wait for its end. No command may ever show a traceback."""
        code = self.process.wait(DEADLINE_S)
        done = Done(code, self.out, self.err)
        assert "Traceback" not in done.err
        return done

    def until_said(self, text: str) -> None:
        until(lambda: text in self.err or text in self.out or not self.alive)
        assert text in self.err + self.out, (self.process.poll(), self.err)

    def end(self) -> None:
        """SIGKILL, whatever it is doing, stopped included."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(DEADLINE_S)


def until(condition: Callable[[], object], limit_s: float = DEADLINE_S) -> None:
    """Wait until `condition` holds; fails after the deadline."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(POLL_S)


@dataclass(slots=True)
class Actor:
    """One site: its directories and its commands."""

    name: str
    root: Path
    running: list[Running] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.root / self.name / "config"

    @property
    def state(self) -> Path:
        return self.root / self.name / "state"

    @property
    def arguments(self) -> list[str]:
        return ["--config-dir", str(self.config), "--state-dir", str(self.state)]

    def quick(self, *args: str) -> str:
        """Run a command in this process; it must succeed. Returns its stdout."""
        return quick(*self.arguments, *args)

    def start(self, *args: str, cwd: Path | None = None, **environ: str) -> Running:
        """Start a command as a process of its own."""
        command = [sys.executable, "-m", "chunkq.cli.main", *self.arguments, *args]
        return self.launch(command, cwd=cwd, **environ)

    def launch(self, command: list[str], cwd: Path | None = None, **environ: str) -> Running:
        started = Running(command, self.root / "logs" / self.name, environ, cwd)
        self.running.append(started)
        return started

    def run(self, *args: str, **environ: str) -> Done:
        """Run a command to its end: in this process, unless it has an environment of its own."""
        if environ:
            return self.start(*args, **environ).wait()
        done = run_inside(*self.arguments, *args)
        assert "Traceback" not in done.err
        return done

    def end(self) -> None:
        for running in self.running:
            running.end()


class Pair:
    """alice, who gets, and bob, who offers `files` as the share `docs`."""

    def __init__(self, root: Path, url: str | None = None) -> None:
        self.root = root
        self.files = root / "files"
        self.inbox = root / "inbox"
        self.spool = root / "spool"
        for path in (self.files, self.inbox, self.spool):
            path.mkdir(parents=True)
        self.alice, self.bob = Actor("alice", root), Actor("bob", root)
        url = url or f"spool://{self.spool}"
        for actor in (self.alice, self.bob):
            actor.quick("init", "--name", actor.name, "--link", url)
        self.alice.quick("peer", "add", self.bob.quick("id"))
        self.bob.quick("peer", "add", self.alice.quick("id"))
        self.bob.quick("share", "add", "docs", str(self.files), "--to", "alice")

    def serve(self, *args: str, **environ: str) -> Running:
        """Start an origin worker and wait until it takes requests."""
        worker = self.bob.start(*args, "serve", **environ)
        worker.until_said('"serving"')
        return worker

    def offer(self, name: str, content: bytes) -> Path:
        path = self.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def get(self, *args: str, **environ: str) -> Done:
        return self.alice.run("get", *args, **environ)

    def transfers(self, directory: Path | None = None) -> list[TransferSummary]:
        return list_transfers(directory or self.inbox)

    def close(self) -> None:
        self.alice.end()
        self.bob.end()


#: So that a file of some MiB is many commits, and half way can be met.
OFTEN = {"CHUNKQ_REQUESTER_COMMIT_SIZE": "512KiB"}


def part_way(pair: Pair, worker: Running, getting: Running, chunks: int = 8) -> TransferSummary:
    """Let the transfer run until so many chunks are committed; the origin is stopped then.

    The origin runs in short spells, so that it never gets to the end in between.
    """
    found: list[TransferSummary] = []
    deadline = time.monotonic() + DEADLINE_S
    while not found:
        assert getting.alive, (getting.process.returncode, getting.out, getting.err)
        assert time.monotonic() < deadline, "the transfer never began"
        worker.send(signal.SIGCONT)
        time.sleep(0.02)
        worker.send(signal.SIGSTOP)
        time.sleep(0.05)
        found = [each for each in pair.transfers() if each.chunks_present >= chunks]
    assert found[0].chunks_present < found[0].chunks_total
    return found[0]


def contents(directory: Path) -> dict[str, bytes | None]:
    """Relative path to content, None for a directory; staging counts."""
    return {
        str(path.relative_to(directory)): None if path.is_dir() else path.read_bytes()
        for path in directory.rglob("*")
    }


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system of that size, for real."""
    path.mkdir()
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size={size},uid={os.geteuid()},gid={os.getegid()},mode=700"
    subprocess.run([*prefix, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        shutil.rmtree(path / ".chunkq", ignore_errors=True)
        subprocess.run([*prefix, "umount", "--lazy", str(path)], check=True)
