"""Many rounds on one world."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.killloop.gauge import Gauge, Trend
from tests.killloop.plan import Plan, plans
from tests.killloop.remains import check_log, check_remains
from tests.killloop.round import Outcome, Round
from tests.killloop.sources import Pool
from tests.killloop.table import line
from tests.killloop.world import Failure, World


@dataclass(slots=True)
class Campaign:
    """What was done. Raises `Failure` with the plan of the round that failed."""

    seed: int
    rounds: int
    only: int | None = None
    each_once: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    trends: list[Trend] = field(default_factory=list)

    def run(self, root: Path, say: Callable[[str], None]) -> None:
        pool = Pool(root / "pool", random.Random(self.seed))
        gauge = Gauge()
        try:
            with World(root, pool) as world:
                for plan in plans(self.seed, self.rounds, each_once=self.each_once):
                    if self.only is not None and plan.number != self.only:
                        continue
                    self._round(world, plan, gauge)
                    say(line(self.outcomes[-1]))
        finally:
            self.trends = gauge.trends()
        for trend in self.trends:
            trend.check()

    def _round(self, world: World, plan: Plan, gauge: Gauge) -> None:
        carrier = world.spool if plan.spool else world.rabbitmq
        try:
            outcome = Round(world, plan).run()
            check_remains(world, carrier)
            for actor in (carrier.pair.alice, carrier.pair.bob):
                for running in actor.running:
                    check_log(running)
                actor.running = [each for each in actor.running if each.alive]
        except (AssertionError, RuntimeError) as failure:
            raise Failure(f"{failure}\n{plan}\n{self.again(plan)}") from failure
        gauge.look("spool" if plan.spool else "rabbitmq", carrier)
        self.outcomes.append(outcome)

    def again(self, plan: Plan) -> str:
        given = f"--rounds {self.rounds} --seed {self.seed}" + " --each-once" * self.each_once
        return f"again: python -m tests.killloop {given} --only {plan.number}"
