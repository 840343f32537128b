"""What an origin says of our clock: heeded as long as somebody answers to it."""

from __future__ import annotations

from chunkq.ports import Buffer, Delivery, PeerRef
from chunkq.protocol.identity import SiteKeys, card_of
from chunkq.protocol.messages import Open, Refusal, RefusalReason
from chunkq.protocol.packet import RawReply, RequestKind, parse_request
from chunkq.runtime.peer import Asked, PeerLink, Requester
from chunkq.runtime.skew import OFFSET_DOUBT_S
from chunkq.transport.memory import MemoryCarrier, MemoryTransport
from tests.support.virtual import run_virtual

HOUR_MS = 3_600_000
ALICE, BOB = SiteKeys(b"a" * 32, b"A" * 32), SiteKeys(b"b" * 32, b"B" * 32)


class SetClock:
    """Both clocks, as the test sets them."""

    now_s = 100.0
    now_ms = 1_700_000_000_000

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_ms(self) -> int:
        return self.now_ms


class Asker:
    """alice's way to bob; her requests are looked at, and go nowhere."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.asked: list[Asked] = []
        self.packets: list[bytes] = []
        self.requester = Requester(
            keys=ALICE,
            site="alice",
            instance="i",
            transport=MemoryTransport(MemoryCarrier(self.clock), "alice"),
            clock=self.clock,
            entropy=bytes,
            log=lambda event, /, **fields: None,
        )
        self.requester.spawn = self._keep  # type: ignore[assignment]
        ref = PeerRef("bob", card_of(BOB, "bob"), "bob")
        self.peer = PeerLink(self.requester, ref, lifetime_s=600, largest_chunk_bytes=4096)

    def _keep(self, asked: Asked, packet: Buffer, *_: object) -> None:
        self.packets.append(bytes(packet))

    def ask(self) -> int:
        """Ask something; which time the request bears, minus our clock."""
        body = Open(instance="i", share="docs", path="a", largest_chunk=4096)

        def take(asked: Asked, raw: RawReply, delivery: Delivery) -> None:
            """Nothing comes."""

        self.asked.append(
            self.peer.ask(
                RequestKind.OPEN,
                body,
                ephemeral=b"e" * 32,
                handler=take,
                failed=lambda asked, error: None,
            )
        )
        return parse_request(self.packets[-1]).header.issued_ms - self.clock.now_ms

    def refused(self, offset_ms: int) -> None:
        """The origin answers the last request: its clock is so far ahead."""
        self.peer.answered(ALICE.site_id)
        refusal = Refusal(reason=RefusalReason.CLOCK_SKEW, offset_ms=offset_ms)
        self.peer.heed(self.asked[-1], refusal)


def test_an_offset_that_nobody_answers_to_is_forgotten() -> None:
    """Our clock was set right after we had learnt its error: now the offset is the error, and an
    origin says nothing to requests that it takes for expired. A slow answer is no reason.
    """

    async def run() -> None:
        asker = Asker()
        asker.ask()
        asker.refused(-HOUR_MS)
        assert -HOUR_MS == asker.ask()
        asker.clock.now_s += OFFSET_DOUBT_S / 2
        assert -HOUR_MS == asker.ask()
        asker.clock.now_s += OFFSET_DOUBT_S
        assert 0 == asker.ask()
        asker.refused(-HOUR_MS)  # it was right after all
        assert -HOUR_MS == asker.ask()

    run_virtual(run())
