"""What to configure for a link, from what was measured of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from chunkq.protocol.limits import (
    DEFAULT_CHUNK_SIZE_BYTES,
    KIB,
    MAX_CHUNK_SIZE_BYTES,
    MAX_LIFETIME_MS,
    MIB,
)

#: A chunk is not to take longer than this: so long it holds up what is more urgent, and so much is
#: asked for again when one is lost.
LONGEST_CHUNK_S: Final = 1.0
SMALLEST_CHUNK_BYTES: Final = 64 * KIB
#: The smallest size that comes so near to the best rate is the best size.
NEARLY: Final = 0.9
#: A link of less than this keeps packets waiting below us, where nothing overtakes: better they
#: wait where it can. On faster ones a limit only costs.
SLOW_BYTES_PER_S: Final = 25 * MIB
RATE_SHARE: Final = 0.95
#: A request is answered after a round trip, asked again after two, and may wait behind others.
LIFETIME_ROUND_TRIPS: Final = 20
PATIENCE_ROUND_TRIPS: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Configured:
    """What is in force now: bytes, bytes a second (None: no limit) and seconds."""

    largest_chunk_bytes: int
    request_lifetime_s: float
    patience_s: float
    receive_rate_bytes_per_s: int | None


@dataclass(frozen=True, slots=True)
class Advice:
    """Set `key` to `value` in `section` of config.toml, `here` or at the peer, and why.

    A value is in bytes, bytes a second or seconds, as the key asks. `key` `chunk_size` is a
    share's.
    """

    here: bool
    section: str
    key: str
    value: int
    why: str


def best_size(rates: Mapping[int, float]) -> int:
    """The usual size if it is nearly as fast as any, else the smallest that is.

    Never one that is on the way for over a second. `rates`: bytes a second by size; not empty.
    """
    best = max(rates.values())
    good = [size for size, rate in rates.items() if rate >= NEARLY * best]
    size = DEFAULT_CHUNK_SIZE_BYTES if DEFAULT_CHUNK_SIZE_BYTES in good else min(good)
    return min(size, longest_size(best))


def longest_size(bytes_per_s: float) -> int:
    """The largest power of two that passes in a second, within what a chunk may be."""
    within = 1 << max(0, int(bytes_per_s * LONGEST_CHUNK_S).bit_length() - 1)
    return min(max(within, SMALLEST_CHUNK_BYTES), MAX_CHUNK_SIZE_BYTES)


def advise(
    link: str, now: Configured, round_trip_s: float, rates: Mapping[int, float]
) -> list[Advice]:
    """What to change; nothing where all is well. `rates`: bytes a second by size; not empty."""
    found: list[Advice] = []
    section, best = f"links.{link}", max(rates.values())
    size, longest = best_size(rates), longest_size(best)
    if size < DEFAULT_CHUNK_SIZE_BYTES and size < longest:
        why = "larger chunks are slower here"
        found.append(Advice(True, section, "largest_chunk", size, why))
    elif longest < now.largest_chunk_bytes:
        why = "a larger chunk is on the way for over a second, and nothing overtakes it"
        found.append(Advice(True, section, "largest_chunk", longest, why))
    if size > DEFAULT_CHUNK_SIZE_BYTES:
        why = "larger chunks than the usual ones are faster here"
        found.append(Advice(False, "shares", "chunk_size", size, why))
    if best < SLOW_BYTES_PER_S and now.receive_rate_bytes_per_s is None:
        rate = int(best * RATE_SHARE) // KIB * KIB or KIB
        why = "packets then wait where urgent ones overtake them, and others keep a little"
        found.append(Advice(False, "links", "send_rate", rate, why))
        why = "the same, where only this side is slow"
        found.append(Advice(True, section, "receive_rate", rate, why))
    lifetime = min(LIFETIME_ROUND_TRIPS * round_trip_s, MAX_LIFETIME_MS / 1000)
    if lifetime > now.request_lifetime_s:
        why = "a request must outlive its way there and its wait"
        found.append(Advice(True, section, "request_lifetime", _minutes(lifetime), why))
    if PATIENCE_ROUND_TRIPS * round_trip_s > now.patience_s:
        why = "a shorter silence than this is usual here"
        patience = _minutes(PATIENCE_ROUND_TRIPS * round_trip_s)
        found.append(Advice(True, "requester", "patience", patience, why))
    return found


def _minutes(seconds: float) -> int:
    """Whole minutes, in seconds."""
    return 60 * max(1, -int(-seconds // 60))
