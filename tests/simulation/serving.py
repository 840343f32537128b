"""An origin worker of a world: the product's, wired up; its answers may lie if faults say so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from chunkq.ports import Buffer, PeerRef
from chunkq.protocol import cbor
from chunkq.protocol.manifest import Head, decode_head, encode_head, sign_head
from chunkq.protocol.messages import Chunks, ManifestReply, Refusal, RefusalReason, Request
from chunkq.protocol.packet import ReplyKind
from chunkq.protocol.seal import ReplySealer
from chunkq.runtime.answers import Answers
from chunkq.runtime.manifests import Manifests
from chunkq.runtime.origin import OriginWorker
from chunkq.runtime.replies import Replies
from chunkq.storage import hashing
from chunkq.storage.manifests import ManifestStore
from tests.simulation.hosts import ProcessClock
from tests.simulation.loop import Running
from tests.simulation.trees import bad_listing
from tests.simulation.trust import Pinned, WatchedReplays
from tests.simulation.workload import CHUNK_BYTES, keys_of

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Far above what an honest requester asks for here, so that only a flood meets it.
REQUESTS_PER_S = 50.0
CONCURRENCY = 8
#: What an origin that stalls takes longer.
STALL_S = 30.0


class WatchedAnswers(Answers):
    """The product's answers; the world hears of each request that is acted upon."""

    def __init__(self, world: World, process: Running, site: str, **options: Any) -> None:
        super().__init__(**options)
        self._world = world
        self._process = process
        self._site = site

    async def act(self, peer: PeerRef, body: Request, replies: Replies) -> None:
        world, faults = self._world, self._world.faults
        world.watch.acting(self._process, self._site, peer, body, replies.request_id)
        if isinstance(body, Chunks):
            world.chaos.asked_for_chunks(body.path)
        random = world.streams.lies
        if faults.stall and random.random() < faults.stall:
            world.fault("stall", self._process.name)
            await asyncio.sleep(STALL_S * random.random())
        if faults.false_refusal and random.random() < faults.false_refusal:
            refusal = _false_refusal(random)
            world.fault("false_refusal", f"{self._process.name} {refusal.reason}")
            await replies.refuse(refusal)
            return
        replies.sealer = Liar(world, replies.sealer, self._site)  # type: ignore[assignment]
        with world.bounds.answering(self._process, peer, body):
            await super().act(peer, body, replies)


class Liar:
    """Seals what is not so, now and then, under the origin's own keys."""

    def __init__(self, world: World, sealer: ReplySealer, site: str) -> None:
        self._world = world
        self._sealer = sealer
        self._site = site

    def seal(self, kind: ReplyKind, body: Buffer, index: int = 0, *, packed: bool = False) -> bytes:
        world, faults = self._world, self._world.faults
        lies: tuple[tuple[str, ReplyKind, Callable[..., tuple[Buffer, int]]], ...] = (
            ("bad_chunk", ReplyKind.CHUNK, _bad_chunk),
            ("bad_length", ReplyKind.CHUNK, _bad_length),
            ("bad_page", ReplyKind.PAGE, _bad_chunk),
            ("bad_manifest", ReplyKind.MANIFEST, self._bad_manifest),
            ("bad_listing", ReplyKind.LISTING, bad_listing),
        )
        for name, lied_about, lie in lies:
            share = getattr(faults, name)
            if share and kind is lied_about and world.streams.lies.random() < share:
                world.fault(name, f"{self._site} #{index}")
                body, index = lie(world.streams.lies, bytes(body), index)
                world.watch.lied(self._site)
                if kind is ReplyKind.CHUNK:
                    world.chaos.lies_are_under_way()
        return self._sealer.seal(kind, body, index, packed=packed)

    def _bad_manifest(self, random: Random, body: bytes, index: int) -> tuple[Buffer, int]:
        """A head that is signed and does not hold, or that is not signed by this origin."""
        manifest = cbor.decode(ManifestReply, body)
        head, keys = decode_head(manifest.head), keys_of(self._site)
        kind = random.randrange(4)
        if kind == 0:
            keys = keys_of("mallory")
        elif kind == 1:
            head = replace(head, content_digest=random.randbytes(32))
        elif kind == 2:
            head = Head(
                head.geometry, random.randbytes(len(head.page_digests)), head.content_digest
            )
        head_bytes = bytearray(encode_head(head))
        if kind == 3:
            at = random.randrange(len(head_bytes))
            head_bytes[at] ^= 1 << random.randrange(8)
        lied = manifest.model_copy(
            update={"head": bytes(head_bytes), "signature": sign_head(keys, head_bytes)}
        )
        return cbor.encode(lied), index


