"""A line for each round, and a table of all."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence

from tests.killloop.gauge import Trend
from tests.killloop.plan import Kind
from tests.killloop.round import Outcome


def line(outcome: Outcome) -> str:
    plan = outcome.plan
    carrier = "spool" if plan.spool else "rabbitmq"
    codes = " ".join(map(str, outcome.codes))
    struck = ", ".join(outcome.struck) or "nothing"
    return (
        f"{plan.number:4} {outcome.seconds:5.1f} s  {carrier:<8}  {plan.work:<15}"
        f" {outcome.reruns:2} re-runs  recovered {outcome.recovery_s:4.1f} s  [{codes}]  {struck}"
    )


def table(outcomes: Sequence[Outcome], trends: Sequence[Trend]) -> str:
    """Everything that was done and seen."""
    struck = Counter(kind for outcome in outcomes for kind in outcome.struck)
    seconds = [outcome.seconds for outcome in outcomes]
    recovered = sorted(outcome.recovery_s for outcome in outcomes)
    rows = [("rounds", str(len(outcomes)))]
    rows += [(f"  over {name}", str(count)) for name, count in sorted(_carriers(outcomes).items())]
    rows += [(str(kind), str(struck[kind])) for kind in Kind]
    rows += [
        ("re-runs", str(sum(outcome.reruns for outcome in outcomes))),
        ("seconds", f"{sum(seconds):.0f}, {statistics.fmean(seconds):.1f} a round"),
        ("recovery", f"median {statistics.median(recovered):.1f} s, longest {recovered[-1]:.1f} s"),
    ]
    rows += [(trend.who, _told(trend)) for trend in trends]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def _carriers(outcomes: Sequence[Outcome]) -> Counter[str]:
    return Counter("spool" if each.plan.spool else "rabbitmq" for each in outcomes)


def _told(trend: Trend) -> str:
    first, last = trend.first, trend.last
    return (
        f"{trend.rounds} rounds, first third to last:"
        f" RSS {first.resident / 1024:.1f} to {last.resident / 1024:.1f} MiB,"
        f" its own {first.anonymous / 1024:.1f} to {last.anonymous / 1024:.1f} MiB,"
        f" in use {first.in_use / 1024:.1f} to {last.in_use / 1024:.1f} MiB,"
        f" {first.blocks} to {last.blocks} small objects,"
        f" descriptors {first.descriptors} to {last.descriptors}"
    )
