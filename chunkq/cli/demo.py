"""`chunkq demo`: two sites, a queue between them, a kill -9 half way, and the file is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Self

import typer

from chunkq.cli import console

EXAMPLES: Final = """\b
Examples:
  chunkq demo                                   over a spool directory
  chunkq demo --keep                            and look at what it leaves
  chunkq demo --amqp amqp://guest:guest@127.0.0.1:5672/
"""

#: Large enough to be killed half way, small enough for any machine.
FILE_BYTES: Final = 64 << 20
_BLOCK_BYTES: Final = 1 << 20
#: Commits often, so that half way is half way on a machine where all of it takes a second.
_COMMIT_SIZE: Final = "4MiB"
#: No step takes so long on a machine that works.
_STEP_LIMIT_S: Final = 60.0
_POLL_S: Final = 0.005

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES)
def demo(
    *,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the directory of the demo.")] = False,
    amqp: Annotated[
        str | None, typer.Option(metavar="URL", help="Use this RabbitMQ instead of a spool.")
    ] = None,
) -> int:
    """Show in seconds what chunkq does: a transfer, killed with SIGKILL, resumed, verified."""
    root = Path(tempfile.mkdtemp(prefix="chunkq-demo-"))
    try:
        with _Stage(root, amqp) as stage:
            stage.play()
    finally:
        if keep:
            console.note(f"kept: {root}")
        else:
            shutil.rmtree(root, ignore_errors=True)
    return 0


@dataclass(frozen=True, slots=True)
class _Actor:
    """A site of the demo, with directories of its own."""

    name: str
    root: Path

    @property
    def command(self) -> list[str]:
        program = [sys.executable, "-m", "chunkq.cli.main"]
        return [*program, "--config-dir", str(self.root / "config"), "--state-dir", str(self.state)]

    @property
    def state(self) -> Path:
        return self.root / "state"

    def run(self, *arguments: str) -> str:
        """Run a command to its end; returns its stdout. Raises `ChunkqError`."""
        from chunkq.errors import ChunkqError

        done = subprocess.run(
            [*self.command, *arguments],
            capture_output=True,
            text=True,
            timeout=_STEP_LIMIT_S,
            check=False,
        )
        if done.returncode:
            shown = f"chunkq {' '.join(arguments)}"
            raise ChunkqError(f"{shown} failed ({done.returncode}): {done.stderr.strip()}")
        return done.stdout.strip()


class _Stage:
    """The two sites, the queue and the curtain."""

    def __init__(self, root: Path, amqp: str | None) -> None:
        suffix = os.urandom(3).hex() if amqp else ""  # a broker may be shared with another demo
        self._alice = _Actor(f"alice{suffix}", root / "alice")
        self._bob = _Actor(f"bob{suffix}", root / "bob")
        self._spool = root / "spool"
        self._link = amqp or f"spool://{self._spool}"
        self._queue = "RabbitMQ" if amqp else "a spool directory"
        self._source = root / "files" / "holiday.mov"
        self._target = root / "inbox" / "holiday.mov"
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def play(self) -> None:
        self._make_sites()
        self._offer()
        with self._serving():
            self._get_half()
            self._resume()
            self._check()

    # ------------------------------------------------------------ the acts

    def _make_sites(self) -> None:
        _say("1", f"Two sites, alice and bob. Between them there is only {self._queue}.")
        self._spool.mkdir()
        for actor in (self._alice, self._bob):
            actor.run("init", "--name", actor.name, "--link", self._link)
        _say("2", "Each pins the other's card: a name and two public keys on one line.")
        for actor, other in ((self._alice, self._bob), (self._bob, self._alice)):
            actor.run("peer", "add", other.run("id"))
        _show(f"bob's card   {self._bob.run('id')[:60]}…")

    def _offer(self) -> None:
        _say("3", "Bob offers a directory with a file of 64 MiB to alice, and serves it.")
        self._source.parent.mkdir()
        self._target.parent.mkdir()
        with self._source.open("wb") as file:
            for _ in range(FILE_BYTES // _BLOCK_BYTES):
                file.write(os.urandom(_BLOCK_BYTES))
        directory = str(self._source.parent)
        self._bob.run("share", "add", "films", directory, "--to", self._alice.name)
        _show("bob$    chunkq share add films … --to alice && chunkq serve")

    @contextlib.contextmanager
    def _serving(self) -> Iterator[None]:
        process = self._start(self._bob, "--quiet", "serve")
        try:
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=_STEP_LIMIT_S)

    def _get_half(self) -> None:
        from chunkq.errors import ChunkqError, ExitCode, Unreachable
        from chunkq.storage.transfers import list_transfers

        _say("4", "Alice gets it: signed requests go out, sealed chunks of 256 KiB come back.")
        _show("alice$  chunkq get bob:films/holiday.mov inbox/holiday.mov")
        process = self._start(self._alice, "--quiet", "get", self._what, str(self._target))
        deadline = time.monotonic() + _STEP_LIMIT_S
        while process.poll() is None and time.monotonic() < deadline:
            for found in list_transfers(self._target.parent):
                if found.chunks_total and 2 * found.chunks_present >= found.chunks_total:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    percent = 100 * found.chunks_present // found.chunks_total
                    _say("5", f"kill -9 with {percent}% committed. What it was doing is lost,")
                    _show(
                        "what it had committed is not: data first, then the bitmap, then the ack."
                    )
                    return
            time.sleep(_POLL_S)
        if code := process.poll():
            kind = Unreachable if code == ExitCode.UNREACHABLE else ChunkqError
            raise kind(f"chunkq get ended with exit code {code}", hint="its message is above")
        raise ChunkqError(
            "the transfer ended before it could be killed", hint="run `chunkq demo` again"
        )

    def _resume(self) -> None:
        _say("6", "The same command goes on from there:")
        done = subprocess.run(
            [*self._alice.command, "get", self._what, str(self._target)],
            capture_output=True,
            text=True,
            timeout=_STEP_LIMIT_S,
            check=False,
            env=self._environment(),
        )
        for line in (done.stderr + done.stdout).splitlines():
            _show(line)
        if done.returncode:
            from chunkq.errors import ChunkqError

            raise ChunkqError(f"the resumed transfer ended with exit code {done.returncode}")

    def _check(self) -> None:
        from chunkq.errors import IntegrityError

        _say("7", "Every chunk was checked on its way in, the whole file once more at the end,")
        _show("and only then did it appear under its name:")
        digests = [_digest(path) for path in (self._source, self._target)]
        _show(f"bob's    blake3 {digests[0]}")
        _show(f"alice's  blake3 {digests[1]}")
        if digests[0] != digests[1]:
            raise IntegrityError("the file that arrived is not the file that was sent")
        left = [path.name for path in self._target.parent.iterdir() if path != self._target]
        if left:
            raise IntegrityError(f"staging was left behind: {', '.join(left)}")
        _say("ok", "Identical. Nobody had to trust the queue. Next: chunkq init --help")

    # ------------------------------------------------------------ stage hands

    @property
    def _what(self) -> str:
        return f"{self._bob.name}:films/{self._source.name}"

    def _environment(self) -> dict[str, str]:
        from chunkq.settings.process import environment_with

        return environment_with({"CHUNKQ_REQUESTER_COMMIT_SIZE": _COMMIT_SIZE})

    def _start(self, actor: _Actor, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*actor.command, *arguments], env=self._environment(), stdin=subprocess.DEVNULL
        )
        self._processes.append(process)
        return process


def _digest(path: Path) -> str:
    from blake3 import blake3

    hasher = blake3()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            hasher.update(block)
    return hasher.hexdigest()


def _say(number: str, text: str) -> None:
    print(f"{number:>2}  {text}", flush=True)


def _show(text: str) -> None:
    print(f"      {text}", flush=True)
