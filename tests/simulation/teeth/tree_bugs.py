"""Mistakes with trees: names that lead elsewhere, and files that are lost on the way."""

from __future__ import annotations

import os
from typing import Final

from tests.simulation.faults import Faults
from tests.simulation.teeth.bug import PlantedBug, Promise
from tests.simulation.teeth.planting import Constant, Edit

_DESTINATION: Final = "chunkq.storage.destination"

TREE_BUGS: Final = (
    PlantedBug(
        name="path-checked-when-joined",
        promise=Promise.NOTHING_OUTSIDE,
        why="a name with `..` is judged by where the text leads to, from a directory too high",
        likely=Faults(bad_listing=0.6),
        changes=(
            Edit(
                f"{_DESTINATION}:Destination._checked",
                "        check_name(name)\n",
                "        whole = os.path.normpath(os.path.join(self.path, *checked))\n"
                "        if not whole.startswith(os.path.dirname(self.path)):\n"
                "            check_name(name)\n",
            ),
        ),
    ),
    PlantedBug(
        name="links-followed",
        promise=Promise.NOTHING_OUTSIDE,
        why="a symbolic link below the destination leads what is written out of it",
        likely=Faults(bad_listing=0.6),
        changes=(Constant(f"{_DESTINATION}:_DIRECTORY_FLAGS", os.O_RDONLY | os.O_DIRECTORY),),
    ),
    PlantedBug(
        name="link-target-not-checked",
        promise=Promise.NOTHING_OUTSIDE,
        why="a link from a peer leads out of the tree",
        likely=Faults(bad_listing=0.6),
        changes=(
            Edit(
                f"{_DESTINATION}:Destination.make_link",
                "    check_link_target(parts, target)\n",
                "",
            ),
        ),
    ),
)
