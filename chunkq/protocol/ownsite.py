"""What a site says to itself over links that others use, too: reports and control.

    size, magic, kind, lengths -> for me -> from me -> within its lifetime -> not seen (a read)
    -> unverified budget -> signature -> remembered -> seal, body

Sender and recipient are both this site, by any keys of its that count, so a peer can make no such
packet; and one that was made elsewhere, or sent again, is of no effect.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from chunkq.errors import (
    Expired,
    Malformed,
    Misaddressed,
    OverBudget,
    Replayed,
    UnknownSender,
)
from chunkq.protocol import cbor
from chunkq.protocol.bucket import TokenBucket
from chunkq.protocol.digest import Buffer
from chunkq.protocol.identity import SiteKeys, card_of
from chunkq.protocol.limits import MAX_CLOCK_SKEW_MS
from chunkq.protocol.messages import Body
from chunkq.protocol.packet import RequestId, RequestKind, parse_request
from chunkq.protocol.seal import open_request, verify_request

#: The longest that such a packet is good for. What was seen is remembered as long, and the skew.
MAX_LIFETIME_MS: Final = 60_000
#: Packets remembered: those of a hundred processes that report each second for as long.
MAX_SEEN: Final = 1 << 16
#: Signatures that do not hold which are looked at a second: anybody may fill a mailbox, and this is
#: a hundredth of a core.
UNVERIFIED_PER_S: Final = 200
UNVERIFIED_BURST: Final = 1000

_B = TypeVar("_B", bound=Body)
_Id = tuple[bytes, RequestId]


class OwnGate(Generic[_B]):
    """Judges packets of one kind. `holder(site_id)`: our keys behind an id, if they count."""

    def __init__(
        self, kind: RequestKind, model: type[_B], holder: Callable[[bytes], SiteKeys | None]
    ) -> None:
        self._kind = kind
        self._model = model
        self._holder = holder
        self._unverified = TokenBucket(UNVERIFIED_PER_S, UNVERIFIED_BURST)
        #: Until when each is remembered, by the monotonic clock and by the wall's: both have to
        #: have passed, so that a clock that jumps makes nothing new.
        self._seen: OrderedDict[_Id, tuple[float, int]] = OrderedDict()

    def admit(self, packet: Buffer, now_s: float, wall_ms: int) -> _B:
        """The body of a packet that counts. Raises a `PacketError`: drop it."""
        raw = parse_request(packet)
        header = raw.header
        if header.kind is not self._kind:
            raise Malformed(f"a {header.kind.name.lower()}, not a {self._kind.name.lower()}")
        ours = self._holder(header.recipient)
        if ours is None:
            raise Misaddressed("sealed for another recipient")
        sender = self._holder(header.sender)
        if sender is None:
            raise UnknownSender("only this site may say so")
        last_ms = _check_lifetime(header.issued_ms, header.expires_ms, wall_ms)
        known = header.sender, header.request_id
        if known in self._seen:
            raise Replayed("seen before")
        if not self._unverified.take(now_s):
            raise OverBudget("more unverified packets than are looked at")
        verify_request(raw, card_of(sender, "self"))
        self._unverified.put_back()
        self._remember(known, now_s, wall_ms, last_ms)
        return cbor.decode(self._model, open_request(raw, ours))

    def _remember(self, known: _Id, now_s: float, wall_ms: int, last_ms: int) -> None:
        """Only what is signed by this site gets here: nobody else can fill it."""
        while self._seen:
            until_s, until_ms = next(iter(self._seen.values()))
            if now_s <= until_s or wall_ms <= until_ms:
                break
            self._seen.popitem(last=False)
        if len(self._seen) >= MAX_SEEN:
            raise OverBudget(f"{MAX_SEEN} packets of this site are within their lifetime")
        self._seen[known] = now_s + (last_ms - wall_ms) / 1000, last_ms


def _check_lifetime(issued_ms: int, expires_ms: int, wall_ms: int) -> int:
    """The last moment at which it counts. Raises `Malformed`, `Expired`."""
    if not issued_ms < expires_ms <= issued_ms + MAX_LIFETIME_MS:
        raise Malformed(f"a lifetime of {expires_ms - issued_ms} ms")
    if wall_ms > expires_ms + MAX_CLOCK_SKEW_MS:
        raise Expired(f"expired {(wall_ms - expires_ms) // 1000} s ago")
    if issued_ms > wall_ms + MAX_CLOCK_SKEW_MS:
        raise Expired(f"issued {(issued_ms - wall_ms) // 1000} s from now")
    return expires_ms + MAX_CLOCK_SKEW_MS
