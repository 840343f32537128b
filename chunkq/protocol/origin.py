"""The origin's gate: which packets are acted upon. Cheapest check first, nothing is said before
the signature holds.

    size, magic, kind, lengths -> for me -> from a pinned peer -> within its lifetime
    -> its account is not overdrawn (a read) -> not seen before (a read) -> unverified budget
    -> signature -> the peer's quota

What follows is the driver's: the durable replay record, then `decode`, the grant, the act, the
acknowledgement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chunkq.errors import (
    EpochLost,
    Expired,
    Malformed,
    Misaddressed,
    OverBudget,
    Replayed,
    UnknownSender,
)
from chunkq.protocol import cbor
from chunkq.protocol.bucket import TokenBucket
from chunkq.protocol.identity import SiteCard, SiteKeys
from chunkq.protocol.limits import MAX_CLOCK_SKEW_MS, MAX_LIFETIME_MS
from chunkq.protocol.messages import (
    Chunks,
    Files,
    List,
    Open,
    Pages,
    Probe,
    Receipt,
    Refusal,
    RefusalReason,
    Request,
    Statement,
)
from chunkq.protocol.packet import RawRequest, RequestId, RequestKind, parse_request
from chunkq.protocol.quota import Account, Quota
from chunkq.protocol.seal import open_request, verify_request

#: Signatures that do not hold which are looked at a second, of all senders that are claimed and not
#: proved together: a tenth of a core (an Ed25519 verification takes about 60 us).
UNVERIFIED_PER_S: Final = 2000
UNVERIFIED_BURST: Final = 4000
#: Statements of keys that nobody here knows (a peer's new ones, or a stranger's), each a signature,
#: a seal and up to 48 signatures more: so few that a flood of them costs a hundredth of a core.
STRANGERS_PER_S: Final = 5
STRANGERS_BURST: Final = 20

BODIES: Final[dict[RequestKind, type[Request]]] = {
    RequestKind.OPEN: Open,
    RequestKind.PAGES: Pages,
    RequestKind.CHUNKS: Chunks,
    RequestKind.LIST: List,
    RequestKind.RECEIPT: Receipt,
    RequestKind.PROBE: Probe,
    RequestKind.FILES: Files,
    RequestKind.STATEMENT: Statement,
}


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request whose signature holds. `refusal`: answer with that instead of acting."""

    raw: RawRequest
    sender: SiteCard
    refusal: Refusal | None
    #: False where the replay record was lost: it must not be acted upon, only be refused.
    recordable: bool = True
    #: A statement of keys that are not pinned: what it says has to prove itself, and it may repeat.
    stranger: bool = False
    #: The sender's; a stranger has none.
    account: Account | None = None


