"""A slice of `make kill-loop`: every kind of fault once, on real processes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.killloop.campaign import Campaign
from tests.killloop.plan import DECK, WITHOUT_BROKER, Kind, Work, plans

SEED = 197
ROUNDS = 5


def test_plans_repeat() -> None:
    """The same seed gives the same plans, another one others."""
    assert list(plans(7, 30)) == list(plans(7, 30))
    assert list(plans(7, 30)) != list(plans(8, 30))


def test_every_kind_comes_up_as_often_as_it_should() -> None:
    """Over the two carriers and all kinds of work; none is starved by those that fit better."""
    made = list(plans(11, 200))
    counts = Counter(strike.kind for plan in made for strike in plan.strikes)
    assert set(Work) == {plan.work for plan in made}
    assert {False, True} == {plan.spool for plan in made}
    assert all(counts[kind] >= 5 * count for kind, count in DECK.items()), counts
    over_spool = {strike.kind for plan in made if plan.spool for strike in plan.strikes}
    assert WITHOUT_BROKER >= over_spool


@pytest.mark.rabbitmq
@pytest.mark.large
@pytest.mark.timeout(600)
def test_every_fault_is_survived(tmp_path: Path) -> None:
    """The results are identical, and nothing is left behind; raises `Failure` if not."""
    campaign = Campaign(SEED, ROUNDS, each_once=True)
    planned = {
        strike.kind for plan in plans(SEED, ROUNDS, each_once=True) for strike in plan.strikes
    }
    assert set(Kind) == planned
    campaign.run(tmp_path, print)
    struck = {kind for outcome in campaign.outcomes for kind in outcome.struck}
    assert len(struck) >= len(Kind) - 2, set(Kind) - struck
