"""How many bytes of a worker's replies may be on their way to the carrier at once."""

from __future__ import annotations

from math import inf
from typing import Final

from chunkq.protocol.limits import MIB
from chunkq.runtime.slots import Slots

#: Enough for a carrier beside us to be kept busy while the next replies are sealed.
NEAR_BYTES: Final = 8 * MIB
#: A carrier says only after its distance that it has taken a packet over. So many bytes for each
#: second of it keep 500 Mbit/s busy …
BYTES_PER_S: Final = 500_000_000 // 8
#: … but no more than that: it is memory. A round trip of 540 ms to the broker at that rate.
FAR_BYTES: Final = 40 * MIB
#: So small a part of it is a peer's though the others have taken all: what is for a peer that does
#: not take its replies stays on its way for many seconds.
PARTS: Final = 8


class Outflow(Slots):
    """Room in bytes, by the shortest time that the carrier ever took for a packet.

    The shortest, because what waits behind other packets tells nothing of the distance.
    """

    def __init__(self) -> None:
        super().__init__(NEAR_BYTES, NEAR_BYTES // PARTS)
        self._shortest_s = inf

    def taken_over(self, taken_s: float) -> None:
        """The carrier took a packet over, `taken_s` seconds after it was handed on."""
        if taken_s < self._shortest_s:
            self._shortest_s = taken_s
            self.count = min(NEAR_BYTES + int(taken_s * BYTES_PER_S), FAR_BYTES)
            self.share = self.count // PARTS
