"""Epochs: no two processes count their requests to an origin under one number."""

from __future__ import annotations

from random import Random

import pytest

from chunkq.runtime.epochs import LAST_EPOCH, Epochs


class SetBack:
    """A clock that is behind what the origin has seen of this site."""

    def monotonic_s(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return 1


@pytest.mark.parametrize("above", [1 << 50, LAST_EPOCH - (1 << 30)])
def test_processes_that_are_told_of_the_same_epoch_begin_different_ones(above: int) -> None:
    """With the secret of a transfer, the number makes keys: used twice, they hide nothing."""
    begun = {Epochs(SetBack(), Random(process).randbytes).begin(above) for process in range(50)}
    assert 50 == len(begun)
    assert all(above < epoch <= LAST_EPOCH for epoch in begun)


@pytest.mark.parametrize("left", [1, 2, 1000])
def test_there_is_an_epoch_above_the_last_but_one(left: int) -> None:
    """Whatever the origin says that is no more than that: it must fit into its 64 bits."""
    for process in range(20):
        epoch = Epochs(SetBack(), Random(process).randbytes).begin(LAST_EPOCH - left)
        assert LAST_EPOCH - left < epoch <= LAST_EPOCH
