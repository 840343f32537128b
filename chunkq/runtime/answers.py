"""What an origin does with a request that it has admitted: one method a kind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from chunkq.errors import NotFound, SourceChanging, StorageError, UnsafeName
from chunkq.ports import (
    Buffer,
    Directory,
    Log,
    PeerRef,
    Share,
    SourceFile,
    StoredManifest,
)
from chunkq.protocol.cbor import MAX_CONTROL_BODY_SIZE_BYTES
from chunkq.protocol.digest import digest
from chunkq.protocol.geometry import Geometry, chunk_size_for, from_ranges, to_ranges
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.limits import (
    DIGEST_SIZE_BYTES,
    MAX_LISTING_ENTRIES,
    MIB,
)
from chunkq.protocol.manifest import decode_head, signed_by
from chunkq.protocol.messages import (
    Chunks,
    Entry,
    Files,
    List,
    Listing,
    ManifestReply,
    Open,
    Pages,
    Probe,
    Receipt,
    Refusal,
    RefusalReason,
    Request,
)
from chunkq.protocol.names import check_path
from chunkq.protocol.packet import REPLY_HEADER_SIZE_BYTES, SEAL_SIZE_BYTES, ReplyKind
from chunkq.runtime.bundles import bundles
from chunkq.runtime.manifests import Manifests, Preparing
from chunkq.runtime.packing import Packing
from chunkq.runtime.replies import Replies, refusal

#: So much is read, checked and sealed in one go on a thread.
BATCH_BYTES: Final = 2 * MIB
#: A file that changes while it is hashed is looked at again after this.
CHANGING_RETRY_MS: Final = 1000
#: What a control reply has beside its content, generously.
MARGIN_BYTES: Final = 1024
#: What an entry of a listing has beside its name and target.
ENTRY_OVERHEAD_BYTES: Final = 96

_T = TypeVar("_T")


class Stale(Exception):
    """The source is no longer the version asked for."""


@dataclass(slots=True)
class _Version:
    """One version of a file, open, with its manifest."""

    source: SourceFile
    manifest: StoredManifest
    geometry: Geometry

    def close(self) -> None:
        self.source.close()


class Answers:
    """Acts on requests. Raises nothing that a requester caused: that becomes a refusal."""

    def __init__(
        self,
        *,
        keys: SiteKeys,
        directory: Directory,
        manifests: Manifests,
        pool: Executor,
        max_message_bytes: int,
        largest_chunk_bytes: int,
        log: Log,
        packing: Packing | None = None,
    ) -> None:
        """`packing` None: nothing is ever packed."""
        self._keys = keys
        self._directory = directory
        self._manifests = manifests
        self._pool = pool
        self._max_message_bytes = max_message_bytes
        self._largest_chunk_bytes = largest_chunk_bytes
        self._log = log
        self._packing = packing

    async def act(self, peer: PeerRef, body: Request, replies: Replies) -> None:
        """Answer `body`; a `TransportError` ends it and is the caller's."""
        if isinstance(body, Probe):
            await self._probe(body, replies)
            return
        try:
            if isinstance(body, Files):
                await self._files(peer, body, replies)
            else:
                await self._act(peer, body, replies)
        except (NotFound, UnsafeName):
            await replies.refuse(refusal(RefusalReason.NOT_FOUND))
        except Stale:
            await replies.refuse(refusal(RefusalReason.STALE, "the source has changed"))
        except SourceChanging as error:
            await replies.refuse(refusal(RefusalReason.BUSY, error.message, CHANGING_RETRY_MS))
        except StorageError as error:
            self._log("source_unreadable", level="error", peer=peer.alias, detail=error.message)
            await replies.refuse(
                refusal(RefusalReason.BUSY, "the origin cannot read it now", CHANGING_RETRY_MS)
            )

    async def _act(self, peer: PeerRef, body: Request, replies: Replies) -> None:
        """Act on a request about one path."""
        share = self._granted(peer, body)
        match body:
            case Open():
                await self._open(peer, share, body, replies)
            case Pages():
                await self._pages(peer, share, body, replies)
            case Chunks():
                await self._chunks(peer, share, body, replies)
            case List():
                await self._list(share, body, replies)
            case Receipt():
                self._log("receipt", peer=peer.alias, share=body.share, path=body.path)

    def _granted(self, peer: PeerRef, body: Request) -> Share:
        assert isinstance(body, Open | Pages | Chunks | List | Receipt)
        check_path(body.path)
        share = self._directory.share(peer, body.share, body.path)
        if share is None:
            raise NotFound("no such share for this peer")
        return share

    # ------------------------------------------------------------ one a kind

    async def _open(self, peer: PeerRef, share: Share, body: Open, replies: Replies) -> None:
        source = await self._in_pool(share.open, body.path)
        try:
            size = source.identity.size_bytes
            chunk_size = chunk_size_for(
                size,
                self._directory.chunk_size(body.share),
                min(body.largest_chunk, self._largest_chunk_bytes),
            )
            if chunk_size is None:
                detail = f"{size} bytes are too many for chunks of {body.largest_chunk}"
                return await replies.refuse(refusal(RefusalReason.TOO_LARGE, detail))
            found = await self._manifests.get(
                source,
                chunk_size,
                lambda: share.open(body.path),
                peer.alias,
                replies.most_hashes,
            )
            if isinstance(found, Preparing):
                return await replies.refuse(_preparing(found))
            await self._send_manifest(source, found, replies)
        finally:
            source.close()

    async def _send_manifest(
        self, source: SourceFile, found: StoredManifest, replies: Replies
    ) -> None:
        if len(found.head_bytes) + MARGIN_BYTES > self._max_message_bytes:
            detail = "its manifest does not fit into a message of this link"
            return await replies.refuse(refusal(RefusalReason.TOO_LARGE, detail))
        signature = found.signature
        if replies.keys is not None:  # a manifest that was kept is signed by the keys of its day
            signature = signed_by(replies.keys, found.head_bytes, signature)
        manifest = ManifestReply(
            head=found.head_bytes,
            signature=signature,
            mode=source.mode,
            mtime_ns=source.identity.mtime_ns,
        )
        return await replies.send_body(ReplyKind.MANIFEST, manifest)

    async def _pages(self, peer: PeerRef, share: Share, body: Pages, replies: Replies) -> None:
        version = await self._version(peer, share, body, replies)
        if version is None:
            return
        try:
            for page in from_ranges(body.runs):
                if page >= version.geometry.page_count:
                    raise Stale
                leaves = await self._in_pool(version.manifest.page, page)
                await replies.send(replies.sealer.seal(ReplyKind.PAGE, leaves, page))
        finally:
            version.close()

    async def _chunks(self, peer: PeerRef, share: Share, body: Chunks, replies: Replies) -> None:
        version = await self._version(peer, share, body, replies)
        if version is None:
            return
        try:
            indices = list(from_ranges(body.runs))
            if indices[-1] >= version.geometry.chunk_count:
                raise Stale
            self._set_packer(replies, peer, body, body.root)
            step = max(1, BATCH_BYTES // version.geometry.chunk_size_bytes)
            for at in range(0, len(indices), step):
                packets = await self._in_pool(
                    _seal_chunks, version, indices[at : at + step], replies
                )
                for packet in packets:
                    await replies.send(packet)
                replies.sent(packets)
            for first, count in body.runs:
                self._log(
                    "chunks_sent",
                    level="debug",
                    peer=peer.alias,
                    epoch=replies.request_id.epoch,
                    first=first,
                    count=count,
                )
        except Stale:
            identity = version.source.identity
            await self._in_pool(
                self._manifests.discard, identity, version.geometry.chunk_size_bytes
            )
            raise
        finally:
            version.close()

    async def _list(self, share: Share, body: List, replies: Replies) -> None:
        page = await self._in_pool(share.list, body.path, body.cursor, MAX_LISTING_ENTRIES)
        entries: list[Entry] = []
        left = min(self._max_message_bytes, MAX_CONTROL_BODY_SIZE_BYTES) - MARGIN_BYTES
        for entry in page.entries:
            left -= ENTRY_OVERHEAD_BYTES + len(entry.name.encode()) + 4 * len(entry.target or "")
            if left < 0 and entries:
                break
            entries.append(entry)
        cursor = page.cursor if len(entries) == len(page.entries) else entries[-1].name
        listing = Listing(entries=entries, cursor=cursor, omitted=page.omitted)
        packed = self._packing is not None and body.zstd
        await replies.send_body(ReplyKind.LISTING, listing, packed=packed)

    async def _probe(self, body: Probe, replies: Replies) -> None:
        """Of no share, so any peer may; on the wire its zeros are as random as any sealed bytes."""
        if body.size > self._largest_chunk_bytes:
            detail = f"the largest chunk of the origin's link is {self._largest_chunk_bytes} bytes"
            await replies.refuse(refusal(RefusalReason.TOO_LARGE, detail))
            return
        step = max(1, BATCH_BYTES // body.size)
        for at in range(0, body.count, step):
            count = min(step, body.count - at)
            for packet in await self._in_pool(_seal_zeros, body.size, at, count, replies):
                await replies.send(packet)

    async def _files(self, peer: PeerRef, body: Files, replies: Replies) -> None:
        """Bundles, each made and sealed in one go on a thread; whatever is not there is in them."""
        link_bytes = self._max_message_bytes - REPLY_HEADER_SIZE_BYTES - SEAL_SIZE_BYTES
        made = bundles(self._directory, replies.keys or self._keys, peer, body, link_bytes)
        self._set_packer(replies, peer, body, ("files", body.share))
        try:
            while packet := await self._in_pool(_seal_next, made, replies):
                await replies.send(packet)
                replies.sent([packet])
        finally:
            made.close()
        self._log("files_sent", level="debug", peer=peer.alias, directory=body.groups[0][0])

    # ------------------------------------------------------------ small pieces

    def _set_packer(self, replies: Replies, peer: PeerRef, body: Request, what: object) -> None:
        """Let what these replies carry be packed; `what` is alike in itself."""
        if self._packing is not None and body.zstd:
            replies.packer = self._packing.packer(peer.alias, what, replies.request_id.epoch)

    async def _version(
        self, peer: PeerRef, share: Share, body: Pages | Chunks, replies: Replies
    ) -> _Version | None:
        """The version asked for; None if it was refused. Raises `Stale`."""
        version = await self._in_pool(self._stored_version, share, body)
        if version is None:
            return await self._new_version(peer, share, body, replies)
        return version

    def _stored_version(self, share: Share, body: Pages | Chunks) -> _Version | None:
        """In one go on a thread, as nearly always; None if its manifest is not there."""
        source = share.open(body.path)
        try:
            Geometry(source.identity.size_bytes, body.chunk_size)
            found = self._manifests.stored(source, body.chunk_size)
            if found is not None:
                return _version(source, found, body.root)
        except BaseException:
            source.close()
            raise
        source.close()
        return None

    async def _new_version(
        self, peer: PeerRef, share: Share, body: Pages | Chunks, replies: Replies
    ) -> _Version | None:
        source = await self._in_pool(share.open, body.path)
        try:
            found = await self._manifests.get(
                source,
                body.chunk_size,
                lambda: share.open(body.path),
                peer.alias,
                replies.most_hashes,
            )
            if not isinstance(found, Preparing):
                return _version(source, found, body.root)
        except BaseException:
            source.close()
            raise
        source.close()
        await replies.refuse(_preparing(found))
        return None

    async def _in_pool(self, work: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)


def _version(source: SourceFile, found: StoredManifest, root: bytes) -> _Version:
    """Raises `Stale` if it is not the version with this root."""
    head = decode_head(found.head_bytes)
    if head.root != root:
        raise Stale
    return _Version(source, found, head.geometry)


def _seal_next(made: Iterator[bytes], replies: Replies) -> Buffer | None:
    """The next bundle, sealed; None after the last. Raises `StorageError`."""
    body = next(made, None)
    return None if body is None else replies.seal(ReplyKind.BUNDLE, body)


def _seal_chunks(version: _Version, indices: list[int], replies: Replies) -> list[Any]:
    """Read, compare with the leaves, seal. Raises `Stale`, `StorageError`."""
    geometry, packets = version.geometry, []
    for first, count in to_ranges(indices):
        leaves = version.manifest.leaves(first, count)
        for number, index in enumerate(range(first, first + count)):
            body = version.source.read(geometry.offset(index), geometry.length(index))
            leaf = leaves[number * DIGEST_SIZE_BYTES : (number + 1) * DIGEST_SIZE_BYTES]
            if len(body) != geometry.length(index) or digest(body) != leaf:
                raise Stale
            packets.append(replies.seal(ReplyKind.CHUNK, body, index))
    return packets


def _seal_zeros(size: int, first: int, count: int, replies: Replies) -> list[Any]:
    content = bytes(size)
    return [replies.seal(ReplyKind.PROBE, content, index) for index in range(first, first + count)]


def _preparing(found: Preparing) -> Refusal:
    return Refusal(
        reason=RefusalReason.PREPARING,
        detail="the origin is hashing the file",
        retry_after_ms=found.retry_after_ms,
        done=min(found.done_bytes, found.total_bytes),
        total=found.total_bytes,
    )
