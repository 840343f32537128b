"""A reporter follows transfers: their rates, what it tells of them, and what still counts later."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

from chunkq.errors import StorageError
from chunkq.ports import Clock, LinkHealth
from chunkq.protocol.condition import Reason, State
from chunkq.protocol.report import MAX_TRANSFERS, Report
from chunkq.protocol.transfer_events import Waiting
from chunkq.runtime.origin import OriginWorker
from chunkq.runtime.ownsite import ControlDesk
from chunkq.runtime.peer import Requester
from chunkq.runtime.progress import Observation, Progress
from chunkq.runtime.reporting import IDLE_S, MAX_LOOKS, LinkEnd, Reporter, Who
from chunkq.runtime.tracking import RATE_S, TOLD_EVERY_S
from chunkq.transport.memory import MemoryCarrier, MemoryTransport
from tests.support.virtual import LoopClock, run_virtual

WHO = Who(
    site="alpha",
    host="here",
    role="requester",
    instance="abcdefghijkl",
    incarnation="ab" * 16,
    software="1",
    started_ms=5,
)
BUSY = Waiting("busy", "too much to do")


@dataclass
class Now:
    """A clock that is set."""

    at_s: float = 100.0

    def monotonic_s(self) -> float:
        return self.at_s

    def wall_ms(self) -> int:
        return int(self.at_s * 1000)


@dataclass(eq=False)
class Scripted:
    """A transfer as a test has it."""

    id: str = "one"
    waits: bool = False
    looks: int = 0
    error: str = ""
    progress: Progress = field(
        default_factory=lambda: Progress(source="beta:docs/a", peer="beta", phase="running")
    )

    def set(self, **fields: object) -> None:
        self.progress = replace(self.progress, **fields)  # type: ignore[arg-type]

    def observe(self) -> Observation:
        self.looks += 1
        return Observation(id=self.id, progress=self.progress, error=self.error)


@dataclass
class Ends:
    """The ends of links of a process."""

    ends: list[LinkEnd] = field(default_factory=list)

    def links(self) -> Iterator[LinkEnd]:
        return iter(self.ends)

    def workers(self) -> Iterator[OriginWorker]:
        return iter(())

    def requesters(self) -> Iterator[Requester]:
        return iter(())

    def desks(self) -> Iterator[ControlDesk]:
        return iter(())


def reporter_of(
    clock: Clock, ends: Ends | None = None, told: list[tuple[str, ...]] | None = None
) -> Reporter:
    return Reporter(
        WHO,
        ends or Ends(),
        clock,
        machine=lambda: (1000, 10),
        told=None if told is None else lambda *what: told.append(what),
    )


def test_the_rate_is_that_of_the_last_seconds() -> None:
    """Steady bytes give their rate; when they stop it goes to nothing within its time."""
    now, scripted = Now(), Scripted()
    reporter = reporter_of(now)
    reporter.watch(scripted)
    rates = []
    for second in range(20):
        now.at_s += 1
        scripted.set(new_bytes=min(second, 9) * 1000, bytes_present=min(second, 9) * 1000)
        rates.append(reporter.collect().transfers[0].rate_bytes_per_s)

    assert [1000] * 9 == rates[1:10]
    assert sorted(rates[9:], reverse=True) == rates[9:]
    assert 0 == rates[9 + int(RATE_S)]


def test_when_the_last_byte_came_is_told() -> None:
    """By the wall clock; chunks that were there before are no progress of this kind."""
    now, scripted = Now(), Scripted()
    reporter = reporter_of(now)
    reporter.watch(scripted)
    scripted.set(chunks_present=5)
    assert 0 == reporter.collect().transfers[0].progress_ms
    now.at_s = 107.0
    scripted.set(new_bytes=1)
    reporter.collect()
    now.at_s = 160.0

    assert 107_000 == reporter.collect().transfers[0].progress_ms


def test_a_stall_and_its_end_are_told_once_each() -> None:
    """With the reason; one that flutters is told of once a minute, and right in the end."""
    now, scripted, told = Now(), Scripted(), list[tuple[str, ...]]()
    reporter = reporter_of(now, told=told)
    reporter.watch(scripted)
    for second in range(int(3 * TOLD_EVERY_S)):
        now.at_s += 1
        stalls = second % 10 >= 4 if second < TOLD_EVERY_S else second < 2 * TOLD_EVERY_S
        scripted.set(
            waiting=BUSY if stalls else None,
            new_bytes=scripted.progress.new_bytes + (not stalls),
        )
        reporter.look()

    assert [
        ("one", "stalled", "busy", "too much to do"),
        ("one", "moving", "", ""),
    ] == told


def test_what_ended_transfers_brought_still_counts() -> None:
    """Sums only rise, the last bytes before the end included; how each ended is counted."""
    now, first, second = Now(), Scripted(), Scripted("two", error="NotFound")
    reporter = reporter_of(now)
    reporter.watch(first)
    reporter.watch(second)
    first.set(origins={"beta": 10})
    second.set(origins={"beta": 1, "gamma": 5})
    reporter.collect()
    first.set(origins={"beta": 25}, phase="done")
    reporter.unwatch(first)
    second.set(phase="failed")
    reporter.unwatch(second)
    reporter.unwatch(second)

    assert {"beta": 26, "gamma": 5} == reporter.received_bytes()
    assert {(State.DONE, None): 1, (State.FAILED, Reason.NOT_FOUND): 1} == reporter.ended
    assert 0 == reporter.collect().transfers_total


def test_of_many_transfers_those_that_move_come_first() -> None:
    """A report tells of a bounded number, and counts all; those that wait cost no look."""
    now = Now()
    reporter = reporter_of(now)
    waiting = [Scripted(f"waits-{number}", waits=True) for number in range(1000)]
    stalled = [Scripted(f"stalled-{number}") for number in range(MAX_TRANSFERS)]
    moving = Scripted("moving")
    for each in (*waiting, *stalled, moving):
        reporter.watch(each)
    for each in stalled:
        each.set(waiting=BUSY)
    reporter.collect()
    now.at_s += 60
    moving.set(new_bytes=1)
    report = reporter.collect()

    assert 1000 + MAX_TRANSFERS + 1 == report.transfers_total
    assert "moving" == report.transfers[0].transfer
    assert MAX_TRANSFERS == len(report.transfers)
    assert 0 == sum(each.looks for each in waiting)
    assert {
        (State.QUEUED, Reason.WAITING_TURN): 1000,
        (State.STALLED, Reason.BUSY): MAX_TRANSFERS,
        (State.RUNNING, None): 1,
    } == reporter.transfers()


def test_thousands_under_way_are_looked_at_in_turn() -> None:
    """So a second's look costs the same for any number, and none is left out."""
    reporter = reporter_of(Now())
    many = [Scripted(str(number)) for number in range(3 * MAX_LOOKS + 10)]
    for each in many:
        reporter.watch(each)
    reporter.look()
    assert MAX_LOOKS == sum(each.looks for each in many)
    for _ in range(3):
        reporter.look()

    assert {1, 2} == {each.looks for each in many}


