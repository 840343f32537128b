"""The only place that chooses and stacks adapters: settings in, running parts out."""

from chunkq.compose.clock import SystemClock
from chunkq.compose.links import close_link, make_own_spool, make_transport
from chunkq.compose.origin import OfferedShares, RegistryDirectory, origin_worker
from chunkq.compose.peers import ref_of
from chunkq.compose.process import load_identity, prepare_process
from chunkq.compose.requester import Fetcher
from chunkq.compose.viewing import make_viewer
from chunkq.protocol.identity import SiteCard
from chunkq.telemetry.logs import write as write_log

__all__ = [
    "Fetcher",
    "OfferedShares",
    "RegistryDirectory",
    "SiteCard",
    "SystemClock",
    "close_link",
    "load_identity",
    "make_own_spool",
    "make_transport",
    "make_viewer",
    "origin_worker",
    "prepare_process",
    "ref_of",
    "write_log",
]