def _bad_chunk(random: Random, body: bytes, index: int) -> tuple[Buffer, int]:
    """Another byte, or another index."""
    if random.random() < 0.3 or not body:
        return body, index + random.choice((-1, 1, 64, 1 << 40)) & (1 << 63) - 1
    lied = bytearray(body)
    lied[random.randrange(len(lied))] ^= 1 + random.randrange(255)
    return bytes(lied), index


def _bad_length(random: Random, body: bytes, index: int) -> tuple[Buffer, int]:
    cut = random.choice((0, 1, len(body) // 2, max(0, len(body) - 1)))
    return (body[:cut] if random.random() < 0.6 else body + bytes(1 + cut)), index


def _false_refusal(random: Random) -> Refusal:
    """Whatever an origin might say; what it costs must end with the lie."""
    reason = random.choice(
        [
            RefusalReason.BUSY,
            RefusalReason.BUSY,
            RefusalReason.STALE,
            RefusalReason.PREPARING,
            RefusalReason.EXPIRED,
            RefusalReason.CLOCK_SKEW,
            RefusalReason.NOT_FOUND,
            RefusalReason.TOO_LARGE,
        ]
    )
    return Refusal(
        reason=reason,
        retry_after_ms=random.choice((0, 100, 5000, 24 * 3600 * 1000)),
        done=random.randrange(1000),
        total=1000,
        offset_ms=random.choice((0, -1, 3_600_000, -3_600_000, 1 << 40, -(1 << 40))),
        epoch_floor=random.choice((0, 1, (1 << 64) - 1)) if reason is RefusalReason.EXPIRED else 0,
    )


async def serve(world: World, process: Running, site: str) -> None:
    """What the process of one worker does until its end."""
    host, root, loop = world.hosts[process.host], f"/sim/{process.host}", world.loop
    clock = ProcessClock(host, loop.time, process)
    keys = keys_of(site)
    transport = world.broker.connect(process, site)
    directory = Pinned(world, root, site, world.peers_of(site))
    pool = ThreadPoolExecutor(1)  # never starts a thread: the loop does the work itself

    def build(*arguments: Any) -> tuple[Head, bytes]:
        return hashing.build_manifest(*arguments, wall_ms=host.wall_ms, sleep=loop.takes)

    answers = WatchedAnswers(
        world,
        process,
        site,
        keys=keys,
        directory=directory,
        manifests=Manifests(
            keys=keys, store=ManifestStore(f"{root}/state/manifests"), build=build, pool=pool
        ),
        pool=pool,
        max_message_bytes=transport.limits.max_message_bytes,
        largest_chunk_bytes=CHUNK_BYTES,
        log=world.log_of(process),
    )
    worker = OriginWorker(
        keys=keys,
        address=site,
        transport=transport,
        directory=directory,
        replays=WatchedReplays(
            f"{root}/state/replays", boot_id=host.boot_id, wall_ms=host.wall_ms
        ).watched_by(world, process, site),
        answers=answers,
        clock=clock,
        entropy=world.entropy,
        log=world.log_of(process),
        requests_per_s=REQUESTS_PER_S,
        concurrency=CONCURRENCY,
        quota=world.bounds.quota,
    )
    await worker.run()
