"""What this site and one peer tell each other of their keys, from the requester's end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from chunkq.errors import ChunkqError, PacketError, PeerDistrusted
from chunkq.ports import Delivery
from chunkq.protocol import cbor
from chunkq.protocol.limits import KEY_SIZE_BYTES
from chunkq.protocol.messages import Refusal, StandingReply, Statement
from chunkq.protocol.packet import RawReply, ReplyKind, RequestKind
from chunkq.protocol.succession import decode_statement

if TYPE_CHECKING:
    from chunkq.runtime.peer import Asked, PeerLink  # which introduces itself by this file

#: The first wait for an answer; each further one is doubled.
FIRST_WAIT_S: Final = 2.0


def introduce(peer: PeerLink) -> None:
    """Tell the peer of this site's change of keys, where it may not know."""
    said = peer.signers.ring.statement
    if said is not None and peer.signers.must_tell(peer.requester.clock.monotonic_s()):
        say(peer, said.line)


def say(peer: PeerLink, line: str, answered: Callable[[], None] = lambda: None) -> None:
    """Tell the peer what this site says of its keys; `answered` hears if it took note."""

    def on_reply(asked: Asked, raw: RawReply, delivery: Delivery) -> None:
        peer.requester.done(delivery)
        try:
            body = asked.open(raw)
            if raw.header.kind is ReplyKind.REFUSAL:
                return peer.heed(asked, cbor.decode(Refusal, body))
            told = cbor.decode(StandingReply, body)
        except PacketError as error:
            return peer.requester.drop(error.code)
        peer.signers.told(told.known)
        return answered()

    peer.ask(
        RequestKind.STATEMENT,
        Statement(instance=peer.requester.instance, line=line),
        ephemeral=peer.requester.entropy(KEY_SIZE_BYTES),
        handler=on_reply,
        failed=lambda _, __: None,
    )


def hear(peer: PeerLink, body: bytes) -> None:
    """Take what the origin says of its keys, and ask it by those from now on.

    Raises `PacketError`, and `PeerDistrusted` if nothing may be asked of it any more.
    """
    told = cbor.decode(StandingReply, body)
    heed = peer.requester.heed
    if not told.line or heed is None:
        return
    try:
        heard = heed(decode_statement(told.line))
    except ChunkqError as error:  # it has no effect, or could not be written
        peer.requester.log("statement_refused", level="warning", detail=error.message)
        return
    if heard.peer.alias != peer.ref.alias:
        return
    if heard.peer.distrust:
        raise PeerDistrusted(
            f"{heard.peer.alias}: {heard.peer.distrust}",
            hint="ask its owner by another way than this link",
        )
    peer.ref = heard.peer


async def tell_keys(peer: PeerLink, line: str, patience_s: float) -> bool:
    """Whether the peer took note within `patience_s`. Raises what ended the link for good."""
    answered = asyncio.Event()
    waiting = asyncio.ensure_future(answered.wait())
    deadline = peer.requester.clock.monotonic_s() + patience_s
    wait_s = FIRST_WAIT_S
    try:
        while (left := deadline - peer.requester.clock.monotonic_s()) > 0:
            say(peer, line, answered.set)
            await asyncio.wait(
                (waiting, peer.requester.failed),
                timeout=min(wait_s, left),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if peer.requester.failed.done():
                peer.requester.failed.result()
            if answered.is_set():
                return True
            wait_s *= 2
        return False
    finally:
        waiting.cancel()
