"""Asking for a directory's entries: one question, asked again until it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from chunkq.errors import (
    ChunkqError,
    Nacked,
    NotFound,
    NotPermitted,
    OutcomeUnknown,
    PacketError,
    PeerDistrusted,
    PeerRefused,
    PeerSilent,
    TransportError,
)
from chunkq.ports import Delivery
from chunkq.protocol import cbor
from chunkq.protocol.limits import KEY_SIZE_BYTES
from chunkq.protocol.messages import Entry, List, Listing, Refusal, RefusalReason
from chunkq.protocol.packet import RawReply, ReplyKind, RequestKind
from chunkq.runtime.peer import Asked, PeerLink
from chunkq.runtime.telling import hear

#: The first wait for an answer if nothing was measured on the link; each further one is doubled.
FIRST_WAIT_S: Final = 3.0
MAX_WAIT_S: Final = 60.0
#: Names in one directory: as many as a file has chunks. They are remembered as long as it is
#: walked, so that no two of them meet.
MAX_DIRECTORY_NAMES: Final = 1 << 22
#: After a refusal that passes (busy), at the least; doubled each time unless the origin says when.
RETRY_S: Final = 0.5


class _Question:
    """One listing request under way. `answer` is a Listing, a Refusal or a TransportError."""

    def __init__(self, peer: PeerLink) -> None:
        self._peer = peer
        self.answer: asyncio.Future[Listing | Refusal | TransportError] = (
            asyncio.get_running_loop().create_future()
        )

    def on_reply(self, asked: Asked, raw: RawReply, delivery: Delivery) -> None:
        self._peer.requester.done(delivery)
        if self.answer.done():
            return
        try:
            body = asked.open(raw)
            if raw.header.kind is ReplyKind.LISTING:
                self.answer.set_result(cbor.decode(Listing, body))
            elif raw.header.kind is ReplyKind.REFUSAL:
                refusal = cbor.decode(Refusal, body)
                self._peer.heed(asked, refusal)
                self.answer.set_result(refusal)
            elif raw.header.kind is ReplyKind.STANDING:
                hear(self._peer, body)
        except PeerDistrusted as error:
            self.answer.set_exception(error)
        except PacketError as error:
            self._peer.requester.drop(error.code)

    def take(self) -> Listing | Refusal | TransportError:
        """The answer; it is kept here no longer, while the request is remembered for a while."""
        answer = self.answer.result()
        self.answer = asyncio.get_running_loop().create_future()
        self.answer.cancel()
        return answer

    def on_failed(self, _asked: Asked, error: TransportError) -> None:
        if not self.answer.done():
            self.answer.set_result(error)


async def list_directory(
    peer: PeerLink,
    share: str,
    path: str,
    *,
    patience_s: float,
) -> AsyncIterator[Entry]:
    """Every entry of a directory, by name. Raises `NotFound`, `PeerSilent`, ..."""
    async for listing in list_pages(peer, share, path, patience_s=patience_s):
        for entry in listing.entries:
            yield entry


async def list_pages(
    peer: PeerLink, share: str, path: str, *, patience_s: float
) -> AsyncIterator[Listing]:
    """A directory's listing, an answer at a time; each tells how many names cannot be had, too.

    Raises `NotFound`, `PeerSilent`, ..., and `PeerRefused` where it has no end.
    """
    cursor: str | None = None
    count = 0
    while True:
        listing = await _ask(peer, share, path, cursor, patience_s)
        here = len(listing.entries) + listing.omitted
        count += here
        if count > MAX_DIRECTORY_NAMES or (listing.cursor is not None and not here):
            raise PeerRefused(
                f"{share}/{path}: the origin's listing has no end: {count} names so far",
                hint=f"a directory has at most {MAX_DIRECTORY_NAMES} names",
            )
        yield listing
        if listing.cursor is None or (cursor is not None and listing.cursor <= cursor):
            return
        cursor = listing.cursor


async def _ask(
    peer: PeerLink, share: str, path: str, cursor: str | None, patience_s: float
) -> Listing:
    requester = peer.requester
    deadline = requester.clock.monotonic_s() + patience_s
    wait_s = first_wait_s = max(FIRST_WAIT_S, peer.window.rto_s)
    trouble, retry_s = "", RETRY_S
    question = _Question(peer)
    while (left := deadline - requester.clock.monotonic_s()) > 0:
        peer.ask(
            RequestKind.LIST,
            List(instance=requester.instance, share=share, path=path, cursor=cursor),
            ephemeral=requester.entropy(KEY_SIZE_BYTES),
            handler=question.on_reply,
            failed=question.on_failed,
        )
        await asyncio.wait(
            (question.answer, requester.failed),
            timeout=min(wait_s, left),
            return_when=asyncio.FIRST_COMPLETED,
        )
        if requester.failed.done():
            requester.failed.result()
        if not question.answer.done():  # a late answer to what was asked before will do, too
            wait_s = min(wait_s * 2, MAX_WAIT_S)
            continue
        answer = question.take()
        question = _Question(peer)
        if isinstance(answer, Listing):
            return answer
        if isinstance(answer, Refusal):
            await _heed(answer, share, path, retry_s)
            retry_s = min(2 * retry_s, MAX_WAIT_S)
            deadline = requester.clock.monotonic_s() + patience_s
        else:
            trouble = f": {answer.message}"
            if isinstance(answer, OutcomeUnknown):  # that link is over, and so is its silence
                wait_s = first_wait_s
            full = isinstance(answer, Nacked)
            await asyncio.sleep(min(wait_s if full else RETRY_S, left))
    raise PeerSilent(
        f"{peer.ref.alias}: no answer for {patience_s:.0f} s{trouble}",
        hint="is `chunkq serve` running there? Run the same command again to go on",
    )


async def _heed(refusal: Refusal, share: str, path: str, retry_s: float) -> None:
    """Wait where waiting helps, `retry_s` unless the origin says how long; else raise."""
    what = f"{share}/{path}".rstrip("/")
    error: ChunkqError
    match refusal.reason:
        case RefusalReason.NOT_FOUND:
            error = NotFound(
                f"{what}: no such directory there, or this site may not see it",
                hint="the origin's operator sees shares and grants with: chunkq share ls",
            )
        case RefusalReason.NOT_PERMITTED:
            error = NotPermitted(f"{what}: {refusal.detail or 'not permitted'}")
        case RefusalReason.TOO_LARGE | RefusalReason.UNSUPPORTED:
            error = PeerRefused(f"{what}: {refusal.detail or refusal.reason}")
        case _:
            announced_s = refusal.retry_after_ms / 1000
            await asyncio.sleep(min(max(RETRY_S, announced_s or retry_s), MAX_WAIT_S))
            return
    raise error
