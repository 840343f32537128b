"""The processes of this site, as they last reported: of this host by file, of others by queue."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from chunkq.api.views import RefusedView, WorkerView
from chunkq.protocol.report import LinkReport, PeerReport, Report, TransferReport
from chunkq.storage.reports import STALE_S, Filed

STALE_AFTER_MS: Final = int(1000 * STALE_S)
#: A process of another host that was not heard of for so long is forgotten.
FORGET_AFTER_MS: Final = 3_600_000
#: Processes of other hosts that are remembered; those heard of longest ago go first.
MAX_ELSEWHERE: Final = 256


@dataclass(frozen=True, slots=True)
class Process:
    """A process and its last report. `heard_ms`: when that came, by this host's clock."""

    report: Report
    heard_ms: int
    here: bool

    @property
    def instance(self) -> str:
        return self.report.instance

    def fresh(self, now_ms: int) -> bool:
        """Whether it is there; what came in the future came before the clock was set back."""
        return abs(now_ms - self.heard_ms) <= STALE_AFTER_MS


class Processes:
    """The newest report of each process. Not thread-safe."""

    def __init__(self) -> None:
        self._here: dict[str, Process] = {}
        self._elsewhere: dict[str, Process] = {}

    def found(self, filed: Iterable[Filed], now_ms: int) -> None:
        """These are all that lie on this host."""
        self._here = {
            each.report.instance: Process(each.report, now_ms - int(1000 * each.age_s), here=True)
            for each in filed
        }

    def heard(self, report: Report, now_ms: int) -> None:
        """This one came by the queue; an older one than that is known has no effect."""
        known = self._elsewhere.pop(report.instance, None)
        same = known is not None and known.report.incarnation == report.incarnation
        if known is not None and same and known.report.at_ms > report.at_ms:
            self._elsewhere[report.instance] = known
            return
        self._elsewhere[report.instance] = Process(report, now_ms, here=False)
        while len(self._elsewhere) > MAX_ELSEWHERE:
            del self._elsewhere[next(iter(self._elsewhere))]

    def forget(self, now_ms: int) -> None:
        """Let go of those of other hosts that nothing was heard of for long."""
        old = [
            instance
            for instance, process in self._elsewhere.items()
            if now_ms - process.heard_ms > FORGET_AFTER_MS
        ]
        for instance in old:
            del self._elsewhere[instance]

    def __iter__(self) -> Iterator[Process]:
        """Those of this host first; one that is told of twice counts once."""
        yield from self._here.values()
        for instance, process in self._elsewhere.items():
            if instance not in self._here:
                yield process

    def transfers(self) -> Iterator[tuple[Process, TransferReport]]:
        """What each says of the transfers that it has in hand."""
        for process in self:
            for transfer in process.report.transfers:
                yield process, transfer


# ---------------------------------------------------------------- views


def worker_views(processes: Iterable[Process], now_ms: int) -> list[WorkerView]:
    """Those that are there first, then by role and name."""
    found = [_worker(process, now_ms) for process in processes]
    return sorted(found, key=lambda each: (not each.alive, each.role, each.host, each.instance))


def _worker(process: Process, now_ms: int) -> WorkerView:
    report = process.report
    return WorkerView(
        instance=report.instance,
        role=report.role,
        host=report.host,
        pid=report.pid,
        software=report.software,
        started_ms=report.started_ms,
        heard_ms=process.heard_ms,
        alive=process.fresh(now_ms),
        ready=report.ready,
        draining=report.draining,
        here=process.here,
        transfers=max(report.transfers_total, len(report.transfers)),
        resident_bytes=report.resident_bytes,
        descriptors=report.descriptors,
        links=tuple((each.link, each.reason or "", each.detail) for each in report.links),
        sent_bytes=sum(each.sent_bytes for each in report.links),
        received_bytes=sum(each.received_bytes for each in report.links),
    )


def refused_views(processes: Iterable[Process]) -> list[RefusedView]:
    """Requests refused, by peer, and packets dropped, by reason; the most first."""
    found: list[RefusedView] = []
    for process in processes:
        report = process.report
        for peer in report.peers:
            found += [
                RefusedView(instance=report.instance, peer=peer.peer, reason=reason, count=count)
                for reason, count in peer.refusals.items()
                if count
            ]
        told = {reason for peer in report.peers for reason in peer.refusals}
        for counter, count in report.counters.items():
            kind, _, reason = counter.partition("_")
            if not count or kind not in ("dropped", "refused"):
                continue
            if kind == "refused" and reason in told:
                continue  # the same refusals, and by peer they say more
            found.append(
                RefusedView(instance=report.instance, peer="", reason=counter, count=count)
            )
    return sorted(found, key=lambda each: (-each.count, each.instance, each.peer, each.reason))


def peer_counts(processes: Iterable[Process]) -> Mapping[str, PeerReport]:
    """What all processes together did for each peer, by its alias."""
    found: dict[str, PeerReport] = {}
    for process in processes:
        for each in process.report.peers:
            known = found.get(each.peer)
            found[each.peer] = each if known is None else _sum(known, each)
    return found


def _sum(one: PeerReport, other: PeerReport) -> PeerReport:
    refusals = {
        reason: one.refusals.get(reason, 0) + other.refusals.get(reason, 0)
        for reason in (*one.refusals, *other.refusals)
    }
    return PeerReport.model_construct(  # more reasons than one report holds are well here
        peer=one.peer,
        requests=one.requests + other.requests,
        sent_bytes=one.sent_bytes + other.sent_bytes,
        refusals=refusals,
        heard_ms=max(one.heard_ms, other.heard_ms),
    )


def link_troubles(processes: Iterable[Process], now_ms: int) -> Mapping[str, LinkReport]:
    """What a process that is there finds wrong with a link, by the link's name."""
    return {
        link.link: link
        for process in processes
        if process.fresh(now_ms)
        for link in process.report.links
        if link.reason is not None
    }
