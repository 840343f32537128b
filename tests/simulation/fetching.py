"""A requester of a world: the product's, wired up as a program that keeps trying would."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from chunkq.errors import ChunkqError
from chunkq.protocol.limits import DEFAULT_LIFETIME_MS, KEY_SIZE_BYTES
from chunkq.protocol.messages import Open
from chunkq.protocol.packet import RequestKind
from chunkq.runtime.asking import Order, Place
from chunkq.runtime.fetch import FileFetch
from chunkq.runtime.peer import PeerLink, Requester
from chunkq.storage.destination import Destination
from chunkq.storage.instances import claim_instance
from chunkq.storage.staged import StagedFile, open_staged
from chunkq.storage.statefile import StateHeader
from chunkq.storage.transferid import transfer_id
from tests.simulation.hosts import ProcessClock
from tests.simulation.loop import Running
from tests.simulation.trees import get_tree
from tests.simulation.workload import CHUNK_BYTES, SHARE, Job, keys_of, ref_of

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Between two runs of the same command, in seconds.
AGAIN_S = (0.2, 5.0)
#: How often a failed run is followed by another in the same process; else it ends.
STAYS = 0.6
#: Requests of a flood: more than an origin's quota and its burst.
MAX_FLOOD = 200


class Desk:
    """One requester process: a reply mailbox, and the ways to its origins."""

    def __init__(self, world: World, process: Running, site: str, instance: str) -> None:
        self.world = world
        self.process = process
        self.site = site
        self.pool = ThreadPoolExecutor(1)  # never starts a thread: the loop does the work itself
        self.clock = ProcessClock(world.hosts[process.host], world.loop.time, process)
        self.requester = Requester(
            keys=keys_of(site),
            site=site,
            instance=instance,
            transport=world.broker.connect(process, site),
            clock=self.clock,
            entropy=world.entropy,
            log=world.log_of(process),
        )
        self.peers = {
            origin: PeerLink(
                self.requester,
                ref_of(origin),
                lifetime_s=DEFAULT_LIFETIME_MS / 1000,
                largest_chunk_bytes=CHUNK_BYTES,
            )
            for origin in world.workload.origins
        }
        self.fetches: dict[Job, FileFetch] = {}

    async def run(self, job: Job) -> None:
        """One run of the command. Raises a `ChunkqError`."""
        first, *others = (Place(self.peers[name], SHARE, job.source.path) for name in job.origins)
        with Destination.for_file(job.destination, self.world.bounds.floor) as destination:
            fetch = FileFetch(
                first.peer,
                Order(
                    share=SHARE,
                    path=job.source.path,
                    patience_s=job.patience_s,
                    commit_bytes=self.world.bounds.commit_bytes,
                ),
                open_staging=lambda: self._open(job, destination),
                pool=self.pool,
                mirrors=others,
            )
            self.fetches[job] = fetch
            self.world.watch.run_begins(self.process, job)
            try:
                result = await fetch.run()
            finally:
                del self.fetches[job]
                self.world.bounds.check_asking(self.process)
        self.world.watch.run_ended(self.process, job, result)

    def _open(self, job: Job, destination: Destination) -> StagedFile:
        parts = (job.source.path,)
        origin = ref_of(job.origins[0]).first_id
        header = StateHeader(
            ephemeral=self.world.entropy(KEY_SIZE_BYTES),
            instance=self.requester.instance,
            site=job.origins[0],
            share=SHARE,
            path=job.source.path,
            created_ms=self.clock.wall_ms(),
        )
        name = transfer_id(origin, SHARE, job.source.path, parts)
        return open_staged(destination, parts, name, header)


async def fetch(world: World, process: Running, site: str) -> None:
    """What the process of a requester does: its jobs, side by side, until all are done."""
    with claim_instance(f"/sim/{process.host}/state", None, entropy=world.entropy) as instance:
        desk = world.desks[process] = Desk(world, process, site, instance.label)
        await desk.requester.start(world.workload.prefetch)
        jobs = [job for job in world.workload.jobs if job.site == site and not job.done]
        try:
            async with asyncio.TaskGroup() as group:
                if world.drawn.bad_listing:
                    group.create_task(get_tree(desk))
                for job in jobs:
                    group.create_task(_pursue(desk, job))
        finally:
            await desk.requester.close()
            await desk.requester.transport.close()


async def _pursue(desk: Desk, job: Job) -> None:
    """The command, again and again; what it ends with must have a name."""
    world, random = desk.world, desk.world.streams.workload
    if job.starts_s > world.clock.now_s:
        await asyncio.sleep(job.starts_s - world.clock.now_s)
    while not job.done:
        running = asyncio.ensure_future(desk.run(job))
        world.running[job] = running
        try:
            await running
        except asyncio.CancelledError:
            if job not in world.paused:
                raise
            world.paused.discard(job)
            world.trace(world.clock.now_s, f"{job} paused")
        except ChunkqError as error:
            world.ended(desk.process, job, error)
            # At the end it stays: what a process has learnt must not keep it from going on.
            if random.random() >= STAYS and not world.is_calm:
                raise
        finally:
            world.running.pop(job, None)
        if not job.done:
            await asyncio.sleep(random.uniform(*AGAIN_S))


async def flood(world: World, process: Running, site: str) -> None:
    """A peer that asks without end, and takes no answer."""
    desk = Desk(world, process, site, "flooding0000")
    desk.requester.transport.broker.declare(desk.requester.mailbox)  # type: ignore[attr-defined]
    while not world.is_calm and world.trace.faults["flood_every"] < MAX_FLOOD:
        peer = desk.peers[world.workload.origins[0]]
        path = world.streams.workload.choice(world.workload.sources).path
        body = Open(instance="flooding0000", share=SHARE, path=path, largest_chunk=CHUNK_BYTES)
        peer.ask(
            RequestKind.OPEN,
            body,
            ephemeral=world.entropy(KEY_SIZE_BYTES),
            handler=lambda _, __, ___: None,
            failed=lambda _, __: None,
        )
        world.fault("flood_every", process.name)
        await asyncio.sleep(world.drawn.flood_every)
