"""The figures of one process, by the names that alert rules and panels use.

No transfer and no path is ever a label: their number has no end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from chunkq.protocol.condition import State
from chunkq.protocol.report import Report
from chunkq.runtime.peer import PeerLink
from chunkq.runtime.reporting import Reporter
from chunkq.telemetry.exposition import Figure


@dataclass(slots=True)
class Host:
    """What is seen of the host. `disks`: free bytes and floor, by what is written there.

    `queues`: packets that wait for this site, by link. `jobs`: by state.
    """

    disks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    queues: Mapping[str, int] = field(default_factory=dict)
    jobs: Mapping[str, int] = field(default_factory=dict)


def figures(reporter: Reporter, peers: Iterable[PeerLink], host: Host) -> list[Figure]:
    """All of them, now. To be called on the loop."""
    report = reporter.collect()
    return [
        *_of_process(reporter, report),
        *_of_links(report, host),
        *_of_transfers(reporter, peers),
        *_of_peers(report),
        _dropped(report),
        *of_host(host),
    ]


def of_a_process(
    version: str, role: str, *, ready: bool = True, draining: bool = False
) -> list[Figure]:
    """What every process tells."""
    build = Figure("build_info", "gauge", "The version that runs.", ("version", "role"))
    build.samples[version, role] = 1
    takes = Figure("ready", "gauge", "Whether it takes work: links open, not draining.")
    takes.samples[()] = int(ready)
    ends = Figure("draining", "gauge", "Whether it takes nothing new, and is to end.")
    ends.samples[()] = int(draining)
    return [build, takes, ends]


def _of_process(reporter: Reporter, report: Report) -> list[Figure]:
    ready = reporter.ready and not reporter.draining
    return of_a_process(report.software, report.role, ready=ready, draining=report.draining)


def _of_links(report: Report, host: Host) -> list[Figure]:
    up = Figure("link_up", "gauge", "Whether packets can move on a link.", ("link", "transport"))
    trouble = Figure("link_trouble", "gauge", "Why they cannot.", ("link", "reason"))
    sent = Figure("link_sent_bytes", "counter", "Bytes put on a link, protocol and all.", ("link",))
    received = Figure(
        "link_received_bytes", "counter", "Bytes taken from a link, protocol and all.", ("link",)
    )
    for link in report.links:
        up.samples[link.link, link.transport] = int(link.reason is None)
        if link.reason is not None:
            trouble.samples[link.link, str(link.reason)] = 1
        sent.samples[link.link,] = link.sent_bytes
        received.samples[link.link,] = link.received_bytes
    queue = Figure(
        "request_queue_packets", "gauge", "Requests that wait for this site's workers.", ("link",)
    )
    queue.samples = {(link,): depth for link, depth in host.queues.items()}
    return [up, trouble, sent, received, queue]


def _of_transfers(reporter: Reporter, peers: Iterable[PeerLink]) -> list[Figure]:
    words = ("state", "reason")
    now = Figure("transfers", "gauge", "Transfers in hand.", words)
    ended = Figure("transfers_ended", "counter", "Transfers that ended.", words)
    for figure, counts in ((now, reporter.transfers()), (ended, reporter.ended)):
        figure.samples = {
            (str(state), str(reason or "")): count for (state, reason), count in counts.items()
        }
    for state in State:  # a rule that looks for one must not find nothing at all
        if not any(each == str(state) for each, _ in now.samples) and not state.ended:
            now.samples[str(state), ""] = 0
    received = Figure(
        "received_bytes", "counter", "New bytes of files that came, by peer.", ("peer",)
    )
    received.samples = {(peer,): count for peer, count in reporter.received_bytes().items()}
    window = Figure("window_chunks", "gauge", "Chunks that may be on the way at once.", ("peer",))
    flight = Figure("in_flight_chunks", "gauge", "Chunks that are on the way.", ("peer",))
    rtt = Figure("round_trip_seconds", "gauge", "From a request to its reply.", ("peer",))
    for peer in peers:
        name = (peer.ref.alias,)
        window.samples[name] = peer.window.limit
        flight.samples[name] = peer.window.outstanding
        if peer.window.rtt_smoothed_s is not None:
            rtt.samples[name] = peer.window.rtt_smoothed_s
    return [now, ended, received, window, flight, rtt]


def _of_peers(report: Report) -> list[Figure]:
    requests = Figure("served_requests", "counter", "Requests of a peer that counted.", ("peer",))
    sent = Figure("served_bytes", "counter", "Content that a peer was sent.", ("peer",))
    refused = Figure(
        "refusals", "counter", "Requests of a peer that were refused.", ("peer", "reason")
    )
    heard = Figure(
        "peer_heard_timestamp_seconds", "gauge", "When a peer was heard of last.", ("peer",)
    )
    for peer in report.peers:
        name = (peer.peer,)
        requests.samples[name] = peer.requests
        sent.samples[name] = peer.sent_bytes
        if peer.heard_ms:
            heard.samples[name] = peer.heard_ms / 1000
        for reason, count in peer.refusals.items():
            refused.samples[peer.peer, reason] = count
    return [requests, sent, refused, heard]


def _dropped(report: Report) -> Figure:
    dropped = Figure(
        "packets_dropped", "counter", "Packets that were of no effect.", ("kind", "reason")
    )
    kinds = {"reply_dropped_": "reply", "dropped_control_": "control", "dropped_": "request"}
    for name, count in report.counters.items():
        for prefix, kind in kinds.items():
            if name.startswith(prefix):
                dropped.samples[kind, name.removeprefix(prefix)] = count
                break
    return dropped


def of_host(host: Host) -> list[Figure]:
    """Room on its disks, and its transfers."""
    free = Figure("disk_free_bytes", "gauge", "Room for this user, where it writes.", ("place",))
    floor = Figure("disk_floor_bytes", "gauge", "What stays free there.", ("place",))
    for place, (free_bytes, floor_bytes) in host.disks.items():
        free.samples[place,] = free_bytes
        floor.samples[place,] = floor_bytes
    jobs = Figure("jobs", "gauge", "Transfers that the state directory knows.", ("state",))
    jobs.samples = {(state,): count for state, count in host.jobs.items()}
    return [free, floor, jobs]
