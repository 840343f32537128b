"""The loop of a whole world: processes that are scheduled in any order, stopped, and killed.

Time is virtual (`clock`). Which process a callback belongs to is told by its context. Callbacks of
one process keep their order, those of several are mixed by a stream of chance; those of a dead one
are dropped, those of a stopped one wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from tests.simulation.clock import Stuck, VirtualClock, VirtualLoop
from tests.simulation.process import _CURRENT, Killed, Process, running

_T = TypeVar("_T")
#: For processes that are not to be killed at a certain event.
NEVER = 1 << 62
#: No timer is early: as on real machines, it is a little later by the time that it is looked at.
TICK_S = 1e-7


@dataclass(eq=False, slots=True)
class Running(Process):
    """A process of a world.

    `slept_s`: how much its monotonic clock is behind the world's. `kill_at`: the event before
    which it dies.
    """

    stopped: bool = False
    slept_s: float = 0.0
    events: int = 0
    calls: int = 0
    kill_at: int = NEVER
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    held: list[asyncio.Handle] = field(default_factory=list)


class _Timer(asyncio.TimerHandle):
    """`_when` is the world's time, `when()` that of the process's own clock."""

    __slots__ = ()

    def when(self) -> float:
        process = self._context.get(_CURRENT)  # type: ignore[attr-defined]
        when: float = self._when  # type: ignore[attr-defined]
        return when - process.slept_s if isinstance(process, Running) else when


class WorldLoop(VirtualLoop):
    """`scheduling` draws the order of processes; `work_s` how long work on a thread takes."""

    def __init__(
        self, clock: VirtualClock, scheduling: Random, *, work_s: Callable[[], float]
    ) -> None:
        super().__init__(clock, work_s=work_s)
        self.events = 0
        #: What no code of ours should have let through, as text.
        self.unexpected: list[str] = []
        self.on_kill: Callable[[Running], None] = lambda process: None
        #: Called once there were more events than any world needs.
        self.on_storm: Callable[[], None] = lambda: None
        self.max_events = NEVER
        self._random = scheduling.random
        self._slow_s = 0.0
        self._outside = contextvars.copy_context()
        self.set_task_factory(_make_task)  # type: ignore[arg-type]
        self.set_exception_handler(self._on_exception)

    def time(self) -> float:
        """The monotonic clock of whoever asks."""
        process = _CURRENT.get()
        now = self.clock.now_s
        return now - process.slept_s if isinstance(process, Running) else now

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        timer = _Timer(when, callback, args, self, context)
        process = timer._context.get(_CURRENT)  # type: ignore[attr-defined]
        if isinstance(process, Running):
            timer._when += process.slept_s  # type: ignore[attr-defined]
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def later(self, delay_s: float, call: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        """Something that happens outside of every process."""
        when = self.clock.now_s + delay_s
        return self.call_at(when, call, *args, context=self._outside)

    def takes(self, seconds: float) -> None:
        """The work that is being done on a thread takes so much longer."""
        self._slow_s += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        future = super().run_in_executor(executor, func, *args)
        if self._slow_s:
            slow_s, self._slow_s = self._slow_s, 0.0
            slower: asyncio.Future[_T] = self.create_future()
            future.add_done_callback(lambda done: self.call_later(slow_s, _pass_on, done, slower))
            return slower
        return future

    # ------------------------------------------------------------ processes

    def start(self, process: Running, main: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Begin what a process does."""
        with running(process):
            return self.create_task(main)

    def kill(self, process: Running) -> None:
        """Nothing of it runs any more."""
        process.alive = False
        process.held.clear()

    def stop_process(self, process: Running, *, asleep_s: float = 0.0) -> None:
        """As SIGSTOP, until `go_on`; `asleep_s`: its monotonic clock stands still for so long."""
        process.stopped = True
        if asleep_s:
            process.slept_s += asleep_s
            scheduled: list[Any] = self._scheduled  # type: ignore[attr-defined]
            for timer in scheduled:
                if timer._context.get(_CURRENT) is process:
                    timer._when += asleep_s
            heapq.heapify(scheduled)

    def go_on(self, process: Running) -> None:
        """As SIGCONT."""
        process.stopped = False
        self._ready.extend(process.held)  # type: ignore[attr-defined]
        process.held = []

    def bury(self, process: Running) -> None:
        """Let what is left of a dead process end; every system call of it fails."""
        with running(process):
            for task in process.tasks:
                with suppress(BaseException):
                    if not task.done():
                        task.get_coro().close()
                    elif not task.cancelled():
                        task.exception()  # nobody is left to hear of it
        process.tasks.clear()

    # ------------------------------------------------------------ one turn

    def _run_once(self) -> None:
        ready: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        scheduled: list[Any] = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        if not ready and not self._stopping:  # type: ignore[attr-defined]
            if not scheduled:
                raise Stuck(f"nothing will ever happen after {self.clock.now_s:.3f} s")
            self.clock.now_s = max(self.clock.now_s, scheduled[0]._when) + TICK_S
        now = self.clock.now_s
        while scheduled and scheduled[0]._when <= now:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            ready.append(timer)
        if len(ready) == 1:
            self._run_handle(ready.popleft())
        else:
            for handle in self._mixed(ready):
                self._run_handle(handle)
                if self._stopping:  # type: ignore[attr-defined]
                    return

    def _mixed(self, ready: deque[asyncio.Handle]) -> Iterator[asyncio.Handle]:
        """What is ready now: of each process in order, of several in any."""
        queues: dict[Process | None, deque[asyncio.Handle]] = {}
        for _ in range(len(ready)):
            handle = ready.popleft()
            process = handle._context.get(_CURRENT)  # type: ignore[attr-defined]
            queue = queues.get(process)
            if queue is None:
                queue = queues[process] = deque()
            queue.append(handle)
        left = list(queues.values())
        while len(left) > 1:
            number = int(self._random() * len(left))
            yield left[number].popleft()
            if not left[number]:
                del left[number]
        if left:
            yield from left[0]

    def _run_handle(self, handle: asyncio.Handle) -> None:
        if handle._cancelled:
            return
        process = handle._context.get(_CURRENT)  # type: ignore[attr-defined]
        if isinstance(process, Running):
            if not process.alive:
                return
            if process.stopped:
                process.held.append(handle)
                return
            process.events += 1
            if process.events >= process.kill_at:
                self.on_kill(process)
                return
        self.events += 1
        if self.events == self.max_events:
            self.on_storm()
        handle._run()

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, Killed):
            self.unexpected.append(f"{context.get('message')}: {error!r}")


def _pass_on(done: asyncio.Future[_T], to: asyncio.Future[_T]) -> None:
    if to.done():
        return
    if done.cancelled():
        to.cancel()
    elif (error := done.exception()) is not None:
        to.set_exception(error)
    else:
        to.set_result(done.result())


def _make_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """A task that its process knows, and that says nothing when it ends with that."""
    task = asyncio.Task(coro, loop=loop, **options)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    process = _CURRENT.get()
    if isinstance(process, Running):
        process.tasks.append(task)
    return task
