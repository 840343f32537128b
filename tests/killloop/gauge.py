"""Memory and descriptors of the processes that outlast the rounds: they must be flat."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.killloop.world import Carrier, Failure
from tests.support.pair import Running

#: What a worker's memory may grow by, from the first third of its life to the last. One chunk
#: kept in each round would be 16 MiB in 66 rounds; what the allocator keeps swings by 2 to 6.
MARGIN_KIB = 10 * 1024
#: Connections are being made anew when it is looked: two sockets, and one for what is looked up.
MARGIN_DESCRIPTORS = 6
#: Rounds after which caches and the allocator's pools are as full as they get, and how many more
#: it takes to say something.
WARM_UP_ROUNDS = 8
LEAST_ROUNDS = 9


@dataclass(frozen=True, slots=True)
class Sample:
    """KiB and numbers, of one process after one round.

    `anonymous` is what is its own: the rest of `resident` it shares with others, and with files.
    """

    resident: int
    anonymous: int
    descriptors: int


@dataclass(frozen=True, slots=True)
class Trend:
    """The medians of the first third of a process's life, warm-up left out, and of the last."""

    who: str
    rounds: int
    first: Sample
    last: Sample

    def check(self) -> None:
        """Raises `Failure`."""
        grown = self.last.anonymous - self.first.anonymous
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
            warm = life[WARM_UP_ROUNDS:]
            if len(warm) < LEAST_ROUNDS:
                continue
            third = len(warm) // 3
            first, last = _median(warm[:third]), _median(warm[-third:])
            found.append(Trend(f"{who} (process {pid})", len(warm), first, last))
        return found


def sample(pid: int) -> Sample:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    resident, anonymous = (
        int(re.findall(rf"^{word}: +(\d+) kB", text, re.MULTILINE)[0])
        for word in ("Rss", "Anonymous")
    )
    return Sample(resident, anonymous, psutil.Process(pid).num_fds())


def _median(samples: list[Sample]) -> Sample:
    return Sample(
        resident=int(statistics.median(each.resident for each in samples)),
        anonymous=int(statistics.median(each.anonymous for each in samples)),
        descriptors=int(statistics.median(each.descriptors for each in samples)),
    )
