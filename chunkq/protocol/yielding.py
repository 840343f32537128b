"""The window of an origin as one class of transfers sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from chunkq.protocol.window import Window


class _Yielding:
    """As the window, but for its room."""

    def __init__(self, window: Window, others_first: Callable[[], bool]) -> None:
        self._window = window
        self._others_first = others_first

    @property
    def room(self) -> int:
        """While others go first, a batch less: as much as one of them waits for."""
        room = self._window.room
        if not room or not self._others_first():
            return room
        return max(0, room - self._window.batch)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._window, name)


def yielding(window: Window, others_first: Callable[[], bool]) -> Window:
    """A view of `window` that leaves room for others while `others_first` says so."""
    return cast("Window", _Yielding(window, others_first))
