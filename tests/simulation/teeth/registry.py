"""All planted bugs."""

from __future__ import annotations

from typing import Final

from tests.simulation.teeth.bug import PlantedBug
from tests.simulation.teeth.disk_bugs import COMMIT_BUGS, PUBLISH_BUGS
from tests.simulation.teeth.origin_bugs import ANSWER_BUGS, GATE_BUGS
from tests.simulation.teeth.transfer_bugs import ASKING_BUGS, BELIEF_BUGS
from tests.simulation.teeth.tree_bugs import TREE_BUGS

BUGS: Final = (
    *COMMIT_BUGS,
    *PUBLISH_BUGS,
    *BELIEF_BUGS,
    *ASKING_BUGS,
    *GATE_BUGS,
    *ANSWER_BUGS,
    *TREE_BUGS,
)


def bug_named(name: str) -> PlantedBug:
    """Raises `KeyError`."""
    return {bug.name: bug for bug in BUGS}[name]
