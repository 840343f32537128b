"""A long-running process under a service manager: ready, alive, stopping."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from signal import Signals

from chunkq.cli.interrupt import stopping
from chunkq.errors import ChunkqError, ExitCode
from chunkq.settings import supervisor
from chunkq.telemetry.logs import write as write_log
from chunkq.telemetry.notify import Notifier


async def supervised(work: Callable[[Notifier], Awaitable[None]]) -> int:
    """Run `work` until a signal; it is cancelled, finishes what it has, and the exit code is 0.

    Raises the `ChunkqError` that ended it otherwise.
    """
    manager = supervisor()
    notifier = Notifier(manager.notify_socket)
    working = asyncio.ensure_future(work(notifier))

    def on_stop(number: Signals) -> None:
        notifier.stopping()
        write_log("stopping", signal=number.name)
        working.cancel()

    alive = asyncio.ensure_future(_keep_alive(notifier, manager.watchdog_interval_s))
    try:
        with stopping(on_stop):
            await working
    except asyncio.CancelledError:
        write_log("stopped")
    except ExceptionGroup as group:
        raise _first(group) from group
    finally:
        alive.cancel()
    return ExitCode.OK


def _first(group: ExceptionGroup[Exception]) -> Exception:
    """The error to tell: one of ours if there is one."""
    ours, _ = group.split(ChunkqError)
    found: BaseException = ours or group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    assert isinstance(found, Exception)
    return found


async def _keep_alive(notifier: Notifier, interval_s: float | None) -> None:
    """The watchdog hears of us as long as the loop turns."""
    while interval_s is not None:
        notifier.watchdog()
        await asyncio.sleep(interval_s)
