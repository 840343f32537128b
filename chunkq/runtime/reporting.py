"""What this process does, collected about once a second: for reports, metrics and the journal.

Nothing here is asked for by what moves data: that only counts, and is looked at from here.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from chunkq.errors import ChunkqError
from chunkq.ports import Clock, LinkHealth, Log, Transport
from chunkq.protocol.condition import Reason, State
from chunkq.protocol.report import (
    MAX_COUNTERS,
    MAX_DETAIL_CHARS,
    MAX_LINKS,
    MAX_PEERS,
    MAX_TRANSFERS,
    LinkReport,
    PeerReport,
    Report,
    Role,
)
from chunkq.runtime.judging import STALL_S
from chunkq.runtime.linklog import LinkLog
from chunkq.runtime.origin import OriginWorker
from chunkq.runtime.ownsite import ControlDesk
from chunkq.runtime.peer import Requester
from chunkq.runtime.rising import Rising
from chunkq.runtime.served import PeerCounts
from chunkq.runtime.tracking import Change, Track, Watched, clean

#: How often it is looked whether something moves, and how often it is said that nothing does.
BUSY_S: Final = 1.0
IDLE_S: Final = 5.0
#: Transfers looked at in one go; of more, these are looked at in turn.
MAX_LOOKS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """This process, as its reports name it. `incarnation`: 16 random bytes, in hexadecimal."""

    site: str
    host: str
    role: Role
    instance: str
    incarnation: str
    software: str
    started_ms: int


@dataclass(frozen=True, slots=True)
class LinkEnd:
    """One transport of this process, and the link that it is of."""

    link: str
    kind: str
    transport: Transport


class Sources(Protocol):
    """Where there is something to be seen, at this moment."""

    def links(self) -> Iterable[LinkEnd]: ...

    def workers(self) -> Iterable[OriginWorker]: ...

    def requesters(self) -> Iterable[Requester]: ...

    def desks(self) -> Iterable[ControlDesk]: ...


#: Hears of a transfer that stalls, or moves again: its id, which, the reason's word, a sentence.
Told = Callable[[str, Change, str, str], None]


class Reporter:
    """Follows transfers, and makes reports. `machine()`: resident bytes and open descriptors."""

    def __init__(
        self,
        who: Who,
        sources: Sources,
        clock: Clock,
        *,
        machine: Callable[[], tuple[int, int]],
        told: Told | None = None,
    ) -> None:
        self.who = who
        self.ready = True
        self.draining = False
        #: Transfers that have ended, by state and reason.
        self.ended: Counter[tuple[State, Reason | None]] = Counter()
        self._sources = sources
        self._clock = clock
        self._machine = machine
        self._told = told
        self._tracks: dict[Watched, Track] = {}
        self._next_look = 0
        self._came = Rising[str]()
        self._traffic = Rising[tuple[str, bool]]()
        self._drops = Rising[str]()
        self._served = Rising[tuple[str, str]]()
        self._machine_at_s = float("-inf")
        self._machine_now = (0, 0)

    # ------------------------------------------------------------ transfers

    def watch(self, watched: Watched) -> None:
        """A transfer begins."""
        self._tracks[watched] = Track(self._clock.monotonic_s())

    def unwatch(self, watched: Watched) -> None:
        """It has ended, however: what it brought still counts."""
        track = self._tracks.get(watched)
        if track is None:
            return
        self._look(watched, track)
        self._sum_of_transfers()
        del self._tracks[watched]
        state, reason, _ = track.judgement
        self.ended[state, reason] += 1

    @property
    def moving(self) -> bool:
        """Whether it is worth reporting soon again."""
        now_s = self._clock.monotonic_s()
        return any(track.quiet_s(now_s) < STALL_S for track in self._tracks.values())

    def _look(self, watched: Watched, track: Track) -> None:
        now_s = self._clock.monotonic_s()
        track.see(watched.observe(), now_s, self._clock.wall_ms())
        assert track.seen is not None
        change = track.change(now_s)
        if change is not None and self._told is not None:
            _, reason, detail = track.judgement
            self._told(track.seen.id, change, str(reason or ""), detail)

    def look(self) -> None:
        """At all transfers that had their turn, or at as many as is cheap."""
        known = [(watched, track) for watched, track in self._tracks.items() if not watched.waits]
        if len(known) > MAX_LOOKS:
            first = self._next_look % len(known)
            self._next_look = first + MAX_LOOKS
            known = (known[first:] + known[:first])[:MAX_LOOKS]
        for watched, track in known:
            self._look(watched, track)

    def _sum_of_transfers(self) -> Counter[str]:
        """New bytes by peer, of all transfers of this process."""
        seen = ((track, track.seen) for track in self._tracks.values())
        return self._came.total(
            {track: found.progress.origins for track, found in seen if found is not None}
        )

    # ------------------------------------------------------------ reports

    def collect(self) -> Report:
        """How it is now."""
        self.look()
        now_s, who = self._clock.monotonic_s(), self.who
        if now_s >= self._machine_at_s + IDLE_S:
            self._machine_at_s, self._machine_now = now_s, self._machine()
        resident, descriptors = self._machine_now
        peers = self._peers()
        known = [track for track in self._tracks.values() if track.seen is not None]
        known.sort(key=lambda track: (track.stalled, track.quiet_s(now_s)))
        return Report(
            site=who.site,
            host=clean(who.host, 64),
            pid=os.getpid(),
            role=who.role,
            instance=who.instance,
            incarnation=who.incarnation,
            software=clean(who.software, 64),
            started_ms=who.started_ms,
            at_ms=self._clock.wall_ms(),
            ready=self.ready,
            draining=self.draining,
            resident_bytes=resident,
            descriptors=descriptors,
            transfers_total=len(self._tracks),
            transfers=[track.report() for track in known[:MAX_TRANSFERS]],
            links=self._links(),
            peers=peers[:MAX_PEERS],
            counters=self._counters(peers),
        )

    def received_bytes(self) -> Mapping[str, int]:
        """New bytes by peer since the start."""
        return self._sum_of_transfers()

    def transfers(self) -> Counter[tuple[State, Reason | None]]:
        """How many there are in hand, by state and reason."""
        counts: Counter[tuple[State, Reason | None]] = Counter()
        for watched, track in self._tracks.items():
            state, reason, _ = track.judgement
            counts[(State.QUEUED, Reason.WAITING_TURN) if watched.waits else (state, reason)] += 1
        return counts

    def _links(self) -> list[LinkReport]:
        ends: dict[str, list[LinkEnd]] = {}
        traffic: dict[object, dict[tuple[str, bool], int]] = {}
        for end in self._sources.links():
            ends.setdefault(end.link, []).append(end)
            moved = end.transport.traffic
            traffic[end.transport] = {
                (end.link, True): moved.sent_bytes,
                (end.link, False): moved.received_bytes,
            }
        totals = self._traffic.total(traffic)
        found = []
        for link, each in list(ends.items())[:MAX_LINKS]:
            health = _worst(end.transport.health for end in each)
            found.append(
                LinkReport(
                    link=link,
                    transport=each[0].kind,
                    reason=None if health.ok else Reason(health.reason),
                    detail=clean(health.detail, MAX_DETAIL_CHARS),
                    sent_bytes=totals[link, True],
                    received_bytes=totals[link, False],
                )
            )
        return found

    def _peers(self) -> list[PeerReport]:
        """What was done for each peer by all workers here, those asked last first."""
        now: dict[object, Mapping[tuple[str, str], int]] = {}
        heard: dict[str, int] = {}
        for worker in self._sources.workers():
            flat: dict[tuple[str, str], int] = {}
            for alias, counts in worker.served.peers.items():
                flat |= _flat(alias, counts)
                heard[alias] = max(heard.get(alias, 0), counts.heard_ms)
            now[worker] = flat
        reports: dict[str, dict[str, int]] = {}
        for (alias, what), count in self._served.total(now).items():
            reports.setdefault(alias, {})[what] = count
        ordered = sorted(reports, key=lambda alias: (-heard.get(alias, 0), alias))
        return [
            PeerReport(
                peer=clean(alias, 255),
                requests=reports[alias].pop("requests", 0),
                sent_bytes=reports[alias].pop("sent_bytes", 0),
                refusals={word: count for word, count in reports[alias].items() if count},
                heard_ms=heard.get(alias, 0),
            )
            for alias in ordered
        ]

    def _counters(self, peers: list[PeerReport]) -> dict[str, int]:
        """`dropped_…` of requests here, `reply_dropped_…`, `refused_…`."""
        now: dict[object, Mapping[str, int]] = {}
        for worker in self._sources.workers():
            drops = worker.drops.totals
            now[worker] = {f"dropped_{code}": count for code, count in drops.items()}
        for requester in self._sources.requesters():
            drops = requester.drops
            now[requester] = {f"reply_dropped_{code}": count for code, count in drops.items()}
        for desk in self._sources.desks():
            drops = desk.drops.totals
            now[desk] = {f"dropped_{code}": count for code, count in drops.items()}
        counters = self._drops.total(now)
        for peer in peers:
            counters.update({f"refused_{word}": count for word, count in peer.refusals.items()})
        return dict(sorted(counters.items())[:MAX_COUNTERS])

    # ------------------------------------------------------------ telling

    async def run(
        self,
        write: Callable[[Report], Awaitable[None]],
        log: Log,
    ) -> None:
        """Report until cancelled: each second while something moves, else every five.

        What goes wrong with that is logged once, and stops nothing else.
        """
        link_log = LinkLog(log)
        told, last = "", (0, 0)
        said_s = float("-inf")
        while True:
            activity = self._activity()
            due = self._clock.monotonic_s() >= said_s + IDLE_S - BUSY_S / 2
            if due or self.moving or activity != last:
                last, said_s = activity, self._clock.monotonic_s()
                try:
                    report = self.collect()
                    link_log.see(report.links)
                    await write(report)
                    told = ""
                except ChunkqError as error:
                    if error.message != told:
                        log("report_failed", level="warning", detail=error.message)
                    told = error.message
            await asyncio.sleep(BUSY_S)

    def _activity(self) -> tuple[int, int]:
        """What changes whenever something begins, ends, or is answered."""
        served = sum(
            counts.requests
            for worker in self._sources.workers()
            for counts in worker.served.peers.values()
        )
        return len(self._tracks), served


def _worst(states: Iterable[LinkHealth]) -> LinkHealth:
    """The first that is not well, else a good one."""
    return min(states, key=lambda health: health.ok)


def _flat(alias: str, counts: PeerCounts) -> dict[tuple[str, str], int]:
    flat = {(alias, str(word)): count for word, count in counts.refusals.items()}
    flat[alias, "requests"] = counts.requests
    flat[alias, "sent_bytes"] = counts.sent_bytes
    return flat
