"""What goes wrong in a world: each seed draws a few of these, and how much of each."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from random import Random
from typing import Self

#: How likely each fault is to be among those of a seed.
_ENABLED = 0.25
#: A seed without any fault now and then: what it breaks needs none.
_QUIET = 0.03


@dataclass(frozen=True, kw_only=True)
class Faults:
    """0.0: never. Probabilities are per packet or per call, `every` are mean virtual seconds."""

    # the network and the broker
    lose: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    reset_every: float = 0.0
    restart_every: float = 0.0
    block_every: float = 0.0
    delete_queue_every: float = 0.0
    small_queues: float = 0.0
    # an adversary at the broker
    mutate: float = 0.0
    cross_route: float = 0.0
    replay_every: float = 0.0
    # disks
    write_error: float = 0.0
    no_space: float = 0.0
    sync_error: float = 0.0
    read_error: float = 0.0
    short_write: float = 0.0
    rot_every: float = 0.0
    full_every: float = 0.0
    # clocks
    wall_jump_every: float = 0.0
    wall_wrong: float = 0.0
    stop_every: float = 0.0
    suspend_every: float = 0.0
    slow_threads: float = 0.0
    # processes and hosts
    kill_every: float = 0.0
    kill_at_event: float = 0.0
    kill_at_call: float = 0.0
    kill_at_sync: float = 0.0
    power_every: float = 0.0
    power_at_sync: float = 0.0
    pause_every: float = 0.0
    # origins
    bad_chunk: float = 0.0
    bad_page: float = 0.0
    bad_manifest: float = 0.0
    bad_length: float = 0.0
    false_refusal: float = 0.0
    stall: float = 0.0
    change_every: float = 0.0
    vanish_every: float = 0.0
    # requesters
    flood_every: float = 0.0
    # operators and users (new faults at the end: what a seed draws for the others stays)
    revoke_every: float = 0.0
    intrude_every: float = 0.0
    bad_listing: float = 0.0

    @classmethod
    def draw(cls, random: Random) -> Self:
        """The faults of a seed, and how bad each is."""
        if random.random() < _QUIET:
            return cls()
        enabled = random.uniform(0.05, 2 * _ENABLED)
        drawn: dict[str, float] = {}
        for field in fields(cls):
            # Drawn for those that stay off as well: what one draws does not depend on the others.
            on, amount = random.random() < enabled, random.random()
            if on:
                low, high = _RANGES.get(field.name, _EVERY)
                drawn[field.name] = low * (high / low) ** amount
        return cls(**drawn)

    @property
    def enabled(self) -> tuple[str, ...]:
        return tuple(field.name for field in fields(self) if getattr(self, field.name))

    def without(self, *names: str) -> Self:
        return replace(self, **dict.fromkeys(names, 0.0))

    def only(self, *names: str) -> Self:
        return self.without(*(name for name in self.enabled if name not in names))

    def __str__(self) -> str:
        told = ", ".join(f"{name}={getattr(self, name):.4g}" for name in self.enabled)
        return told or "none"


#: Mean seconds between two of a kind, unless said otherwise below: some in each world.
_EVERY = (1.0, 15.0)
_RANGES: dict[str, tuple[float, float]] = {
    "lose": (0.01, 0.3),
    "duplicate": (0.01, 0.3),
    "reorder": (0.05, 1.0),
    "delay": (0.5, 20.0),
    "small_queues": (1.0, 1.0),
    "mutate": (0.01, 0.3),
    "cross_route": (0.02, 0.5),
    "replay_every": (0.1, 3.0),
    "write_error": (0.001, 0.03),
    "no_space": (0.001, 0.05),
    "sync_error": (0.005, 0.2),
    "read_error": (0.001, 0.03),
    "short_write": (0.01, 0.5),
    "rot_every": (2.0, 20.0),
    "wall_wrong": (1.0, 1.0),
    "slow_threads": (0.05, 3.0),
    "kill_at_event": (20.0, 400.0),
    "kill_at_call": (5.0, 300.0),
    "kill_at_sync": (1.0, 20.0),
    "power_at_sync": (1.0, 20.0),
    "bad_chunk": (0.02, 0.5),
    "bad_page": (0.1, 0.7),
    "bad_manifest": (0.1, 0.7),
    "bad_length": (0.02, 0.5),
    "bad_listing": (0.1, 0.7),
    "false_refusal": (0.05, 0.6),
    "stall": (0.05, 0.5),
    "flood_every": (0.005, 0.1),
}
