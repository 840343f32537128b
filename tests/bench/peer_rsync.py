"""The peer rsync: a whole file from a daemon on this machine. It neither seals nor syncs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.measure import timed
from tests.bench.peer import Peer, command, first_line, program, server
from tests.support.broker import free_ports

CONFIG = """\
address = 127.0.0.1
port = {port}
use chroot = no
uid = {uid}
gid = {gid}
[files]
path = {path}
"""


@contextmanager
def running(root: Path, source: Path) -> Iterator[Peer]:
    rsync = program("rsync", "apt-get install rsync")
    (port,) = free_ports(1)
    config = root / "rsyncd.conf"
    config.write_text(
        CONFIG.format(port=port, path=source.parent, uid=os.getuid(), gid=os.getgid())
    )
    target = root / "got"
    url = f"rsync://127.0.0.1:{port}/files/{source.name}"

    def move() -> None:
        command(rsync, "--whole-file", url, target)

    with server([rsync, "--daemon", "--no-detach", f"--config={config}"], port, root / "rsync.log"):
        version = first_line(rsync, "--version").split()[2]
        yield Peer(version, source, target, lambda: timed(move), lambda: None)
