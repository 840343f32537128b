"""What was used up in the last 24 hours, counted by the hour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

HOUR_MS: Final = 3_600_000
#: An hour counts for a whole day after it, so that any 24 hours are covered; one more is begun.
HOURS: Final = 25
#: As much as a refusal can say.
MAX_WAIT_MS: Final = 24 * HOUR_MS

#: (hour since 1970, how much in it)
Used = tuple[int, int]


def hour_at(wall_ms: int) -> int:
    return wall_ms // HOUR_MS


def place_of(hour: int) -> int:
    """Where an hour is kept, in place of the one that counts no more."""
    return hour % HOURS


def counts(hour: int, now_hour: int) -> bool:
    """Hours of a clock that was wrong by more than a day do not count, nor do those of old."""
    return abs(now_hour - hour) < HOURS


def total(used: Iterable[Used], wall_ms: int) -> int:
    """What counts at this moment."""
    now_hour = hour_at(wall_ms)
    return sum(amount for hour, amount in used if counts(hour, now_hour))


def wait_ms(used: Iterable[Used], limit: int, wall_ms: int) -> int:
    """How long until less than `limit` counts, if nothing more is used; 0: it does now."""
    now_hour = hour_at(wall_ms)
    counting = sorted((hour, amount) for hour, amount in used if counts(hour, now_hour) and amount)
    left = sum(amount for _, amount in counting)
    if left < limit:
        return 0
    for hour, amount in counting:
        left -= amount
        if left < limit:
            return min(max(1, (hour + HOURS) * HOUR_MS - wall_ms), MAX_WAIT_MS)
    return MAX_WAIT_MS
