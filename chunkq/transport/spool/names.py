"""File names in a spool: everything about a packet but its body, and nothing that a peer chose."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from chunkq.errors import BrokerRefused
from chunkq.ports import Mailbox

#: In the root: present when the medium is. An empty mount point does not have it.
MARKER: Final = ".chunkq-spool"
#: In a consumer's claim directory: held with flock for as long as the consumer lives.
LOCK: Final = ".lock"
TMP: Final = "tmp"
NEW: Final = "new"
CUR: Final = "cur"
DEAD: Final = "dead"
FREE: Final = "free"

#: Fifteen digits: the year 33658.
LAST_MS: Final = 10**15 - 1
#: Two digits in the name; far above the delivery limit.
MOST_DELIVERIES: Final = 99

_PACKET: Final = re.compile(
    r"([0-9]{15})-([0-9]{10})-([0-9]{15})-([0-9]{10})-([0-9]{2})-([0-9a-f]{16})", re.ASCII
)
_CONSUMER: Final = re.compile(r"([0-9]{15})-[0-9a-f]{16}", re.ASCII)
_LABEL: Final = re.compile(r"[a-z0-9-]{1,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class PacketName:
    """Sorts, as text, by the time of publishing and then in the publisher's order.

    `expires_ms` is 0 for no end. `deliveries` counts how often it was handed out and came back.
    `unique` is the publisher's, 16 hex digits.
    """

    created_ms: int
    sequence: int
    expires_ms: int
    size_bytes: int
    deliveries: int
    unique: str

    def __str__(self) -> str:
        return (
            f"{self.created_ms:015d}-{self.sequence:010d}-{self.expires_ms:015d}"
            f"-{self.size_bytes:010d}-{self.deliveries:02d}-{self.unique}"
        )

    def expired(self, now_ms: int) -> bool:
        return 0 < self.expires_ms <= now_ms

    def delivered_again(self) -> PacketName:
        return replace(self, deliveries=min(self.deliveries + 1, MOST_DELIVERIES))


def parse_packet(name: str) -> PacketName | None:
    """None for whatever is not the name of a packet: such files are left alone."""
    match = _PACKET.fullmatch(name)
    if match is None:
        return None
    created, sequence, expires, size, deliveries, unique = match.groups()
    return PacketName(int(created), int(sequence), int(expires), int(size), int(deliveries), unique)


def is_packet(name: str) -> bool:
    return _PACKET.fullmatch(name) is not None


def consumer_id(now_ms: int, unique: str) -> str:
    """The name of a claim directory; `unique` is 16 hex digits."""
    return f"{now_ms:015d}-{unique}"


def created_ms(name: str) -> int | None:
    """When a packet or a claim directory was made, by its name; None if it is neither's."""
    match = _PACKET.fullmatch(name) or _CONSUMER.fullmatch(name)
    return int(match.group(1)) if match else None


def is_consumer_id(name: str) -> bool:
    return _CONSUMER.fullmatch(name) is not None


def mailbox_directory(mailbox: Mailbox) -> str:
    """The mailbox's directory name. Raises `BrokerRefused` if its parts are not plain labels."""
    labels = [mailbox.site, mailbox.instance] if mailbox.kind == "rep" else [mailbox.site]
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise BrokerRefused(
            f"{str(mailbox)!r} cannot be a mailbox",
            hint="site and instance are 1 to 63 characters of a-z, 0-9 and the hyphen",
        )
    return ".".join([mailbox.kind, *labels])
