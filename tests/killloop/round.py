"""One round: the work is begun, the faults of the plan strike, and it must come to its end."""

from __future__ import annotations

import heapq
import itertools
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chunkq.errors import ExitCode
from chunkq.storage.jobs import JobState, JobStore
from tests.killloop.plan import Kind, Plan, Strike, Work
from tests.killloop.remains import check_contents
from tests.killloop.smalldisk import SmallDisk
from tests.killloop.sources import MIB, Errand
from tests.killloop.strikes import Striker
from tests.killloop.world import SIGNALLED, Carrier, Failure, World
from tests.support.pair import Running, until

#: How long the work may take once the last fault is over. Without faults it takes two seconds.
RECOVERY_S = 90.0
#: A broker that comes back takes 5 to 8 s, and `get` says at once that there is none.
MOST_RERUNS = 120
#: A busy machine has taken 25 s.
BROKER_RETURNS_S = 100.0
STRIKE_AGAIN_S = 0.05
RERUN_PAUSE_S = 0.15
POLL_S = 0.01
#: What a process needs before it asks, and what both workers send in a second.
START_S = 0.5
BYTES_S = 26 * MIB
#: What `get` may end with when everything may fail but the origin's mind and its files.
PERMITTED = SIGNALLED | {
    ExitCode.OK,
    ExitCode.PARTIAL,
    ExitCode.UNREACHABLE,
    ExitCode.STOPPED,
}
#: Room for what is staged beside the files, on the disk that fills.
DISK_MARGIN_BYTES = 6 * MIB


@dataclass(slots=True)
class Outcome:
    """How a round went. `recovery_s`: from the end of the last fault to the end of the work."""

    plan: Plan
    seconds: float = 0.0
    recovery_s: float = 0.0
    reruns: int = 0
    struck: list[Kind] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Command:
    """One `get` that is run until it says that it is done."""

    arguments: tuple[str, ...]
    running: Running | None = None
    again_at: float = 0.0
    done: bool = False


