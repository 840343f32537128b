"""What happens in a round: drawn from the seed, printed when the round fails.

Kinds of faults are dealt from a shuffled deck, so that each one comes up within a few rounds.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """A fault, as the table calls it."""

    KILL_REQUESTER = "kill requester"
    KILL_WORKER = "kill worker"
    KILL_BROKER = "kill broker"
    INTERRUPT = "interrupt requester"
    STOP_REQUESTER = "stop requester"
    STOP_WORKER = "stop worker"
    STOP_BROKER = "stop broker"
    STOP_LONG = "stop for long"
    RESET = "reset"
    BLACKHOLE = "blackhole"
    ONE_WAY = "one-way blackhole"
    FORGET = "lost connection"
    CUT = "cut at a byte"
    SLOW = "slow link"
    MEMORY_ALARM = "memory alarm"
    DISK_ALARM = "disk alarm"
    DELETE_QUEUE = "queue deleted"
    DELETE_EXCHANGE = "exchange deleted"
    FULL_DISK = "full disk"


class Work(StrEnum):
    """What is got in a round."""

    LARGE = "large file"
    TREE = "tree"
    SEVERAL = "several files"
    AT_ONCE = "several at once"
    JOBS = "jobs"


#: How often each fault is in the deck. A broker takes 5 to 8 s to come back, a heartbeat 4.
DECK = {
    Kind.KILL_REQUESTER: 8,
    Kind.KILL_WORKER: 8,
    Kind.KILL_BROKER: 2,
    Kind.INTERRUPT: 2,
    Kind.STOP_REQUESTER: 2,
    Kind.STOP_WORKER: 3,
    Kind.STOP_BROKER: 2,
    Kind.STOP_LONG: 1,
    Kind.RESET: 5,
    Kind.BLACKHOLE: 2,
    Kind.ONE_WAY: 3,
    Kind.FORGET: 1,
    Kind.CUT: 3,
    Kind.SLOW: 2,
    Kind.MEMORY_ALARM: 2,
    Kind.DISK_ALARM: 1,
    Kind.DELETE_QUEUE: 2,
    Kind.DELETE_EXCHANGE: 1,
    Kind.FULL_DISK: 2,
}
#: What can happen where there is no broker.
WITHOUT_BROKER = frozenset(
    {
        Kind.KILL_REQUESTER,
        Kind.KILL_WORKER,
        Kind.INTERRUPT,
        Kind.STOP_REQUESTER,
        Kind.STOP_WORKER,
        Kind.STOP_LONG,
        Kind.FULL_DISK,
    }
)
#: What takes seconds, or cannot come twice.
SLOW = frozenset(
    {Kind.KILL_BROKER, Kind.STOP_LONG, Kind.FORGET, Kind.DELETE_EXCHANGE, Kind.FULL_DISK}
)
WORKS = (Work.LARGE, Work.LARGE, Work.LARGE, Work.TREE, Work.TREE, Work.SEVERAL, Work.AT_ONCE)
#: One round in so many goes over a directory, or leaves jobs to a requester worker.
SPOOL_EVERY = 6
JOBS_EVERY = 5
MOST_STRIKES = 4
#: The longest span of a fault that has one; longer ones are `STOP_LONG` and take the heartbeats.
SPAN_S = 1.2
#: Over two heartbeats of the sites' links, which are `HEARTBEAT_S`.
LONG_SPAN_S = 5.0
HEARTBEAT_S = 2


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault. `at` is a part of the time that the work takes undisturbed, `span_s` its length.

    `whom` is 0 for the requester's side, 1 or 2 for a worker's; `draw` is any number from 0 to 1.
    """

    kind: Kind
    at: float
    span_s: float
    whom: int
    draw: float

    def __str__(self) -> str:
        who = ("requester", "worker 1", "worker 2")[self.whom]
        return f"{self.at:.2f}: {self.kind} ({who}) for {self.span_s:.2f} s, draw {self.draw:.3f}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One round. `number` counts from 1."""

    number: int
    work: Work
    spool: bool
    strikes: tuple[Strike, ...]

    @property
    def full_disk(self) -> bool:
        return any(strike.kind is Kind.FULL_DISK for strike in self.strikes)

    def __str__(self) -> str:
        carrier = "spool" if self.spool else "rabbitmq"
        lines = [f"round {self.number}: {self.work} over {carrier}", *map(str, self.strikes)]
        return "\n    ".join(lines)


def plans(seed: int, rounds: int, *, each_once: bool = False) -> Iterator[Plan]:
    """The same for the same arguments. `each_once`: every kind of fault in as few rounds."""
    dice = random.Random(seed)
    dealer = Dealer(dice, dict.fromkeys(Kind, 1) if each_once else DECK)
    for number in range(1, rounds + 1):
        spool = number % SPOOL_EVERY == SPOOL_EVERY - 1
        jobs = number % JOBS_EVERY == JOBS_EVERY - 1
        work = Work.JOBS if jobs else dice.choice(WORKS)
        dealer.begin(spool=spool, work=work)
        count = MOST_STRIKES if each_once else dice.randint(1, MOST_STRIKES)
        kinds = [dealer.deal() for _ in range(count)]
        strikes = (_strike(kind, dice, old=_is_kept(number, rounds)) for kind in kinds)
        yield Plan(number, work, spool, tuple(sorted(strikes, key=lambda strike: strike.at)))


def _is_kept(number: int, rounds: int) -> bool:
    """Whether worker 2 is not killed: in the first third and the last, to see what it gathers."""
    return not rounds / 3 < number <= 2 * rounds / 3


class Dealer:
    """Deals kinds of faults from a shuffled deck; what does not fit this round stays in it."""

    def __init__(self, dice: random.Random, counts: dict[Kind, int]) -> None:
        self._dice = dice
        self._counts = counts
        self._deck: list[Kind] = []
        self._dealt: set[Kind] = set()
        self._spool = False
        self._work = Work.LARGE

    def begin(self, *, spool: bool, work: Work) -> None:
        """A round of that kind."""
        self._spool, self._work = spool, work
        self._dealt = set()

    def deal(self) -> Kind:
        while True:
            for place, kind in enumerate(self._deck):
                if self._fits(kind):
                    self._dealt.add(kind)
                    return self._deck.pop(place)
            fresh = [kind for kind, count in self._counts.items() for _ in range(count)]
            self._dice.shuffle(fresh)
            self._deck += fresh

    def _fits(self, kind: Kind) -> bool:
        """A fault that takes seconds comes once in a round."""
        if self._spool and kind not in WITHOUT_BROKER:
            return False
        if kind is Kind.FULL_DISK and self._work is Work.JOBS:
            return False
        return kind not in SLOW or kind not in self._dealt


def _strike(kind: Kind, dice: random.Random, *, old: bool) -> Strike:
    whom = dice.randrange(3)
    if kind in {Kind.KILL_WORKER, Kind.STOP_WORKER}:
        whom = dice.choice((1, 2))
    if kind is Kind.KILL_WORKER and old:
        whom = 1
    at, draw = dice.random(), dice.random()
    span_s = dice.random() * SPAN_S
    if kind is Kind.STOP_LONG:
        span_s = LONG_SPAN_S
    return Strike(kind, at, span_s, whom, draw)
