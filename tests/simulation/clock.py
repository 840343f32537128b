"""Virtual time: an asyncio loop that jumps to its next timer whenever nothing is ready.

Everything of one simulation runs on one such loop, in one thread: what goes to an executor is done
at once and comes back on a later turn. So a run depends on its seeds alone, an hour of waiting
costs nothing, and what would wait for ever says so.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

#: The wall clock at the beginning of every simulation (2026-01-01, UTC).
WALL_START_MS = 1_767_225_600_000

_T = TypeVar("_T")


class Stuck(Exception):
    """Nothing is ready and no timer is set: what is awaited will never come."""


class VirtualClock:
    """`ports.Clock` of a simulation, in seconds since its beginning."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return WALL_START_MS + int(self.now_s * 1000)


class _Jump(selectors.SelectSelector):
    """Instead of waiting for descriptors, of which there are none: lets the time pass."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck(f"nothing will ever happen after {self._clock.now_s:.3f} s")
        self._clock.now_s += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """`work_s`: how long each piece of work on a thread takes, in virtual seconds; None: no time.

    Sockets, subprocesses and real threads have no place here.
    """

    def __init__(
        self, clock: VirtualClock | None = None, *, work_s: Callable[[], float] | None = None
    ) -> None:
        self.clock = clock or VirtualClock()
        self._work_s = work_s
        super().__init__(_Jump(self.clock))

    def time(self) -> float:
        return self.clock.now_s

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., _T], *args: Any
    ) -> asyncio.Future[_T]:
        """Do it now; the outcome is known after `work_s`, on another turn of the loop."""
        future: asyncio.Future[_T] = self.create_future()
        settle: Callable[[], None]
        try:
            result = func(*args)
        except Exception as error:
            raised = error
            settle = lambda: None if future.done() else future.set_exception(raised)  # noqa: E731
        else:
            settle = lambda: None if future.done() else future.set_result(result)  # noqa: E731
        if self._work_s is None:
            self.call_soon(settle)
        else:
            self.call_later(self._work_s(), settle)
        return future

    def _write_to_self(self) -> None:
        """Nobody sleeps in `select`, so nobody is woken."""


def run(
    main: Callable[[VirtualClock], Coroutine[Any, Any, _T]],
    *,
    work_s: Callable[[], float] | None = None,
) -> _T:
    """Run `main(clock)` to its end in virtual time. Raises `Stuck`."""
    clock = VirtualClock()
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock, work_s=work_s)) as runner:
        return runner.run(main(clock))
