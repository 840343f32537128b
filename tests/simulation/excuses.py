"""What a world may blame for an end: only what has really befallen that run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chunkq.errors import ChunkqError, StorageError
from tests.simulation.sites_of import ROOMY_PAGES
from tests.simulation.workload import Job

if TYPE_CHECKING:
    from tests.simulation.world import World

#: What a disk's refusal may be called besides: by who cannot read, or who was answered by that.
_OF_A_DISK = ("IntegrityError",)
#: What a run may end with that an origin's disk refused.
_OF_AN_ORIGINS_DISK = ("NotFound", "PeerRefused", "SourceChanging", "IntegrityError")
#: What a run may end with that an origin lied to.
_OF_A_LIE = ("IntegrityError", "PeerRefused", "NotFound", "SourceChanging", "OtherVersion")


def disk_refused(world: World, host: str, since: int) -> bool:
    """Whether its disk has said no since it had done so `since` times, or is short of room."""
    disk = world.disks[host]
    return disk.refusals > since or disk.capacity_pages != ROOMY_PAGES


def is_excused(world: World, job: Job, error: ChunkqError, *, since: int, lies: int) -> bool:
    """Whether this end fits what went wrong; `since`: refusals when the run began."""
    name, drawn = type(error).__name__, world.drawn
    if name in ("PeerSilent", "BrokerUnreachable"):
        return True
    always = {
        "NotFound": drawn.vanish_every or drawn.false_refusal,
        "PeerRefused": drawn.false_refusal,
        "OtherVersion": drawn.change_every,
        "DestinationExists": drawn.change_every or drawn.intrude_every,
        "SourceChanging": drawn.change_every or drawn.false_refusal,
    }
    if always.get(name) or (lies and name in _OF_A_LIE):
        return True
    if any(world.disks[site].refusals for site in job.origins) and name in _OF_AN_ORIGINS_DISK:
        return True
    of_a_disk = isinstance(error, StorageError) or name in _OF_A_DISK
    return of_a_disk and (disk_refused(world, job.site, since) or world.is_rotten(job.site))
