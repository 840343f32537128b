"""Memory and descriptors of the processes that outlast the rounds: they must be flat."""

from __future__ import annotations

import json
import re
import signal
import statistics
from collections import defaultdict
from dataclasses import dataclass, fields
from pathlib import Path

import psutil

from tests.killloop.world import Carrier, Failure
from tests.support.pair import Running, until

#: What a worker's memory may grow by, from the first third of its life to the last; part of it the
#: allocator holds free, and that swings by 2 to 6 MiB.
MARGIN_KIB = 10 * 1024
#: What may be in use more: the two buffers of 1 MiB of a connection, and packets. One chunk kept in
#: each round would be 6 MiB in 36 rounds.
MARGIN_IN_USE_KIB = 4 * 1024
#: Small objects, of 60 bytes or so, that may be there more. The collector comes for the old ones
#: when a quarter more of its objects are there: of a worker's 64,000, with one and a half each of
#: others. 2,000 kept in each round would be 48,000 in 36 rounds.
MARGIN_BLOCKS = 30_000
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
    `in_use` is what of the allocator's memory is in use; `blocks` are Python's small objects.
    """

    resident: int
    anonymous: int
    in_use: int
    blocks: int
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
        used = self.last.in_use - self.first.in_use
        if used > MARGIN_IN_USE_KIB:
            raise Failure(f"{self.who} uses {used} KiB more after {self.rounds} rounds")
        kept = self.last.blocks - self.first.blocks
        if kept > MARGIN_BLOCKS:
            raise Failure(f"{self.who} has {kept} small objects more after {self.rounds} rounds")
        opened = self.last.descriptors - self.first.descriptors
        if opened > MARGIN_DESCRIPTORS:
            raise Failure(f"{self.who} has {opened} descriptors more after {self.rounds} rounds")


class Gauge:
    """`look` after each round; `trends` of those that lived long. They are run by `gauged.py`."""

    def __init__(self) -> None:
        self._lives: dict[tuple[str, int], list[Sample]] = defaultdict(list)

    def look(self, name: str, carrier: Carrier) -> None:
        for number, worker in enumerate(carrier.workers, start=1):
            self.look_at(f"{name} worker {number}", worker, carrier.figures)
        self.look_at(f"{name} requester worker", carrier.work, carrier.figures)

    def look_at(self, who: str, running: Running | None, figures: Path) -> None:
        """Nothing is noted of a process that is away, or has only just been started."""
        if running is None or not (figures / str(running.process.pid)).exists():
            return
        if (found := sample(running, figures)) is not None:
            self._lives[who, running.process.pid].append(found)

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


def sample(running: Running, figures: Path) -> Sample | None:
    """None if it has ended meanwhile."""
    pid = running.process.pid
    told = figures / str(pid)
    told.unlink()
    running.send(signal.SIGUSR2)
    until(lambda: told.exists() or not running.alive)
    if not running.alive:
        return None
    own = json.loads(told.read_text())
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    resident, anonymous = (
        int(re.findall(rf"^{word}: +(\d+) kB", text, re.MULTILINE)[0])
        for word in ("Rss", "Anonymous")
    )
    in_use = own["in_use_bytes"] // 1024
    return Sample(resident, anonymous, in_use, own["blocks"], psutil.Process(pid).num_fds())


def _median(samples: list[Sample]) -> Sample:
    return Sample(
        **{
            each.name: int(statistics.median(getattr(sample, each.name) for sample in samples))
            for each in fields(Sample)
        }
    )
