"""The simulator has teeth: bugs that are planted into the product are found.

`make simulate-teeth` hunts for each with the faults that seeds draw; here each is met under faults
that make it likely, so that all of them are looked for in every test run.
"""

from __future__ import annotations

import pytest

from chunkq.protocol import strikes
from chunkq.protocol.bitmap import Bitmap
from tests.simulation.teeth.bug import PlantedBug
from tests.simulation.teeth.planting import Constant, Edit, PlantError, planted
from tests.simulation.teeth.registry import BUGS
from tests.simulation.world import Options, run_seed

#: Under the faults that are likely to bring it out; more than twice as many as it takes.
SEEDS = 40
ADD = "chunkq.protocol.bitmap:Bitmap.add"


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found_and_by_its_promise(bug: PlantedBug) -> None:
    """Some world breaks, and what it says is the promise that this mistake breaks."""
    said = "no world has met it"
    with bug.plant():
        for seed in range(1, SEEDS + 1):
            outcome = run_seed(seed, Options(faults=bug.likely))
            if outcome.failed:
                said = outcome.finding
                break

    assert said.startswith(f"promise {int(bug.promise)} "), said


def test_there_are_enough_and_each_has_its_own_name() -> None:
    """And no promise is left without one."""
    assert len(BUGS) == len({bug.name for bug in BUGS})
    assert len(BUGS) >= 36
    assert set(range(1, 9)) == {int(bug.promise) for bug in BUGS}


def test_a_plant_lasts_as_long_as_its_block() -> None:
    """Whoever has the function already has the bug as well, and is rid of it afterwards."""
    add = Bitmap(8).add
    with planted([Edit(ADD, "self.present += 1", "self.present += 2")]):
        add(1)
        assert 2 == add.__self__.present  # type: ignore[attr-defined]
    add(2)

    assert 3 == add.__self__.present  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(Edit(ADD, "self.present += 3", "pass"), id="text-that-is-gone"),
        pytest.param(Edit(ADD, "index", "number"), id="text-that-is-there-often"),
        pytest.param(Edit("chunkq.protocol.bitmap:Bitmap.put", "a", "b"), id="no-such-method"),
        pytest.param(Constant("chunkq.protocol.strikes:NONE", 1), id="no-such-constant"),
        pytest.param(
            Constant("chunkq.protocol.strikes:MAX_VERSIONS", strikes.MAX_VERSIONS), id="no-change"
        ),
    ],
)
def test_a_bug_that_is_none_any_more_says_so(change: Edit | Constant) -> None:
    """The product goes on; a plant must not quietly become the right code."""
    with pytest.raises(PlantError), planted([change]):
        pass
