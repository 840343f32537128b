"""What is on the disks of a world when it begins, and how a source changes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from chunkq.storage.replays import ReplayStore
from tests.simulation.disk import NO_FAULTS, Disk
from tests.simulation.inodes import Directory, File
from tests.simulation.inspect_disk import find, walk
from tests.simulation.trees import lay_out_origin, lay_out_requester
from tests.simulation.workload import Source, keys_of

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Files on a requester's host that are none of ours.
BYSTANDERS = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\n",
    "/inbox/letter.txt": b"Dear Alice, please leave this as it is.\n",
}
#: The capacity of a disk that is not full.
ROOMY_PAGES = 1 << 28


def images(world: World) -> None:
    """Lay out all hosts; durable."""
    for site in world.workload.requesters:
        for path, data in BYSTANDERS.items():
            _write(f"/sim/{site}{path}", data)
        os.makedirs(f"/sim/{site}/state", exist_ok=True)
        if world.drawn.bad_listing:
            lay_out_requester(site)
    world.bystanders = dict(BYSTANDERS)
    for site in world.workload.origins:
        os.makedirs(f"/sim/{site}/share", exist_ok=True)
        if world.drawn.bad_listing:
            lay_out_origin(site)
        os.makedirs(f"/sim/{site}/state", exist_ok=True)
        host = world.hosts[site]
        replays = ReplayStore(
            f"/sim/{site}/state/replays", boot_id=host.boot_id, wall_ms=host.wall_ms
        )
        for peer in world.peers_of(site):
            replays.create(keys_of(peer).site_id)
        replays.close()
    for source in world.workload.sources:
        write_source(world, source)
    for disk in world.disks.values():
        settle(disk)


def write_source(
    world: World, source: Source, *, in_place: bool = False, gone: bool = False
) -> None:
    """Let every origin have the newest version, durably; `in_place`: over the one before."""
    source.gone = gone
    for site in world.workload.origins:
        path, disk = f"/sim/{site}/share/{source.path}", world.disks[site]
        before = disk.capacity_pages, disk.faults
        disk.capacity_pages, disk.faults = ROOMY_PAGES, NO_FAULTS
        if gone:
            os.unlink(path)
        elif in_place:
            _write(path, source.now)
        else:
            _write(f"{path}.new", source.now)
            os.replace(f"{path}.new", path)
        settle(disk)
        disk.capacity_pages, disk.faults = before


def settle_file(disk: Disk, path: str, data: bytes) -> None:
    """A new file, durable together with its name, whatever the disk says to others."""
    before = disk.capacity_pages, disk.faults
    disk.capacity_pages, disk.faults = ROOMY_PAGES, NO_FAULTS
    _write(path, data)
    disk.capacity_pages, disk.faults = before
    directory = find(disk, os.path.dirname(path))
    inode = find(disk, path)
    assert isinstance(directory, Directory)
    assert isinstance(inode, File)
    inode.sync(data_only=False)
    disk.sync_directory(directory)


def settle(disk: Disk) -> None:
    """All of it is durable."""
    disk.sync_directory(disk.root)
    for _, inode in walk(disk):
        if isinstance(inode, Directory):
            disk.sync_directory(inode)
        elif isinstance(inode, File):
            inode.sync(data_only=False)


def _write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        if data:
            os.pwrite(fd, data, 0)
    finally:
        os.close(fd)
