"""The peer NATS Object Store: nats.py puts the file into a server of our own, then gets it.

JetStream in files, chunks of 128 KiB (nats.py's default), one connection that is open before the
clock starts; SHA-256 on both sides is nats.py's own. Nothing is synced.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.measure import PeerMissing
from tests.bench.peer import Peer, first_line, program, server
from tests.support.broker import free_ports

BUCKET = "bench"
CONFIG = """\
host: 127.0.0.1
port: {port}
jetstream {{
  store_dir: "{store}"
  max_file_store: 64GB
}}
"""


@contextmanager
def running(root: Path, source: Path) -> Iterator[Peer]:
    executable = program("nats-server", "apt-get install nats-server")
    try:
        nats = importlib.import_module("nats")
        client = importlib.metadata.version("nats-py")
    except ImportError:
        raise PeerMissing("nats.py is not installed; pip install nats-py") from None
    (port,) = free_ports(1)
    config = root / "nats.conf"
    config.write_text(CONFIG.format(port=port, store=root / "store"))
    target = root / "got"

    async def move() -> float:
        async with await nats.connect(f"nats://127.0.0.1:{port}") as connection:
            bucket = await connection.jetstream().create_object_store(bucket=BUCKET)
            began = time.monotonic()
            with source.open("rb") as file:
                await bucket.put("file", file)
            with target.open("wb") as file:
                await bucket.get("file", writeinto=file)
            return time.monotonic() - began

    async def tidy() -> None:
        async with await nats.connect(f"nats://127.0.0.1:{port}") as connection:
            await connection.jetstream().delete_object_store(BUCKET)

    version = f"{first_line(executable, '--version').split()[-1]}, nats-py {client}"
    with server([executable, "-c", config], port, root / "nats.log"):
        yield Peer(
            version, source, target, lambda: asyncio.run(move()), lambda: asyncio.run(tidy())
        )
