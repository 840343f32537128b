"""The token bucket."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkq.protocol.bucket import DebtBucket, TokenBucket


def test_takes_a_burst_and_then_the_rate() -> None:
    """What is saved up goes at once; afterwards so many a second."""
    bucket = TokenBucket(rate=8.0, burst=3.0)
    assert [True, True, True, False] == [bucket.take(5.0) for _ in range(4)]
    assert [True, False] == [bucket.take(5.125) for _ in range(2)]


def test_saves_up_no_more_than_a_burst() -> None:
    """A year of silence is worth one burst."""
    bucket = TokenBucket(rate=10.0, burst=3.0)
    bucket.take(0.0)
    assert [True, True, True, False] == [bucket.take(3e7) for _ in range(4)]


def test_a_refused_take_costs_nothing() -> None:
    """What could not be taken is still there."""
    bucket = TokenBucket(rate=1.0, burst=2.0)
    assert not bucket.take(0.0, 3.0)
    assert bucket.take(0.0, 2.0)


def test_time_that_runs_backwards_refills_nothing() -> None:
    """Neither while it is back, nor for the stretch that it passes twice."""
    bucket = TokenBucket(rate=1.0, burst=1.0)
    assert bucket.take(100.0)
    assert not bucket.take(50.0)
    assert not bucket.take(100.5)
    assert bucket.take(101.0)


@pytest.mark.parametrize(("tokens", "expected"), [(1.0, 0.5), (2.0, 1.0), (0.0, 0.0)])
def test_wait_tells_when_there_will_be_enough(tokens: float, expected: float) -> None:
    """After that wait, and not before, the take succeeds."""
    bucket = TokenBucket(rate=2.0, burst=4.0)
    assert bucket.take(0.0, 4.0)
    assert bucket.wait_s(tokens) == expected
    if expected:
        assert not bucket.take(expected * 0.99, tokens)
    assert bucket.take(expected, tokens)


def test_a_debt_is_paid_before_the_next() -> None:
    """Whoever comes while nothing is owed takes all it needs; the rate pays for it."""
    bucket = DebtBucket(rate=10.0, burst=5.0)
    assert bucket.take(0.0, 105.0)
    assert not bucket.take(0.0, 0.0)
    assert bucket.wait_s() == 10.0
    assert not bucket.take(9.8, 1.0)
    assert bucket.take(10.0, 1.0)


@given(
    steps=st.lists(st.tuples(st.floats(0, 5), st.integers(1, 400)), max_size=60),
    rate=st.floats(1, 1000),
    burst=st.floats(0, 500),
)
def test_no_span_of_time_passes_more_than_the_rate_and_a_burst(
    steps: list[tuple[float, int]], rate: float, burst: float
) -> None:
    """From any take to any later one: at most burst + rate * time, and the one taking more."""
    bucket, now = DebtBucket(rate, burst), 0.0
    taken: list[tuple[float, int]] = []
    for pause, size in steps:
        now += pause
        if bucket.take(now, size):
            taken.append((now, size))
    for first, (began, _) in enumerate(taken):
        sizes = 0
        for at, size in taken[first:]:
            assert sizes <= burst + rate * (at - began) + 1.001
            sizes += size
