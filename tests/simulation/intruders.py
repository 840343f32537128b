"""Somebody else puts a file where one is to appear, and takes it away in the end."""

from __future__ import annotations

import os
from random import Random
from typing import TYPE_CHECKING, Final

from tests.simulation.inspect_disk import find, read
from tests.simulation.sites_of import settle_file

if TYPE_CHECKING:
    from tests.simulation.world import World

INTRUDER: Final = b"somebody else's file: do not touch\n"


def intrude(world: World, random: Random) -> None:
    """At a destination where nothing is yet."""
    waiting = [
        job
        for job in world.unfinished()
        if find(world.disks[job.site], job.destination) is None and job not in world.intruded
    ]
    if waiting:
        job = random.choice(waiting)
        world.fault("intrude_every", str(job))
        settle_file(world.disks[job.site], job.destination, INTRUDER)
        world.intruded.add(job)


def withdraw(world: World) -> None:
    """The one who put them there takes them away again."""
    for job in sorted(world.intruded, key=str):
        if read(find(world.disks[job.site], job.destination)) == INTRUDER:
            os.unlink(job.destination)
    world.intruded.clear()
