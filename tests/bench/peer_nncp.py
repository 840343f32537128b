"""The peer NNCP: the file is queued in chunks of 1 MiB, called over, tossed and reassembled.

Two nodes on this machine, the receiving one's daemon running; four commands one after the other,
as an operator or a timer gives them. It encrypts, and it syncs what it writes. A call stays online
for ten seconds once there is nothing more to send: it is ended instead, and that wait not counted.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.measure import timed
from tests.bench.peer import DEADLINE_S, Peer, command, first_line, program, server
from tests.support.broker import free_ports

CHUNK_KIB = 1024
INSTALL = "apt-get install nncp"
#: How often it is looked whether all was sent: seldom enough to take nothing from the call.
LOOK_EVERY_S = 0.02
#: What a neighbour is told of a node; the rest of what `nncp-cfgnew` makes is private.
PUBLIC = ("id", "exchpub", "signpub", "noisepub")
PRIVATE = ("exchprv", "signprv", "noiseprv")


class Node:
    """One node: its spool, its directory for what comes in, its configuration."""

    def __init__(self, root: Path, name: str) -> None:
        self.name = name
        self.spool = root / name / "spool"
        self.incoming = root / name / "incoming"
        self.config = root / name / "nncp.hjson"
        for directory in (self.spool, self.incoming):
            directory.mkdir(parents=True)
        made = subprocess.run(
            ["nncp-cfgnew", "-nocomments"], capture_output=True, text=True, check=True
        ).stdout
        found = {
            key: match[1]
            for key in PUBLIC + PRIVATE
            if (match := re.search(rf"^\s*{key}: (\S+)$", made, re.MULTILINE))
        }
        self.keys = found

    def know(self, other: Node, port: int) -> None:
        """Write the configuration. A value that is not quoted runs to the end of its line."""
        own = [f"{key}: {value}" for key, value in self.keys.items()]
        me = [f"{key}: {self.keys[key]}" for key in PUBLIC]
        them = [f"{key}: {other.keys[key]}" for key in PUBLIC]
        neighbours = {
            "self": me,
            other.name: [
                *them,
                f'incoming: "{self.incoming}"',
                "addrs: {",
                f'lo: "127.0.0.1:{port}"',
                "}",
            ],
        }
        lines = ["{", f'spool: "{self.spool}"', f'log: "{self.spool}/log"', "self: {", *own, "}"]
        lines.append("neigh: {")
        for name, fields in neighbours.items():
            lines += [f"{name}: {{", *fields, "}"]
        self.config.write_text("\n".join([*lines, "}", "}", ""]))

    def run(self, what: str, *words: str | Path) -> None:
        command(*self._command(what), *words)

    def call(self, address: str, other: Node) -> None:
        """Call until the other node has all that waits for it: then nothing is left to send."""
        waiting = self.spool / other.keys["id"] / "tx"
        call = subprocess.Popen([*self._command("call"), address])
        try:
            deadline = time.monotonic() + DEADLINE_S
            while any(path.is_file() for path in waiting.iterdir()):
                assert call.poll() is None, f"the call of {address} ended early"
                assert time.monotonic() < deadline, f"the call of {address} never ended"
                time.sleep(LOOK_EVERY_S)
        finally:
            call.terminate()
            call.wait()

    def _command(self, what: str) -> list[str | Path]:
        return [f"nncp-{what}", "-cfg", self.config, "-quiet", "-noprogress"]


@contextmanager
def running(root: Path, source: Path) -> Iterator[Peer]:
    for name in ("cfgnew", "file", "call", "daemon", "toss", "reass"):
        program(f"nncp-{name}", INSTALL)
    (port,) = free_ports(1)
    alice, bob = Node(root, "a"), Node(root, "b")
    alice.know(bob, port)
    bob.know(alice, port)
    target = bob.incoming / "file"

    def move() -> None:
        alice.run("file", "-chunked", str(CHUNK_KIB), source, "b:file")
        alice.call("b:lo", bob)
        bob.run("toss")
        bob.run("reass", bob.incoming / "file.nncp.meta")

    daemon = ["nncp-daemon", "-cfg", bob.config, "-quiet", "-noprogress", "-bind"]
    with server([*daemon, f"127.0.0.1:{port}"], port, root / "daemon.log"):
        version = first_line("nncp-call", "-version").split()[2]
        yield Peer(version, source, target, lambda: timed(move), lambda: None)
