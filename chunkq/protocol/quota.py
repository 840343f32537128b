"""What an origin lets one peer have, and how much of it the peer has now.

An account is a peer's, whichever of its keys it signs with. Nothing is taken from it before the
signature holds; only whether it is overdrawn is asked before, so that a flood costs no signatures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Final

from chunkq.protocol.bucket import TokenBucket
from chunkq.protocol.limits import DIGEST_SIZE_BYTES as LEAF_BYTES
from chunkq.protocol.limits import LEAVES_PER_PAGE, MIB
from chunkq.protocol.messages import Chunks, Files, Pages, Probe, Refusal, RefusalReason, Request

#: What may be saved up of requests a second, in seconds.
BURST_S: Final = 2.0
#: Requests a second of a peer that is over its quota which are told so (each costs a signature, a
#: seal and a packet); the others are dropped, and a requester that hears nothing slows down.
REFUSED_PER_S: Final = 20.0
REFUSED_BURST: Final = 40.0
#: When to come again where the quota is free as soon as something under way has ended.
RETRY_MS: Final = 250

#: Four times what one requester process has under way at most (`MAX_WINDOW_BYTES`).
DEFAULT_BYTES_IN_FLIGHT: Final = 256 * MIB
#: More than any requester of ours has under way; of the largest size they are 16 MiB of memory.
DEFAULT_PENDING_REQUESTS: Final = 256
#: What a peer fetches at once. Of a further file it has to ask again.
DEFAULT_PENDING_HASHES: Final = 64
DEFAULT_REQUESTS_PER_S: Final = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What one peer may have at most, of each worker; `bytes_per_day` of all workers of a host.

    `bytes_in_flight`: of replies that are being made, or are on their way to the broker.
    `bytes_per_day`: of files, in any 24 hours; 0: any number. `pending_requests`: taken from the
    queue and not yet answered. `pending_hashes`: large files that wait for their turn to be hashed,
    because it asked for them.
    """

    requests_per_s: float = DEFAULT_REQUESTS_PER_S
    bytes_in_flight: int = DEFAULT_BYTES_IN_FLIGHT
    bytes_per_day: int = 0
    pending_requests: int = DEFAULT_PENDING_REQUESTS
    pending_hashes: int = DEFAULT_PENDING_HASHES


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerQuota:
    """What is said of one peer in particular; None: as for all.

    `pending_transfers` and `disk_bytes` are about what this site fetches from it.
    """

    requests_per_s: float | None = None
    bytes_in_flight: int | None = None
    bytes_per_day: int | None = None
    pending_requests: int | None = None
    pending_hashes: int | None = None
    pending_transfers: int | None = None
    disk_bytes: int | None = None

    def over(self, default: Quota) -> Quota:
        """The quota that is in force for this peer as a requester."""
        own = {
            each.name: value
            for each in fields(default)
            if (value := getattr(self, each.name)) is not None
        }
        return replace(default, **own) if own else default


def asked_bytes(body: Request) -> int:
    """How many bytes the replies to a request will carry, or may."""
    match body:
        case Chunks(runs=runs, chunk_size=size):
            return sum(count for _, count in runs) * size
        case Pages(runs=runs):
            return sum(count for _, count in runs) * LEAVES_PER_PAGE * LEAF_BYTES
        case Files(largest=largest):
            return largest
        case Probe(size=size, count=count):
            return size * count
        case _:
            return 0


def counts_for_the_day(body: Request) -> bool:
    """Whether what answers it is counted in `bytes_per_day`: content, or traffic for its sake."""
    return isinstance(body, Chunks | Files | Probe)


class Account:
    """One peer at one worker."""

    def __init__(self, quota: Quota) -> None:
        self.quota = quota
        #: Requests that were taken and are not yet answered, and bytes of answers under way.
        self.pending = 0
        self.in_flight_bytes = 0
        self._requests = _bucket(quota)
        self._refusals = TokenBucket(REFUSED_PER_S, REFUSED_BURST)

    def use(self, quota: Quota) -> None:
        """Another quota is in force from now on."""
        if quota.requests_per_s != self.quota.requests_per_s:
            self._requests = _bucket(quota)
        self.quota = quota

    def overdrawn(self, now_s: float) -> bool:
        """Whether a request now would be over quota and not even be told so. Takes nothing."""
        full = self.pending >= self.quota.pending_requests
        return (full or not self._requests.has(now_s)) and not self._refusals.has(now_s)

    def take_request(self, now_s: float) -> Refusal | None:
        """A request whose signature holds: None if it may be acted upon."""
        quota = self.quota
        if self.pending >= quota.pending_requests:
            return self._refuse(now_s, f"{self.pending} requests of yours wait here", RETRY_MS)
        if not self._requests.take(now_s):
            detail = f"more than {quota.requests_per_s:g} requests a second"
            return self._refuse(now_s, detail, 1 + int(self._requests.wait_s() * 1000))
        return None

    def take_bytes(self, size_bytes: int) -> Refusal | None:
        """Whether an answer of so many bytes may be made now; the first one always may."""
        most = self.quota.bytes_in_flight
        if size_bytes and self.in_flight_bytes and self.in_flight_bytes + size_bytes > most:
            return busy(f"{most} bytes may be on their way to you at once", RETRY_MS)
        return None

    @contextmanager
    def sending(self, size_bytes: int) -> Iterator[None]:
        """An answer of so many bytes is being made, or on its way."""
        self.in_flight_bytes += size_bytes
        try:
            yield
        finally:
            self.in_flight_bytes -= size_bytes

    def _refuse(self, now_s: float, detail: str, retry_after_ms: int) -> Refusal:
        self._refusals.take(now_s)
        return busy(detail, retry_after_ms)


def busy(detail: str, retry_after_ms: int) -> Refusal:
    return Refusal(reason=RefusalReason.BUSY, detail=detail, retry_after_ms=retry_after_ms)


def _bucket(quota: Quota) -> TokenBucket:
    return TokenBucket(quota.requests_per_s, max(1.0, quota.requests_per_s * BURST_S))
