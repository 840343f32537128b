"""Which chunks to ask for next: the ones to be asked again, then the others in order."""

from __future__ import annotations

from collections.abc import Callable

from chunkq.protocol.bitmap import Bitmap


class Missing:
    """The order of asking. A chunk is told once; `again` puts it back."""

    def __init__(self) -> None:
        self._again: dict[int, None] = {}
        self._next = 0

    def again(self, index: int) -> None:
        self._again[index] = None

    def pick(
        self,
        room: int,
        *,
        present: Bitmap,
        skip: Callable[[int], bool],
        known: Callable[[int], bool],
    ) -> list[int]:
        """Up to `room` absent chunks.

        `skip`: under way or doubtful, another event brings it back if need be. `known`: its leaf
        is here; the first in order that is not ends the picking.
        """
        first: dict[int, None] = {}
        for index in list(self._again):
            if len(first) >= room:
                return list(first)
            if index in present or skip(index):
                del self._again[index]
            elif known(index):
                del self._again[index]
                first[index] = None
        picked = list(first)
        for index in present.missing(self._next):
            if len(picked) >= room or not known(index):
                break
            self._next = index + 1
            if not skip(index) and index not in first:
                picked.append(index)
        return picked