class Lost(MemoryTransport):
    """One whose carrier is away."""

    health = LinkHealth(ok=False, reason="broker_unreachable", detail="refused")


def test_the_log_says_that_a_link_is_lost_and_that_it_is_back() -> None:
    """Whoever reads only the log of a worker learns of it, once."""
    logged: list[str] = []

    async def write(_: Report) -> None:
        """Nobody reads reports here."""

    async def scenario() -> None:
        clock = LoopClock()
        carrier = MemoryCarrier(clock)
        ends = Ends([LinkEnd("default", "memory", Lost(carrier, "alpha"))])
        running = asyncio.ensure_future(
            reporter_of(clock, ends).run(write, lambda event, **_: logged.append(event))
        )
        await asyncio.sleep(4 * IDLE_S)
        assert ["link_lost"] == logged
        ends.ends = [LinkEnd("default", "memory", MemoryTransport(carrier, "alpha"))]
        await asyncio.sleep(4 * IDLE_S)
        assert ["link_lost", "link_back"] == logged
        running.cancel()

    run_virtual(scenario())


def test_traffic_of_a_link_that_was_opened_anew_still_counts() -> None:
    """What a transport moved counts after it is gone; two ends of one link are one line."""

    async def scenario() -> None:
        ends = Ends()
        reporter = reporter_of(LoopClock(), ends)
        carrier = MemoryCarrier(LoopClock())
        transports = [MemoryTransport(carrier, "alpha") for _ in range(3)]
        for transport in transports:
            transport._sent_bytes = 100
        ends.ends = [LinkEnd("default", "memory", each) for each in transports[:2]]
        assert [200] == [link.sent_bytes for link in reporter.collect().links]
        ends.ends = [LinkEnd("default", "memory", transports[2])]

        (link,) = reporter.collect().links
        assert ("default", "memory", None, 300) == (
            link.link,
            link.transport,
            link.reason,
            link.sent_bytes,
        )

    run_virtual(scenario())


def test_a_hostile_text_makes_no_report_impossible() -> None:
    """Lone surrogates, endless sentences: the report is made all the same, and can be encoded."""
    reporter = reporter_of(Now())
    scripted = Scripted()
    reporter.watch(scripted)
    scripted.set(
        source="beta:\udcff" + "x" * 10_000,
        waiting=Waiting("unheard_of", "y" * 5000),
        origins={"a peer of a program's own naming": 5},
    )
    report = reporter.collect()

    assert report == Report.model_validate_json(report.model_dump_json(), strict=True)
    assert Reason.INTERNAL is report.transfers[0].reason


def test_reports_come_each_second_while_something_moves() -> None:
    """And every five when nothing does, or when it is stalled; errors are told once."""
    written: list[float] = []
    logged: list[str] = []
    scripted = Scripted()

    async def write(report: Report) -> None:
        written.append(asyncio.get_running_loop().time())
        if len(written) < 4:
            raise StorageError("no room for it")

    async def scenario() -> None:
        clock = LoopClock()
        reporter = reporter_of(clock)
        running = asyncio.ensure_future(
            reporter.run(write, lambda event, **_: logged.append(event))
        )
        await asyncio.sleep(21)
        assert [IDLE_S] * 4 == gaps()
        assert ["report_failed"] == logged
        written.clear()
        reporter.watch(scripted)
        for _ in range(10):
            await asyncio.sleep(1)
            scripted.set(new_bytes=scripted.progress.new_bytes + 1)
        assert {1.0} == set(gaps())
        await asyncio.sleep(10)
        written.clear()
        await asyncio.sleep(16)
        assert {IDLE_S} == set(gaps())
        running.cancel()

    def gaps() -> list[float]:
        return [later - sooner for sooner, later in pairwise(written)]

    run_virtual(scenario())
