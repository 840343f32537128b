"""What staging knows of a transfer when it is taken up again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass

from chunkq.errors import BadSignature, PacketError, StateInvalid
from chunkq.ports import Log, Staging
from chunkq.protocol import cbor
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.identity import SiteCard
from chunkq.protocol.manifest import Head, verify_head
from chunkq.protocol.messages import ManifestReply
from chunkq.protocol.transfer_events import Phase, Resumed
from chunkq.runtime.tasks import to_the_end


async def open_whole(pool: Executor, open_staging: Callable[[], Staging]) -> Staging:
    """Open staging on a thread; who is cancelled meanwhile leaves none open and locked."""
    opening = asyncio.get_running_loop().run_in_executor(pool, open_staging)
    try:
        return await to_the_end(opening)
    except asyncio.CancelledError:
        if opening.exception() is None:
            opening.result().close()
        raise


@dataclass(frozen=True, slots=True)
class Found:
    """`resumed`: to go on from. `doubt_all`: there may be data, and nothing is known of it.

    `part_missing`: there is a bitmap, and not the part file that it was for.
    """

    resumed: Resumed | None = None
    manifest: ManifestReply | None = None
    generation: int = 0
    doubt_all: bool = False
    part_missing: bool = False


def read_manifest(
    kept: bytes, origins: Sequence[Sequence[SiteCard]]
) -> tuple[ManifestReply, Head, int]:
    """A manifest from staging, checked, and which of these signed it, by any of its cards.

    Raises `PacketError`.
    """
    manifest = cbor.decode(ManifestReply, kept)
    for number, cards in enumerate(origins):
        for card in cards:
            with suppress(BadSignature):
                return manifest, verify_head(card, manifest.head, manifest.signature), number
    raise BadSignature("the kept manifest was signed by none of the origins")


def was_published(staging: Staging, origins: Sequence[Sequence[SiteCard]]) -> bool:
    """Whether an earlier run published the file, and ended before all of staging was removed.

    The part file goes first of what tells of it; then the file at the final path has to be read.
    Blocks. Raises `StorageError`.
    """
    if staging.published():
        return True
    try:
        state = staging.state.load()
        if state is None or state.phase < Phase.PUBLISHING:
            return False
        _, head, _ = read_manifest(staging.load_manifest() or b"", origins)
    except (PacketError, StateInvalid):
        return False
    if head.root != state.root or staging.part.matches(head.geometry):
        return False
    return staging.destination_content() == (head.geometry.size_bytes, head.content_digest)


def look(staging: Staging, origins: Sequence[Sequence[SiteCard]], log: Log) -> Found:
    """Read the state file and the manifest beside it. Blocks. Raises `StorageError`."""
    kept = staging.load_manifest()
    try:
        state = staging.state.load()
    except StateInvalid as error:
        log("state_invalid", level="warning", detail=error.message)
        return Found(doubt_all=True)
    if state is None or not any(state.root):
        return Found(doubt_all=kept is not None)
    try:
        manifest, head, lane = read_manifest(kept or b"", origins)
    except PacketError:
        return Found(generation=state.generation, doubt_all=True)
    if head.root != state.root or state.phase not in set(Phase):
        return Found(generation=state.generation, doubt_all=True)
    if staging.part.matches(head.geometry):
        resumed = Resumed(head, Phase(state.phase), state.bitmap, lane)
    else:
        log("part_missing", level="warning", code="recovering")
        resumed = Resumed(head, Phase.RECOVERING, Bitmap(head.geometry.chunk_count), lane)
        return Found(resumed, manifest, state.generation, part_missing=True)
    return Found(resumed, manifest, state.generation)
