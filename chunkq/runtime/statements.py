"""What an origin worker does with a peer's word about its keys, and what it says of its own."""

from __future__ import annotations

from chunkq.errors import IdentityError, StatementInvalid, StorageError
from chunkq.ports import Directory, Heard, Identity, Log, PeerRef
from chunkq.protocol.messages import Receipt, Request, StandingReply, Statement
from chunkq.protocol.origin import Admitted
from chunkq.protocol.packet import ReplyKind
from chunkq.protocol.succession import Revocation, Said, decode_statement
from chunkq.runtime.replies import Replies


class Statements:
    """One worker's ear for statements."""

    def __init__(self, *, identity: Identity, directory: Directory, log: Log) -> None:
        self._identity = identity
        self._directory = directory
        self._log = log

    def refresh(self) -> None:
        """Look whether this site's own keys were changed."""
        try:
            self._identity.refresh()
        except (IdentityError, StorageError) as error:
            self._log("keys_unreadable", level="error", detail=error.message)

    async def heed(self, admitted: Admitted, body: Statement) -> PeerRef | None:
        """Let it have its effect; the peer to be answered, None for no answer.

        Raises `StorageError`: then it is told again.
        """
        try:
            said = decode_statement(body.line)
            _check_teller(admitted, said)
            heard = await self._directory.heed(said)
        except StatementInvalid as error:
            self._log("statement_refused", level="warning", detail=error.message)
            return None
        return self._answered(heard)

    def _answered(self, heard: Heard) -> PeerRef | None:
        """A revocation is acknowledged the once; one who is in conflict hears nothing."""
        trusted = not heard.peer.distrust or heard.news == "revoked"
        return heard.peer if trusted else None

    async def answer(
        self, peer: PeerRef, admitted: Admitted, body: Request, replies: Replies
    ) -> bool:
        """Say which keys of the peer are pinned here, and what became of ours; True: that is all.

        Who asks keys that were succeeded hears it beside the answer. A site whose keys are revoked
        says so and nothing else.
        """
        ring = self._identity.ring
        heeded = isinstance(body, Statement) and admitted.refusal is None
        outdated = ring.revocation is not None or (
            admitted.raw.header.recipient != ring.site_id and not isinstance(body, Receipt)
        )
        if heeded or outdated:
            said = ring.statement if outdated else None
            told = StandingReply(known=peer.card.site_id, line=said.line if said else "")
            await replies.send_body(ReplyKind.STANDING, told)
        return heeded or ring.revocation is not None


def _check_teller(admitted: Admitted, said: Said) -> None:
    """A stranger speaks for himself only. Raises `StatementInvalid`."""
    if not admitted.stranger:
        return
    speaker = said.card if isinstance(said, Revocation) else said.newest
    if speaker.site_id != admitted.raw.header.sender:
        raise StatementInvalid("a stranger tells of the keys of others")
