"""`peers`: one large file as others move it, each with servers of its own on this machine.

What each does, and what its clock covers, stands at the head of its file. Ours is a requester that
runs, its link open, getting a file that is new to the origin: sealed, verified, synced.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from tests.bench import peer_libtorrent, peer_nats, peer_nncp, peer_rsync
from tests.bench.getting import Getting
from tests.bench.measure import PeerMissing, Report, Settings, alternate, rate, ratio
from tests.bench.peer import Peer
from tests.support.broker import Broker

DEFAULT_MIB = 512
OURS = "chunkq"
#: Key, name, what gives it.
PEERS: dict[str, tuple[str, Callable[[Path, Path], AbstractContextManager[Peer]]]] = {
    "nats": ("NATS Object Store", peer_nats.running),
    "nncp": ("NNCP", peer_nncp.running),
    "libtorrent": ("libtorrent", peer_libtorrent.running),
    "rsync": ("rsync daemon", peer_rsync.running),
}


def run(settings: Settings) -> Report:
    size = settings.size_bytes(DEFAULT_MIB)
    report = Report(f"peers: {size >> 20} MiB by each, {settings.pairs} rounds")
    with ExitStack() as stack:
        broker = Broker.start(settings.root / "node")
        stack.callback(broker.stop)
        url = broker.url(vhost=broker.add_vhost())
        getting = stack.enter_context(Getting.over(settings.root / "sites", url, size))
        report.about["RabbitMQ"] = broker.version()
        peers = {}
        for key, (name, running) in PEERS.items():
            root = settings.root / key
            root.mkdir()
            try:
                peers[key] = stack.enter_context(running(root, getting.source))
            except PeerMissing as error:
                report.absent(f"ratio_{key}", name, str(error))
        runs = {OURS: getting.running_unknown, **{key: peer.run for key, peer in peers.items()}}
        seconds = alternate(runs, settings)
    report.figure("mb_per_s", "chunkq over RabbitMQ", rate(size, seconds[OURS]), " MB/s")
    for key, peer in peers.items():
        name = PEERS[key][0]
        report.about[name] = peer.version
        report.figure(f"mb_per_s_{key}", name, rate(size, seconds[key]), " MB/s")
        report.figure(f"ratio_{key}", f"chunkq ÷ {name}", ratio(seconds, OURS, key))
        synced = [sum(each) for each in zip(seconds[key], peer.sync_s, strict=True)]
        value = ratio({**seconds, key: synced}, OURS, key)
        report.figure(f"ratio_{key}_synced", f"chunkq ÷ {name} and sync of the file", value)
    return report
