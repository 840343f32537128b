"""Chance in a simulated world: one stream of random numbers for each thing that draws.

Separate, so that one more draw of the network leaves the disk's faults where they were: that is
what makes a failing seed fail again with some of its faults switched off.
"""

from __future__ import annotations

from hashlib import blake2b
from random import Random

#: 64 bits are plenty for a seed, and small integers make the quickest generators.
_SEED_BYTES = 8


def stream(seed: int, name: str) -> Random:
    """The stream `name` of a seed: the same in every process, whatever PYTHONHASHSEED says."""
    digest = blake2b(f"{seed}/{name}".encode(), digest_size=_SEED_BYTES).digest()
    return Random(int.from_bytes(digest, "big"))


class Streams:
    """All streams of one world."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.network = stream(seed, "network")
        self.adversary = stream(seed, "adversary")
        self.disk = stream(seed, "disk")
        self.clock = stream(seed, "clock")
        self.scheduling = stream(seed, "scheduling")
        self.workload = stream(seed, "workload")
        self.lies = stream(seed, "lies")
        #: What `os.urandom` gives to the processes.
        self.entropy = stream(seed, "entropy")

    def of(self, name: str) -> Random:
        """One more, for one kind of fault: each has its own."""
        return stream(self.seed, name)
