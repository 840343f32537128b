"""Checks of what a requester holds while its transfers are under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from blake3 import blake3

from chunkq.errors import PacketError
from chunkq.protocol import cbor
from chunkq.protocol.identity import verify
from chunkq.protocol.manifest import HEAD_DOMAIN
from chunkq.protocol.messages import ManifestReply
from tests.simulation.inspect_disk import find, read
from tests.simulation.loop import Running
from tests.simulation.workload import Job, ref_of

if TYPE_CHECKING:
    from tests.simulation.world import World

_CONTEXT: Final = "chunkq 1 staged manifest"


class StagedChecks:
    """`said` of each check: what is wrong, or None."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._signed: set[bytes] = set()

    def unsigned_manifest(self, job: Job, name: str) -> str | None:
        """Promise 1: what a transfer is held to was signed by one of its origins."""
        kept = read(find(self._world.disks[job.site], f"/sim/{job.site}/inbox/.chunkq/{name}"))
        if kept is None or kept in self._signed or len(kept) < 32:
            return None
        checksum, body = kept[:32], kept[32:]
        if blake3(body, derive_key_context=_CONTEXT).digest() != checksum:
            return None  # torn or rotten: nobody believes it
        if not body:  # forgotten: it is asked for anew
            return None
        manifest = cbor.decode(ManifestReply, body)
        for origin in job.origins:
            try:
                verify(
                    ref_of(origin).card.verify_key, HEAD_DOMAIN, manifest.head, manifest.signature
                )
            except PacketError:
                continue
            self._signed.add(kept)
            return None
        return f"{job}: held to a manifest that none of its origins has signed"

    def miscounted_window(self, process: Running) -> str | None:
        """Promise 7: a window holds what was asked through it, and never less than nothing."""
        desk = self._world.desks.get(process)
        for peer in desk.peers.values() if desk is not None else ():
            if peer.window.outstanding < 0:
                told = f"{process.name}: {peer.window.outstanding} chunks outstanding"
                return f"{told} at {peer.ref.alias}"
        return None
