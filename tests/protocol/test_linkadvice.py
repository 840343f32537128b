"""What is advised for a link, from what was measured of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chunkq.protocol.limits import KIB, MIB
from chunkq.protocol.linkadvice import Configured, advise, best_size, longest_size

DEFAULTS = Configured(
    largest_chunk_bytes=4 * MIB,
    request_lifetime_s=600,
    patience_s=120,
    receive_rate_bytes_per_s=None,
)
LOCAL = {64 * KIB: 200e6, 256 * KIB: 300e6, MIB: 310e6, 4 * MIB: 290e6}


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        (LOCAL, 256 * KIB),
        ({64 * KIB: 100e6, 256 * KIB: 150e6, MIB: 300e6}, MIB),
        ({64 * KIB: 300e6, 256 * KIB: 150e6}, 64 * KIB),
        ({64 * KIB: 100e3, 256 * KIB: 100e3}, 64 * KIB),
    ],
)
def test_the_best_size(rates: dict[int, float], best: int) -> None:
    """The usual one if nearly as fast, else the smallest that is, within a second of the link."""
    assert best == best_size(rates)


@pytest.mark.parametrize(
    ("rate", "size"), [(1e3, 64 * KIB), (200e3, 128 * KIB), (1.25e6, MIB), (1e9, 4 * MIB)]
)
def test_the_longest_size(rate: float, size: int) -> None:
    """What passes in a second, from 64 KiB to 4 MiB."""
    assert size == longest_size(rate)


def keys(now: Configured, round_trip_s: float, rates: dict[int, float]) -> dict[str, int]:
    return {each.key: each.value for each in advise("default", now, round_trip_s, rates)}


def test_a_fast_near_link_needs_nothing() -> None:
    """Where the defaults suit, nothing is advised."""
    assert {} == keys(DEFAULTS, 0.002, LOCAL)


def test_a_slow_link() -> None:
    """A chunk of at most a second, and rates a little below what was measured, both ends."""
    found = keys(DEFAULTS, 0.6, {64 * KIB: 1.2e6, 256 * KIB: 1.25e6})

    rate = 1159 * KIB
    assert {"largest_chunk": MIB, "send_rate": rate, "receive_rate": rate} == found
    limited = replace(DEFAULTS, receive_rate_bytes_per_s=MIB, largest_chunk_bytes=MIB)
    assert {} == keys(limited, 0.6, {64 * KIB: 1e6, 256 * KIB: MIB})


def test_a_far_link() -> None:
    """Requests that live and patience that lasts for several round trips."""
    assert {} == keys(DEFAULTS, 12.0, LOCAL)
    assert {"patience": 360, "request_lifetime": 720} == keys(DEFAULTS, 36.0, LOCAL)


def test_larger_chunks_are_for_the_share() -> None:
    """Its origin chooses the size, so that is where it is set."""
    (advice,) = advise("default", DEFAULTS, 0.01, {256 * KIB: 100e6, 2 * MIB: 200e6})

    assert (False, "chunk_size", 2 * MIB) == (advice.here, advice.key, advice.value)
