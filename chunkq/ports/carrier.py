"""What carries packets: mailboxes, deliveries, transports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, Protocol

from chunkq.protocol.digest import Buffer
from chunkq.protocol.priority import Priority

#: Where a site's processes say how they are, for as long as somebody listens.
STATUS_INSTANCE: Final = "status"
#: What an origin worker's instance is called begins so: it takes control there, and no replies.
ORIGIN_PREFIX: Final = "origin-"


@dataclass(frozen=True, slots=True)
class Mailbox:
    """The address of a queue on a link: a site's requests, or the replies to one instance of it.

    `site` is the name the site goes by on this link; `instance` is empty for requests. Both are
    `[a-z0-9-]`, 1 to 63 characters.
    """

    kind: Literal["req", "rep"]
    site: str
    instance: str = ""

    def __str__(self) -> str:
        return ".".join(part for part in (self.kind, self.site, self.instance) if part)

    @property
    def fleeting(self) -> bool:
        """It goes with its last consumer, keeps little and nothing for long, and when it is full
        the oldest make way: what is in it is of use to who listens now, and to nobody else. No
        answer is waited for, so to look twice a second is enough.
        """
        return self.kind == "rep" and (
            self.instance == STATUS_INSTANCE or self.instance.startswith(ORIGIN_PREFIX)
        )


@dataclass(frozen=True, slots=True)
class Delivery:
    """One packet taken from a queue and not yet acknowledged.

    `tag` rises within one `generation`; a new generation begins when the carrier was lost and
    found again, and everything unacknowledged of an older one is delivered anew.
    """

    body: bytes
    tag: int
    generation: int
    redelivered: bool = False


@dataclass(frozen=True, slots=True)
class TransportLimits:
    """`max_message_bytes`: the largest packet the carrier takes."""

    max_message_bytes: int


@dataclass(frozen=True, slots=True)
class LinkHealth:
    """Whether packets can move now; if not, a reason word and a sentence for a person."""

    ok: bool
    reason: Literal["", "broker_unreachable", "broker_blocked", "spool_unavailable"] = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes put on the carrier and taken from it, with what its protocol adds (but not TLS)."""

    sent_bytes: int = 0
    received_bytes: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.sent_bytes + other.sent_bytes, self.received_bytes + other.received_bytes
        )


class Consumer(Protocol):
    """Deliveries of one mailbox, in the carrier's order, at most `prefetch` unacknowledged."""

    async def receive(self) -> list[Delivery]:
        """Wait for at least one delivery and return all that are there.

        Outlives lost connections. Raises `BrokerRefused` when that cannot help, `MailboxAway` when
        the part of the carrier that holds the mailbox is lost, and `TransportClosed` after `close`.
        """
        ...

    def acknowledge(self, delivery: Delivery) -> None:
        """Let go of `delivery` and every one before it of its generation; older ones: no effect."""
        ...

    def reject(self, delivery: Delivery) -> None:
        """Send this one delivery to the dead letters; it counts as let go."""
        ...

    async def close(self) -> None:
        """Stop consuming; what is unacknowledged goes back to the queue."""
        ...


class Transport(Protocol):
    """What carries packets. Lossy, duplicating and reordering: truth is the bitmap and digests."""

    @property
    def limits(self) -> TransportLimits: ...

    @property
    def health(self) -> LinkHealth: ...

    @property
    def traffic(self) -> Traffic:
        """Since it was made, all its connections together."""
        ...

    async def open(self) -> None:
        """Connect for the first time; afterwards the transport reconnects by itself.

        Raises `BrokerUnreachable` or `BrokerRefused`.
        """
        ...

    async def publish(
        self,
        to: Mailbox,
        body: Buffer,
        *,
        lifetime_s: float | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> None:
        """Hand a packet to the carrier; returns once the carrier has taken responsibility.

        Any number may wait at once; how many bytes are on the way is bounded inside, later
        callers wait their turn; where they wait, those of a higher `priority` may overtake. After
        `lifetime_s` the carrier may drop it. Raises `Nacked`, `Unroutable`, `OutcomeUnknown`,
        `BrokerRefused` (too large, not permitted).
        """
        ...

    async def consume(self, mailbox: Mailbox, *, prefetch: int) -> Consumer:
        """Create the mailbox if need be and begin to take packets from it.

        Raises `BrokerRefused`, `BrokerUnreachable`, and `MailboxAway` where only this mailbox
        cannot be had: another one can.
        """
        ...

    async def depth(self, mailbox: Mailbox) -> int:
        """How many packets wait there; 0 if there is no such mailbox."""
        ...

    async def close(self) -> None: ...
