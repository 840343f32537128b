"""The epochs that a process has begun: numbers that its requests to an origin are counted under."""

from __future__ import annotations

from typing import Final

from chunkq.ports import Clock, Entropy
from chunkq.protocol.packet import EPOCH_RANDOM_BITS, U64_LIMIT

#: The last epoch that another can follow: they travel as u64.
LAST_EPOCH: Final = U64_LIMIT - 2
#: How often one origin may have a process begin anew: it loses its record at a restart of its
#: machine at the most. Each epoch is remembered as one of our own.
MAX_NEW_EPOCHS: Final = 1000


class Epochs:
    """All that were begun here; replies to requests of others may be for an earlier process."""

    def __init__(self, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._entropy = entropy
        self._begun: set[int] = set()

    def __contains__(self, epoch: int) -> bool:
        return epoch in self._begun

    def __len__(self) -> int:
        return len(self._begun)

    def begin(self, above: int = 0) -> int:
        """A number larger than `above`, and never given out here before.

        Nor, by chance, to an earlier process that was told of the same `above`: the number and a
        transfer's secret make the keys of requests, and no two are sealed under one.
        """
        random = int.from_bytes(self._entropy(4), "big") % (1 << EPOCH_RANDOM_BITS)
        epoch = max((self._clock.wall_ms() << EPOCH_RANDOM_BITS) | random, above + 1 + random)
        if epoch > LAST_EPOCH:  # only of an origin that lies
            epoch = above + 1
        while epoch in self._begun:
            epoch += 1
        self._begun.add(epoch)
        return epoch
