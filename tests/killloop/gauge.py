"""Memory and descriptors of the processes that outlast the rounds: they must be flat."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.killloop.remains import Failure
from tests.killloop.world import Carrier
from tests.support.pair import Running

#: What a worker's memory may grow by, from the first third of its life to the last. One chunk
#: kept in each round would be 16 MiB in 66 rounds; the allocator's own swing is 2 to 4.
MARGIN_KIB = 8 * 1024
#: Connections are being made anew when it is looked: two sockets, and one for what is looked up.
MARGIN_DESCRIPTORS = 4
#: A life of fewer rounds says nothing.
LEAST_ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Sample:
    """KiB and numbers, of one process after one round."""

    rss: int
    pss: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Trend:
    """The medians of the first third of a process's life, and of the last."""

    who: str
    rounds: int
    first: Sample
    last: Sample

    def check(self) -> None:
        grown = self.last.pss - self.first.pss
        if grown > MARGIN_KIB:
            raise Failure(f"{self.who} grew by {grown} KiB in {self.rounds} rounds")
        opened = self.last.descriptors - self.first.descriptors
        if opened > MARGIN_DESCRIPTORS:
            raise Failure(f"{self.who} has {opened} descriptors more after {self.rounds} rounds")


class Gauge:
    """`look` after each round; `trends` of those that lived long."""

    def __init__(self) -> None:
        self._lives: dict[tuple[str, int], list[Sample]] = defaultdict(list)

    def look(self, name: str, carrier: Carrier) -> None:
        for number, worker in enumerate(carrier.workers, start=1):
            self._look(f"{name} worker {number}", worker)
        self._look(f"{name} requester worker", carrier.work)

    def _look(self, who: str, running: Running | None) -> None:
        if running is not None and running.alive:
            pid = running.process.pid
            self._lives[who, pid].append(sample(pid))

    def trends(self) -> list[Trend]:
        found = []
        for (who, pid), life in self._lives.items():
            if len(life) < LEAST_ROUNDS:
                continue
            third = len(life) // 3
            first, last = _median(life[:third]), _median(life[-third:])
            found.append(Trend(f"{who} (process {pid})", len(life), first, last))
        return found


def sample(pid: int) -> Sample:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    rss, pss = (
        int(re.findall(rf"^{word}: +(\d+) kB", text, re.MULTILINE)[0]) for word in ("Rss", "Pss")
    )
    return Sample(rss, pss, psutil.Process(pid).num_fds())


def _median(samples: list[Sample]) -> Sample:
    return Sample(
        rss=int(statistics.median(each.rss for each in samples)),
        pss=int(statistics.median(each.pss for each in samples)),
        descriptors=int(statistics.median(each.descriptors for each in samples)),
    )
