"""Measuring a link to a peer with packets that mean nothing: its round trip and its rate."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from chunkq.errors import PacketError, PeerSilent, TransportError, Unroutable
from chunkq.ports import Delivery
from chunkq.protocol import cbor
from chunkq.protocol.limits import (
    KEY_SIZE_BYTES,
    KIB,
    MAX_BYTES_PER_REQUEST,
    MAX_CHUNKS_PER_REQUEST,
    MAX_WINDOW_BYTES,
    MIB,
)
from chunkq.protocol.messages import Probe, Refusal
from chunkq.protocol.packet import RawReply, ReplyKind, RequestKind
from chunkq.runtime.peer import Asked, PeerLink

#: The most useful sizes first: time may run out before the last. Smaller ones cost too much each.
SIZES_BYTES: Final = (256 * KIB, 64 * KIB, 1 * MIB, 4 * MIB, 128 * KIB, 512 * KIB, 2 * MIB)
#: Round trips are measured so often, for at most this share of the time.
ROUND_TRIPS: Final = 7
ROUND_TRIPS_SHARE: Final = 0.2
#: Trains of packets (size, count), ever longer, until one takes so long to arrive: its spacing is
#: the rate. The first takes 3 s on a line of 100 kB/s.
TRAINS: Final = ((64 * KIB, 4), (64 * KIB, 16), (64 * KIB, 64), (256 * KIB, 64))
TRAIN_S: Final = 0.3
#: Each size is measured so often, not one after the other: a pause of the machine hits one.
ROUNDS: Final = 2
#: A rate is told from at least so many packets.
MIN_PACKETS: Final = 4
#: On the way at once: so much more than the link holds, so that bursts leave no gap.
HEADROOM: Final = 1.25
HEADROOM_S: Final = 0.1
#: Before an answer to a small probe is waited for anew, doubled up to the cap; after a refusal.
FIRST_WAIT_S: Final = 3.0
MAX_WAIT_S: Final = 60.0
RETRY_S: Final = 0.5
#: A series in which nothing comes for so long, or for so many round trips, has lost the rest.
QUIET_S: Final = 3.0
QUIET_ROUND_TRIPS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`seconds`: about so long in all; `max_bytes`: so much is asked for in all, at the most.

    `patience_s`: silence after which the peer counts as away.
    """

    seconds: float
    max_bytes: int
    patience_s: float


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Of the smallest packets, each sent when the one before was answered, in seconds."""

    fastest_s: float
    median_s: float
    count: int


@dataclass(frozen=True, slots=True)
class RateAt:
    """What arrived in replies of one size. `refused`: why there are none of it."""

    size_bytes: int
    bytes_per_s: float = 0.0
    received_bytes: int = 0
    refused: str = ""


class _Run:
    """The replies to a series of probes of one size."""

    def __init__(self, peer: PeerLink, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.asked = self.came = 0
        self.first_s = self.last_s = 0.0
        self.refusal: Refusal | None = None
        self.trouble: TransportError | None = None
        self.changed = asyncio.Event()
        self._peer = peer
        self._seen: set[tuple[object, int]] = set()

    @property
    def hindered(self) -> bool:
        """Whether the peer refused, or the carrier did not take a request."""
        return self.refusal is not None or self.trouble is not None

    @property
    def outstanding(self) -> int:
        return self.asked - self.came

    def ask(self, count: int) -> None:
        requester = self._peer.requester
        self.asked += count
        self._peer.ask(
            RequestKind.PROBE,
            Probe(instance=requester.instance, size=self.size_bytes, count=count),
            ephemeral=requester.entropy(KEY_SIZE_BYTES),
            handler=self._on_reply,
            failed=self._on_failed,
        )

    def rate(self) -> float | None:
        """Bytes a second from the first reply to the last; None if they came all at once."""
        if self.came < MIN_PACKETS or self.last_s <= self.first_s:
            return None
        return (self.came - 1) * self.size_bytes / (self.last_s - self.first_s)

    def _on_reply(self, asked: Asked, raw: RawReply, delivery: Delivery) -> None:
        requester = self._peer.requester
        requester.done(delivery)
        try:
            body = asked.open(raw)
            if raw.header.kind is ReplyKind.REFUSAL:
                self.refusal = cbor.decode(Refusal, body)
                self._peer.heed(asked, self.refusal)
        except PacketError as error:
            requester.drop(error.code)
            return
        reply = (asked.request_id, raw.header.index)
        if raw.header.kind is ReplyKind.PROBE and reply not in self._seen:
            self._seen.add(reply)
            self.last_s = requester.clock.monotonic_s()
            self.first_s = self.first_s or self.last_s
            self.came += 1
        self.changed.set()

    def _on_failed(self, _asked: Asked, error: TransportError) -> None:
        self.trouble = error
        self.changed.set()


class Prober:
    """Measures one peer's link. Raises `PeerSilent`, and what ends the link for good."""

    def __init__(self, peer: PeerLink, limits: Limits) -> None:
        self._peer = peer
        self._limits = limits
        self._clock = peer.requester.clock
        self._until_s = self._clock.monotonic_s() + limits.seconds
        self._left_bytes = limits.max_bytes
        self._bytes_per_s = 0.0
        self._quiet_s = QUIET_S

    async def round_trip(self) -> RoundTrip:
        """The first answer does not count: it may have needed another clock or epoch."""
        await self._answer()
        until_s = self._clock.monotonic_s() + self._limits.seconds * ROUND_TRIPS_SHARE
        taken_s: list[float] = []
        while not taken_s or (len(taken_s) < ROUND_TRIPS and self._clock.monotonic_s() < until_s):
            taken_s.append(await self._answer())
        taken_s.sort()
        found = RoundTrip(taken_s[0], taken_s[len(taken_s) // 2], len(taken_s))
        self._quiet_s = max(QUIET_S, QUIET_ROUND_TRIPS * found.median_s)
        return found

    async def rates(self, round_trip: RoundTrip) -> list[RateAt]:
        """The rate at each size that both links carry, as far as time and bytes allow: the better
        one of two rounds, as others' traffic only ever takes from it.
        """
        largest = self._peer.largest_chunk_bytes
        await self._estimate(largest)
        sizes = [size for size in SIZES_BYTES if size <= largest and self._is_told(size)]
        sizes = sizes or [min(largest, *SIZES_BYTES)]
        found: dict[int, RateAt] = {}
        for left, size in zip(range(ROUNDS * len(sizes), 0, -1), sizes * ROUNDS, strict=True):
            left_s = self._until_s - self._clock.monotonic_s()
            if found and (left_s <= 0 or self._left_bytes < MIN_PACKETS * size):
                continue
            seconds = left_s / left - round_trip.fastest_s
            wanted = min(self._bytes_per_s * seconds, self._left_bytes / left)
            rate = await self._rate_at(size, max(MIN_PACKETS, int(wanted / size)), round_trip)
            found[size] = max(rate, found.get(size, rate), key=lambda each: each.bytes_per_s)
        return [found[size] for size in sorted(found)]

    def _is_told(self, size_bytes: int) -> bool:
        """Whether there is time for a rate to be told with packets of this size."""
        seconds = (self._until_s - self._clock.monotonic_s()) / (2 * ROUNDS)
        return MIN_PACKETS * size_bytes <= self._bytes_per_s * seconds

    # ------------------------------------------------------------ inside

    async def _answer(self) -> float:
        """Send small probes until one is answered; seconds from the last one sent."""
        deadline_s = self._clock.monotonic_s() + self._limits.patience_s
        wait_s, trouble, run = FIRST_WAIT_S, "", _Run(self._peer, 1)
        while (left_s := deadline_s - self._clock.monotonic_s()) > 0:
            began_s = self._clock.monotonic_s()
            run.ask(1)
            heard = await self._heard(run, min(wait_s, left_s))
            if run.came:
                return self._clock.monotonic_s() - began_s
            if run.refusal is not None:
                pause_s = max(RETRY_S, run.refusal.retry_after_ms / 1000)
                await asyncio.sleep(min(pause_s, left_s))
            elif run.trouble is not None:
                trouble = f": {run.trouble.message}"
                pause_s = RETRY_S if isinstance(run.trouble, Unroutable) else wait_s
                await asyncio.sleep(min(pause_s, left_s))
            if not heard:
                wait_s = min(2 * wait_s, MAX_WAIT_S)
            run.refusal = run.trouble = None
        raise self._silent(f"no answer for {self._limits.patience_s:.0f} s{trouble}")

    async def _estimate(self, largest: int) -> None:
        """A first idea of the rate, from the spacing of ever longer trains."""
        for size, count in TRAINS:
            run = _Run(self._peer, min(size, largest))
            run.ask(count)
            self._left_bytes -= run.asked * run.size_bytes
            await self._drain(run)
            self._bytes_per_s = run.rate() or self._bytes_per_s
            if run.outstanding or run.last_s - run.first_s >= TRAIN_S:
                break
        self._bytes_per_s = self._bytes_per_s or float(TRAINS[0][0])

    async def _rate_at(self, size_bytes: int, count: int, round_trip: RoundTrip) -> RateAt:
        """Keep as much on the way as the link holds, until `count` have come."""
        run = _Run(self._peer, size_bytes)
        pipe = HEADROOM * self._bytes_per_s * (round_trip.median_s + HEADROOM_S)
        in_flight = MIN_PACKETS + int(min(pipe, MAX_WINDOW_BYTES) / size_bytes)
        most = min(MAX_CHUNKS_PER_REQUEST, MAX_BYTES_PER_REQUEST // size_bytes)
        batch = max(1, min(most, in_flight // 2))
        self._left_bytes -= count * size_bytes
        began_s = self._clock.monotonic_s()
        while run.asked < count and not run.hindered:
            if run.outstanding + batch <= in_flight:
                run.ask(min(batch, count - run.asked))
            elif not await self._heard(run, self._quiet_s):
                break
        await self._drain(run)
        if run.refusal is not None and not run.came:
            return RateAt(size_bytes, refused=run.refusal.detail or str(run.refusal.reason))
        if not run.came:
            raise self._silent(f"nothing of {count} packets of {size_bytes} bytes came")
        whole_s = max(self._clock.monotonic_s() - began_s, 1e-6)
        received = run.came * size_bytes
        return RateAt(size_bytes, run.rate() or received / whole_s, received)

    async def _drain(self, run: _Run) -> None:
        """Wait for what is outstanding, unless the rest is lost or refused."""
        while run.outstanding and not run.hindered:
            if not await self._heard(run, self._quiet_s):
                return

    async def _heard(self, run: _Run, timeout_s: float) -> bool:
        """Wait until something comes. Raises what ended the link."""
        failed = self._peer.requester.failed
        changed = asyncio.ensure_future(run.changed.wait())
        try:
            await asyncio.wait(
                (changed, failed), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            changed.cancel()
        if failed.done():
            failed.result()
        heard = run.changed.is_set()
        run.changed.clear()
        return heard

    def _silent(self, what: str) -> PeerSilent:
        return PeerSilent(
            f"{self._peer.ref.alias}: {what}",
            hint="is `chunkq serve` running there, in a version that has `chunkq bench`?"
            " A directory that travels is measured by its journey",
        )
