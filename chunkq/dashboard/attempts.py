"""How often somebody may try to log in: per address, and all together."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from chunkq.protocol.bucket import TokenBucket

#: A person who mistypes is let in again soon; a program gets 300 guesses an hour.
_BURST: Final = 5
_RATE_PER_S: Final = 1 / 12
#: Of everybody together: many addresses guess no faster than this.
_BURST_OF_ALL: Final = 30
_RATE_OF_ALL_PER_S: Final = 0.5
#: Addresses remembered; the longest unseen is forgotten first.
_MAX_ADDRESSES: Final = 1024


class Attempts:
    """Counts attempts that failed."""

    def __init__(self) -> None:
        self._all = TokenBucket(_RATE_OF_ALL_PER_S, _BURST_OF_ALL)
        self._by_address: OrderedDict[str, TokenBucket] = OrderedDict()

    def allowed(self, address: str, now_s: float) -> bool:
        """Whether this address may try at all."""
        return self._all.has(now_s) and self._bucket(address).has(now_s)

    def failed(self, address: str, now_s: float) -> None:
        self._all.take(now_s)
        self._bucket(address).take(now_s)

    def wait_s(self, address: str) -> int:
        """Whole seconds until the next try."""
        return 1 + int(max(self._all.wait_s(), self._bucket(address).wait_s()))

    def _bucket(self, address: str) -> TokenBucket:
        bucket = self._by_address.setdefault(address, TokenBucket(_RATE_PER_S, _BURST))
        self._by_address.move_to_end(address)
        if len(self._by_address) > _MAX_ADDRESSES:
            self._by_address.popitem(last=False)
        return bucket
