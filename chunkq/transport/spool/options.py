"""What a spool is opened with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chunkq.errors import ConfigError
from chunkq.protocol.limits import MAX_REPLY_BODY_SIZE_BYTES, MIB

#: The same as RabbitMQ's default from 4.0 on, so that what fits here fits there.
DEFAULT_MAX_MESSAGE_BYTES: Final = 16 * MIB
#: A file name has ten digits for the size, and a packet is held in memory whole.
LARGEST_MAX_MESSAGE_BYTES: Final = 1024 * MIB
#: Four windows of 64 MiB: more than any requester lets wait.
DEFAULT_QUEUE_BYTES: Final = 256 * MIB
#: A busy mailbox is looked at so soon after it was found empty ...
DEFAULT_POLL_MIN_S: Final = 0.001
#: ... and an idle one so seldom: 20 looks a second were measured at 1.5 % of a core.
DEFAULT_POLL_MAX_S: Final = 0.05
#: How often a spool that is gone (a stick that was pulled) is looked for.
DEFAULT_UNAVAILABLE_POLL_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolOptions:
    """`root` must exist. `site` is the name of the site that opens it, for messages to people.

    `queue_bytes` bounds what waits in one mailbox, roughly: several publishers at once may go over
    it by an eighth each. `dir_mode` is given to directories, and its read and write bits to files:
    0o2770 lets a group share the spool. Raises `ConfigError` if the numbers cannot be meant.
    """

    root: Path
    site: str
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    queue_bytes: int = DEFAULT_QUEUE_BYTES
    poll_min_s: float = DEFAULT_POLL_MIN_S
    poll_max_s: float = DEFAULT_POLL_MAX_S
    unavailable_poll_s: float = DEFAULT_UNAVAILABLE_POLL_S
    dir_mode: int = 0o700

    def __post_init__(self) -> None:
        if not MAX_REPLY_BODY_SIZE_BYTES <= self.max_message_bytes <= LARGEST_MAX_MESSAGE_BYTES:
            raise ConfigError(
                f"spool {self.root}: max_message_bytes is {self.max_message_bytes}; it must be"
                f" {MAX_REPLY_BODY_SIZE_BYTES} to {LARGEST_MAX_MESSAGE_BYTES}"
            )
        if self.queue_bytes < self.max_message_bytes:
            raise ConfigError(
                f"spool {self.root}: queue_bytes is {self.queue_bytes}, less than one packet of"
                f" {self.max_message_bytes} bytes"
            )
        if not 0 < self.poll_min_s <= self.poll_max_s:
            raise ConfigError(
                f"spool {self.root}: poll_min_s {self.poll_min_s} and poll_max_s"
                f" {self.poll_max_s} must be above 0 and in this order"
            )
        if self.unavailable_poll_s <= 0:
            raise ConfigError(f"spool {self.root}: unavailable_poll_s must be above 0")
        if self.dir_mode & 0o700 != 0o700 or self.dir_mode & ~0o2777:
            raise ConfigError(
                f"spool {self.root}: dir_mode {self.dir_mode:#o} must give its owner all rights"
            )
