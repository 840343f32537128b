"""A short slice of the campaigns (`make fuzz`), by hypothesis: random bytes, and seeds mutated."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

#: What parsing may take beside its input: models, messages of errors, one file's buffers.
SLACK_BYTES = 4 << 20
BYTES_PER_BYTE = 64

targets = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@targets
def test_seeds_are_valid(target: Target) -> None:
    """What mutations begin with is taken: else they would test one early check only."""
    seeds = target.seeds()
    assert len(seeds) > 0
    assert [target.check(seed) for seed in seeds] == [True] * len(seeds)


@targets
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=600))
def test_random_bytes_give_typed_errors(target: Target, data: bytes) -> None:
    """Nothing but typed errors comes out of any parser."""
    assert target.check(data) in (True, False)


@targets
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_mutated_seeds_give_typed_errors(target: Target, data: st.DataObject) -> None:
    """Bytes changed, cut out, put in and repeated, in what was valid."""
    raw = bytearray(data.draw(st.sampled_from(target.seeds())))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        match data.draw(st.sampled_from(["change", "cut", "insert", "repeat"])):
            case "change":
                raw[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del raw[at : at + data.draw(st.integers(1, 64))]
            case "insert":
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=16))
            case _:
                raw += raw[at : at + 64]
    assert target.check(bytes(raw)) in (True, False)


@targets
def test_memory_is_bounded_by_the_input(target: Target) -> None:
    """Sizes that the input claims are checked before anything is allocated for them."""
    for seed in target.seeds():
        for at in range(0, len(seed), max(1, len(seed) // 64)):
            raw = seed[:at] + b"\xff" * 8 + seed[at + 8 :]
            tracemalloc.start()
            target.check(raw)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert peak < SLACK_BYTES + BYTES_PER_BYTE * len(raw)
