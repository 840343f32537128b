"""Who owns the broker: sees every packet, and does with them whatever helps."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from chunkq.ports import Mailbox
from chunkq.protocol import cbor
from chunkq.protocol.messages import List, Open
from chunkq.protocol.packet import RequestId, RequestKind, Suite
from chunkq.protocol.seal import seal_request
from tests.simulation.broker import Broker
from tests.simulation.hosts import Host
from tests.simulation.workload import CHUNK_BYTES, SECRET_SHARE, SHARE, keys_of, ref_of

#: Packets that are kept to be used later.
HOARD = 64
#: Of the requests, so many are kept from their origin, to be used when they are old.
WITHHELD = 0.3


@dataclass(slots=True)
class _Kept:
    to: Mailbox
    body: bytes


class Adversary:
    """`forge`: begins to send requests of its own, too."""

    def __init__(self, broker: Broker, random: Random) -> None:
        self._broker = broker
        self._random = random
        self._hoard: list[_Kept] = []
        self._withheld: list[_Kept] = []
        self._counter = 0

    def sees(self, to: Mailbox, body: bytes) -> list[tuple[Mailbox, bytes]]:
        """A packet comes by: what is put into which queues instead."""
        random, faults = self._random, self._broker.faults
        if faults.replay_every and random.random() < 0.5:
            self._keep(self._hoard, to, body)
        if faults.replay_every and to.kind == "req" and random.random() < WITHHELD * 0.3:
            self._broker.fault("replay_every", f"withholds a packet to {to}")
            self._keep(self._withheld, to, body)
            return []
        placed = [(to, body)]
        if faults.mutate and random.random() < faults.mutate:
            self._broker.fault("mutate", str(to))
            placed = [(to, self._mutated(body))]
            if random.random() < 0.5:
                placed.append((to, body))
        if faults.cross_route and random.random() < faults.cross_route:
            other = random.choice([self._broker.queues[name].mailbox for name in self._queues()])
            self._broker.fault("cross_route", f"{to} to {other}")
            placed.append((other, body))
        return placed

    def replay(self, *, withheld: bool = False) -> None:
        """Send an old packet again: where it was going, or elsewhere."""
        kept = self._withheld if withheld else self._hoard or self._withheld
        if not kept or not self._broker.queues:
            return
        chosen = self._random.choice(kept)
        to = chosen.to
        if self._random.random() < 0.2:
            to = self._broker.queues[self._random.choice(self._queues())].mailbox
        self._broker.fault("replay_every", f"to {to}")
        self._broker.put(to, chosen.body)

    def replay_all(self) -> None:
        """Everything that was ever kept, where it was going."""
        for kept in [*self._hoard, *self._withheld]:
            self._broker.put(kept.to, kept.body)

    def forge(self, origin: Host) -> None:
        """A request that must come to nothing: a stranger's, or one for somebody else."""
        random = self._random
        self._counter += 1
        recipient = ref_of(random.choice(("bob", "dora", "carol"))).card
        share = random.choice((SHARE, SECRET_SHARE))
        instance = "aaaaaaaaaaaa"
        wall_ms = origin.wall_ms()
        issued = wall_ms + random.choice((0, 0, -(10**7), 10**7))
        body: Open | List = List(instance=instance, share=share, path="")
        if random.random() < 0.5:
            body = Open(instance=instance, share=share, path="x", largest_chunk=CHUNK_BYTES)
        packet = seal_request(
            keys=keys_of("mallory"),
            recipient=recipient,
            ephemeral_secret=random.randbytes(32),
            kind=RequestKind.OPEN if isinstance(body, Open) else RequestKind.LIST,
            request_id=RequestId(wall_ms << 20, self._counter),
            issued_ms=issued,
            expires_ms=issued + 600_000,
            body=cbor.encode(body),
            suite=Suite.XCHACHA20POLY1305,
        )
        if random.random() < 0.5:  # under the name of somebody who is pinned
            packet = packet[:8] + ref_of("alice").card.site_id + packet[40:]
        self._broker.put(Mailbox("req", origin.name), packet)

    def _mutated(self, body: bytes) -> bytes:
        random, changed = self._random, bytearray(body)
        kind = random.random()
        if kind < 0.15:
            return bytes(changed[: random.randrange(len(changed))])
        if kind < 0.25:
            return bytes(changed) + random.randbytes(1 + random.randrange(40))
        # As often as not in the header, where there is something to be gained.
        end = min(140, len(changed)) if random.random() < 0.5 else len(changed)
        for _ in range(1 if random.random() < 0.8 else 8):
            changed[random.randrange(end)] ^= 1 << random.randrange(8)
        return bytes(changed)

    def _keep(self, kept: list[_Kept], to: Mailbox, body: bytes) -> None:
        if len(kept) < HOARD:
            kept.append(_Kept(to, body))
        else:
            kept[self._random.randrange(HOARD)] = _Kept(to, body)

    def _queues(self) -> list[str]:
        return sorted(self._broker.queues)
