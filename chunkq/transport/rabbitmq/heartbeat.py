"""Noticing that the other end is gone, and telling it that this one is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

#: The specification's rule: a peer that was silent for two intervals is gone.
MISSED_INTERVALS: Final = 2


class Heartbeat:
    """Sends a heartbeat each half interval, and calls `expired` after two silent ones.

    pika's own checker takes a connection that we paused for a dead one. Here nothing counts as
    silence while reading is paused: what the broker sends waits in the kernel, unseen.
    """

    def __init__(
        self, interval_s: float, *, send: Callable[[], None], expired: Callable[[], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._interval_s = interval_s
        self._send = send
        self._expired = expired
        self._heard_at = self._loop.time()
        self._paused = False
        self._timer = self._loop.call_later(interval_s / 2, self._tick)

    def heard(self) -> None:
        """Bytes came."""
        self._heard_at = self._loop.time()

    def pause(self) -> None:
        """Reading stops by our own wish."""
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self.heard()

    def stop(self) -> None:
        self._timer.cancel()

    def _tick(self) -> None:
        silent_s = self._loop.time() - self._heard_at
        if not self._paused and silent_s > MISSED_INTERVALS * self._interval_s:
            self._expired()
            return
        self._timer = self._loop.call_later(self._interval_s / 2, self._tick)
        self._send()
