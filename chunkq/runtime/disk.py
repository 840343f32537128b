"""How much of this disk the unfinished files of each peer take, in one process."""

from __future__ import annotations

from collections.abc import Hashable

from chunkq.errors import DiskFull, OverQuota


class DiskShares:
    """What each peer's unfinished files have, by their size when they are whole."""

    def __init__(self) -> None:
        self._taken: dict[str, dict[Hashable, int]] = {}

    def take(self, peer: str, what: Hashable, size_bytes: int, limit_bytes: int) -> None:
        """Let a file have so much, instead of what it had; `limit_bytes` 0: any number.

        Raises `OverQuota` if it alone is too large, `DiskFull` if there is room once others are
        done.
        """
        self.give_back(peer, what)
        others = sum(self._taken.get(peer, {}).values())
        if limit_bytes and size_bytes > limit_bytes:
            raise OverQuota(
                f"{size_bytes} bytes are more than {peer} may take of this disk ({limit_bytes})",
                hint=f"chunkq peer set {peer} --disk SIZE, then run the same command again",
            )
        if limit_bytes and others + size_bytes > limit_bytes:
            raise DiskFull(
                f"unfinished files of {peer} take {others} bytes, {size_bytes} more would be over "
                f"its {limit_bytes}",
                hint="it goes on by itself when they are done",
            )
        self.hold(peer, what, size_bytes)

    def hold(self, peer: str, what: Hashable, size_bytes: int) -> None:
        """It has so much already, from before this process began."""
        self._taken.setdefault(peer, {})[what] = size_bytes

    def give_back(self, peer: str, what: Hashable) -> None:
        """It is done, or stopped."""
        held = self._taken.get(peer, {})
        held.pop(what, None)
        if not held:
            self._taken.pop(peer, None)
