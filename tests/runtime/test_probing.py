"""Measuring a link, in virtual time: what is set is what is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from chunkq.errors import PeerSilent
from chunkq.protocol.limits import KIB, MIB
from chunkq.runtime.probing import Limits, Prober, RateAt, RoundTrip
from chunkq.transport.limited import ByteRate
from tests.runtime.sites import CHUNK_BYTES, Pair
from tests.support.virtual import run_virtual

LIMITS = Limits(seconds=10, max_bytes=1024 * MIB, patience_s=60)


def measured(
    root: Path, rate: ByteRate, limits: Limits, **options: int
) -> tuple[RoundTrip, list[RateAt], float]:
    """And how many seconds it took."""

    async def run() -> tuple[RoundTrip, list[RateAt], float]:
        pair = Pair(root, rate, **options)
        async with pair.at_work():
            began_s = pair.clock.monotonic_s()
            prober = Prober(pair.peer, limits)
            round_trip = await prober.round_trip()
            return round_trip, await prober.rates(round_trip), pair.clock.monotonic_s() - began_s

    return run_virtual(run())


@pytest.mark.parametrize("bytes_per_s", [100_000, MIB, 8 * MIB])
def test_the_rate_of_a_link(tmp_path: Path, bytes_per_s: int) -> None:
    """Each size finds the rate within 5 %, in about the time that was given."""
    _, rates, seconds = measured(tmp_path, ByteRate(bytes_per_s, 0.25 * bytes_per_s), LIMITS)

    assert 64 * KIB in {rate.size_bytes for rate in rates}
    assert [pytest.approx(bytes_per_s, rel=0.05)] * len(rates) == [r.bytes_per_s for r in rates]
    assert seconds < 2 * LIMITS.seconds + 4 * CHUNK_BYTES / bytes_per_s


def test_the_bytes_are_bounded(tmp_path: Path) -> None:
    """What arrives, all trains and rounds together, is no more than was allowed."""
    limits = Limits(seconds=100, max_bytes=40 * MIB, patience_s=60)

    _, rates, seconds = measured(tmp_path, ByteRate(30 * MIB, 0), limits)

    assert rates
    assert seconds * 30 * MIB <= 40 * MIB


def test_a_size_that_the_peer_does_not_carry(tmp_path: Path) -> None:
    """It is told as refused, and the others are measured."""
    _, rates, _ = measured(tmp_path, ByteRate(8 * MIB, 0), LIMITS, largest_asked=MIB)

    found = {rate.size_bytes: rate.refused for rate in rates}
    assert ["", "", ""] == [found[size * KIB] for size in (64, 128, 256)]
    assert all("largest chunk" in found[size * KIB] for size in (512, 1024))


def test_nobody_answers(tmp_path: Path) -> None:
    """A peer whose mailbox nobody reads is silent once the patience is over."""

    async def run() -> float:
        pair = Pair(tmp_path, ByteRate(MIB, 0))
        await pair.requester.start(10)
        began_s = pair.clock.monotonic_s()
        with pytest.raises(PeerSilent, match="bob: no answer for 60 s"):
            await Prober(pair.peer, LIMITS).round_trip()
        waited_s = pair.clock.monotonic_s() - began_s
        await pair.requester.close()
        return waited_s

    assert 60 == pytest.approx(run_virtual(run()), abs=1)
