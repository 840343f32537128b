"""The peer libtorrent: hashes of BitTorrent v2, two sessions on this machine, TCP.

The clock runs from making the torrent (which hashes the file, as ours does) to the moment when
the downloading session has the whole file. Nothing is sealed, nothing is synced.
"""

from __future__ import annotations

import importlib
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.measure import PeerMissing
from tests.bench.peer import DEADLINE_S, Peer
from tests.support.broker import free_ports

#: How often it is looked whether the download is done.
LOOK_EVERY_S = 0.005
#: Nothing but TCP between the two.
SETTINGS = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "allow_multiple_connections_per_ip": True,
}


@contextmanager
def running(root: Path, source: Path) -> Iterator[Peer]:
    try:
        lt = importlib.import_module("libtorrent")
    except ImportError:
        raise PeerMissing("libtorrent is not installed; pip install libtorrent") from None
    ports = free_ports(2)
    directory = root / "got"

    def move() -> float:
        directory.mkdir()
        seeding, getting = (_session(lt, port) for port in ports)
        began = time.monotonic()
        info = _torrent(lt, source)
        _add(lt, seeding, info, source.parent, seed=True)
        handle = _add(lt, getting, info, directory, seed=False)
        handle.connect_peer(("127.0.0.1", ports[0]))
        while not handle.status().is_seeding:
            assert time.monotonic() - began < DEADLINE_S, "libtorrent never came to the end"
            time.sleep(LOOK_EVERY_S)
        taken = time.monotonic() - began
        for session in (seeding, getting):
            for each in session.get_torrents():
                session.remove_torrent(each)
        return taken

    def tidy() -> None:
        shutil.rmtree(directory)

    yield Peer(lt.__version__, source, directory / source.name, move, tidy)


def _session(lt: Any, port: int) -> Any:
    return lt.session({**SETTINGS, "listen_interfaces": f"127.0.0.1:{port}"})


def _torrent(lt: Any, source: Path) -> Any:
    """The torrent of one file, hashed."""
    files = lt.list_files(str(source))
    made = lt.create_torrent(files, 0, lt.create_torrent_flags_t.v2_only)
    lt.set_piece_hashes(made, str(source.parent))
    return lt.torrent_info(made.generate())


def _add(lt: Any, session: Any, info: Any, directory: Path, *, seed: bool) -> Any:
    what = lt.add_torrent_params()
    what.ti = info
    what.save_path = str(directory)
    what.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if seed:
        what.flags |= lt.torrent_flags.seed_mode
    return session.add_torrent(what)