class Round:
    """`run()` once. Raises `Failure`."""

    def __init__(self, world: World, plan: Plan) -> None:
        self._world = world
        self._plan = plan
        self._carrier: Carrier = world.spool if plan.spool else world.rabbitmq
        self._dest = world.root / "inbox" / f"round{plan.number}"
        draw = plan.strikes[0].draw if plan.strikes else 0.5
        self._errand: Errand = world.pool.errand(plan.work, draw, f"{self._dest}/")
        self._commands = [_Command(each) for each in self._errand.commands]
        self._disk: SmallDisk | None = None
        self._jobs: set[str] = set()
        self._order = itertools.count()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._undo: dict[int, Callable[[], None]] = {}
        self.outcome = Outcome(plan)

    def run(self) -> Outcome:
        began = time.monotonic()
        if self._plan.full_disk:
            self._disk = SmallDisk(self._dest, self._errand.size_bytes + DISK_MARGIN_BYTES)
        else:
            self._dest.mkdir(parents=True)
        try:
            self._begin()
            self._go_through()
            check_contents(self._outside, self._errand.wanted)
        finally:
            self._end_all()
        self.outcome.seconds = time.monotonic() - began
        shutil.rmtree(self._dest, ignore_errors=True)
        return self.outcome

    @property
    def _outside(self) -> Path:
        return self._disk.outside if self._disk is not None else self._dest

    # ------------------------------------------------------------ the course of it

    def _begin(self) -> None:
        self._striker = Striker(self._world, self._carrier, self._requesters, self._disk)
        now = time.monotonic()
        length_s = START_S + self._errand.size_bytes / BYTES_S
        for strike in self._plan.strikes:
            at = 0.0 if strike.kind is Kind.FULL_DISK and self._plan.work is not Work.TREE else 1.0
            self._at(now + at * strike.at * length_s, lambda s=strike: self._strike(s))
        self._run_due()
        if self._plan.work is Work.JOBS:
            self._leave_jobs()
        else:
            for command in self._commands:
                self._start(command)

    def _leave_jobs(self) -> None:
        alice = self._carrier.pair.alice
        for command in self._commands:
            said = alice.quick("get", "--queue", *command.arguments)
            self._jobs.add(said.rpartition("(job ")[2].rstrip(")"))
        if self._carrier.work is None:
            self._carrier.start_work()

    def _go_through(self) -> None:
        calm_since: float | None = None
        while True:
            self._run_due()
            self._look_after()
            if self._is_done():
                break
            now = time.monotonic()
            if self._due or not self._world.broker_is_up:
                calm_since = None
            elif calm_since is None:
                calm_since = now
            elif now - calm_since > RECOVERY_S:
                raise Failure(f"not done {RECOVERY_S:.0f} s after the last fault:\n{self._told()}")
            time.sleep(POLL_S)
        if calm_since is not None:
            self.outcome.recovery_s = time.monotonic() - calm_since

    def _look_after(self) -> None:
        """Run again what has ended before it was done."""
        self.outcome.reruns += self._carrier.revive()
        for command in self._commands if not self._jobs else ():
            running = command.running
            if command.done or (running is not None and running.alive):
                continue
            if running is not None:
                command.running, command.done = None, self._ended(running)
                command.again_at = time.monotonic() + RERUN_PAUSE_S
            elif time.monotonic() >= command.again_at:
                self.outcome.reruns += 1
                if self.outcome.reruns > MOST_RERUNS:
                    raise Failure(f"run again {MOST_RERUNS} times in vain:\n{self._told()}")
                self._start(command)

    def _ended(self, running: Running) -> bool:
        """Whether it did what it was told. Every end must be one that is documented."""
        code = running.process.returncode
        self.outcome.codes.append(code)
        last = (running.err.strip().splitlines() or [""])[-1]
        if code not in PERMITTED:
            raise Failure(f"exit code {code}: {running.err}")
        if code > 0 and not last.startswith(("error: ", "hint: ")):
            raise Failure(f"exit code {code}, and the last line is {last!r}")
        return code == ExitCode.OK

    def _is_done(self) -> bool:
        if not self._jobs:
            return all(command.done for command in self._commands)
        store = JobStore(self._carrier.pair.alice.state)
        try:
            failed = [job for job in store.jobs(JobState.FAILED) if job.job_id in self._jobs]
            done = {job.job_id for job in store.jobs(JobState.DONE)}
        finally:
            store.close()
        if failed:
            raise Failure(f"a job failed for good: {failed[0]}")
        return self._jobs <= done

    # ------------------------------------------------------------ faults

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._order), what))

    def _run_due(self) -> None:
        while self._due and self._due[0][0] <= time.monotonic():
            heapq.heappop(self._due)[2]()

    def _strike(self, strike: Strike) -> None:
        undo = self._striker.begin(strike)
        if undo is None:  # whom it is for is away; perhaps not for long
            self._at(time.monotonic() + STRIKE_AGAIN_S, lambda: self._strike(strike))
            return
        self.outcome.struck.append(strike.kind)
        number = next(self._order)
        self._undo[number] = undo
        self._at(time.monotonic() + strike.span_s, lambda: self._undo.pop(number)())

    def _end_all(self) -> None:
        """The faults that still last are ended, those that did not come to pass are left out."""
        for undo in self._undo.values():
            undo()
        self._world.calm()
        until(lambda: self._world.broker_is_up, BROKER_RETURNS_S)
        for command in self._commands:
            if command.running is not None:
                command.running.end()
        if self._disk is not None:
            self._disk.close()

    # ------------------------------------------------------------ processes

    def _start(self, command: _Command) -> None:
        prefix = self._disk.prefix if self._disk is not None else None
        command.running = self._carrier.get(*command.arguments, prefix=prefix)

    def _requesters(self) -> list[Running]:
        if self._jobs:
            return [self._carrier.work] if self._carrier.work is not None else []
        return [each.running for each in self._commands if each.running is not None]

    def _told(self) -> str:
        return "\n".join(each.err[-2000:] for each in self._requesters())
