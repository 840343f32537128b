"""Signals: the first asks to stop, the second does not ask."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from chunkq.errors import ExitCode

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopping(
    on_stop: Callable[[signal.Signals], None], on_status: Callable[[], None] | None = None
) -> Iterator[None]:
    """Within it, the first SIGINT, SIGTERM or SIGHUP calls `on_stop`, the second ends the process.

    Ending it at any instant loses nothing: that is what the disk format is for. SIGUSR1 calls
    `on_status`. Must be used on a running loop.
    """
    loop = asyncio.get_running_loop()
    asked = False

    def stop(number: signal.Signals) -> None:
        nonlocal asked
        if asked:
            os._exit(ExitCode.STOPPED)
        asked = True
        on_stop(number)

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop, number)
    if on_status is not None:
        loop.add_signal_handler(signal.SIGUSR1, on_status)
    try:
        yield
    finally:
        for number in (*STOP_SIGNALS, signal.SIGUSR1):
            loop.remove_signal_handler(number)