class Gate:
    """The checks of one worker. `seen(site_id, request_id)` reads the replay record.

    `seen` raises `EpochLost` where the record of that epoch is gone.
    """

    def __init__(
        self,
        *,
        keys: SiteKeys,
        peer: Callable[[bytes], SiteCard | None],
        seen: Callable[[bytes, RequestId], bool],
        requests_per_s: float,
        holder: Callable[[bytes], SiteKeys | None] | None = None,
        account: Callable[[bytes], bytes] = lambda site_id: site_id,
        quota: Callable[[bytes], Quota] | None = None,
    ) -> None:
        """`holder(site_id)`: our keys behind an id, retired ones included while they count.

        `account(site_id)`: one and the same for all keys of a peer, so that they share its quota.
        `quota(site_id)`: the one in force; without it, `requests_per_s` and the defaults.
        """
        self._keys = keys
        self._holder = holder or self._holds
        self._account = account
        self._peer = peer
        self._seen = seen
        default = Quota(requests_per_s=requests_per_s)
        self._quota = quota or (lambda _: default)
        self._unverified = TokenBucket(UNVERIFIED_PER_S, UNVERIFIED_BURST)
        self._strangers = TokenBucket(STRANGERS_PER_S, STRANGERS_BURST)
        #: Of peers only, so their number is bounded by the registry.
        self._accounts: dict[bytes, Account] = {}

    def admit(self, packet: bytes, now_s: float, wall_ms: int) -> Admitted:
        """Judge one packet. Raises a `PacketError`: drop it, say nothing, count its code."""
        raw = parse_request(packet)
        header = raw.header
        if header.kind not in BODIES:
            raise Malformed(f"a {header.kind.name.lower()} is nothing that an origin is asked")
        if self._holder(header.recipient) is None:
            raise Misaddressed("sealed for another recipient")
        sender = self._peer(header.sender)
        if sender is None:
            return self._admit_stranger(raw, now_s, wall_ms)
        refusal = _check_lifetime(header.issued_ms, header.expires_ms, wall_ms)
        account = self.account(header.sender)
        if account.overdrawn(now_s):
            raise OverBudget("the sender is far over its quota")
        lost: EpochLost | None = None
        try:
            if self._seen(header.sender, header.request_id):
                raise Replayed("seen before")
        except EpochLost as error:
            lost = error
        if not self._unverified.take(now_s):
            raise OverBudget("more unverified packets than this worker looks at")
        verify_request(raw, sender)
        self._unverified.put_back()
        if lost is not None:
            refusal = Refusal(
                reason=RefusalReason.EXPIRED, detail=lost.message, epoch_floor=lost.epoch_floor
            )
        refusal = account.take_request(now_s) or refusal
        return Admitted(raw, sender, refusal, lost is None, account=account)

    def account(self, site_id: bytes) -> Account:
        """The account of a pinned peer, with the quota that is in force."""
        name = self._account(site_id)
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(self._quota(site_id))
        else:
            account.use(self._quota(site_id))
        return account

    def decode(self, admitted: Admitted) -> Request:
        """Open and decode the body. Raises `BadSeal`, `Malformed`."""
        body = open_request(admitted.raw, self.keys_of(admitted.raw))
        return cbor.decode(BODIES[admitted.raw.header.kind], body)

    def keys_of(self, raw: RawRequest) -> SiteKeys:
        """Those of ours that a request is for. Raises `Misaddressed`."""
        keys = self._holder(raw.header.recipient)
        if keys is None:
            raise Misaddressed("sealed for another recipient")
        return keys

    def _holds(self, site_id: bytes) -> SiteKeys | None:
        return self._keys if site_id == self._keys.site_id else None

    def _admit_stranger(self, raw: RawRequest, now_s: float, wall_ms: int) -> Admitted:
        """Keys that are not pinned may say one thing: whose successors they are. Else raises."""
        header = raw.header
        if header.kind is not RequestKind.STATEMENT:
            raise UnknownSender("the sender is not a pinned peer")
        refusal = _check_lifetime(header.issued_ms, header.expires_ms, wall_ms)
        if refusal is not None:
            raise UnknownSender(f"the sender is not a pinned peer, and {refusal.detail}")
        if not self._strangers.take(now_s):
            raise OverBudget("more statements of unknown keys than this worker looks at")
        # an id is the key to verify with; the exchange key has no part in it
        sender = SiteCard("stranger", header.sender, header.sender)
        verify_request(raw, sender)
        return Admitted(raw, sender, None, recordable=False, stranger=True)


def _check_lifetime(issued_ms: int, expires_ms: int, wall_ms: int) -> Refusal | None:
    if not issued_ms < expires_ms <= issued_ms + MAX_LIFETIME_MS:
        raise Malformed(f"a lifetime of {expires_ms - issued_ms} ms")
    if wall_ms > expires_ms + MAX_CLOCK_SKEW_MS:
        raise Expired(f"expired {(wall_ms - expires_ms) // 1000} s ago")
    if issued_ms > wall_ms + MAX_CLOCK_SKEW_MS:
        return Refusal(
            reason=RefusalReason.CLOCK_SKEW,
            detail=f"your clock is {(issued_ms - wall_ms) // 1000} s ahead of the origin's",
            offset_ms=wall_ms - issued_ms,
        )
    return None
