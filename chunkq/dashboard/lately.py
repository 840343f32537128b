"""What was found out a moment ago, for all tabs together: none asks the broker by itself."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final, TypeVar, cast

_Found = TypeVar("_Found")

#: Answers kept: some for each tab.
_MAX_KEPT: Final = 256


class Lately:
    """Keeps answers for a while. `now_s` is any clock that only goes forward."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._kept: OrderedDict[Hashable, tuple[float, asyncio.Future[Any]]] = OrderedDict()

    async def get(
        self, key: Hashable, age_s: float, find: Callable[[], Awaitable[_Found]]
    ) -> _Found:
        """What `find` said for `key` no longer than `age_s` ago; several who ask wait for one."""
        now = self._now_s()
        at, found = self._kept.get(key, (0.0, None))
        if found is None or now - at > age_s or (found.done() and _failed(found)):
            found = asyncio.ensure_future(find())
            self._kept[key] = (now, found)
            self._kept.move_to_end(key)
            while len(self._kept) > _MAX_KEPT:
                self._kept.popitem(last=False)
        return cast("_Found", await asyncio.shield(found))


def _failed(found: asyncio.Future[Any]) -> bool:
    return found.cancelled() or found.exception() is not None
