"""What an operator may look at on a link: this site's own queues, and its dead letters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueState:
    """One queue at one moment. None: the carrier does not say.

    `depth`: packets that wait. `unacknowledged`: those that consumers have. `oldest_ms`: when the
    one that waits longest was published. `problem`: why nothing is known, as a sentence.
    """

    name: str
    depth: int | None = None
    consumers: int | None = None
    unacknowledged: int | None = None
    oldest_ms: int | None = None
    size_bytes: int | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A request to this site that no worker could take.

    `key`: the id that it says it is signed by, unverified; empty if it is no request at all.
    `sender`: the name on the link of who sent it, where the carrier vouches for that.
    """

    queue: str
    reason: str
    key: bytes = b""
    sender: str = ""
    at_ms: int = 0


class QueueViewer(Protocol):
    """Looks at a link, and can give dead letters another chance.

    Raises `BrokerUnreachable`, `BrokerRefused`; `UsageError` where this link gives no way to it.
    """

    async def queues(self, instances: Sequence[str]) -> list[QueueState]:
        """This site's; `instances` are the reply mailboxes to look for where none can be listed."""
        ...

    async def dead_letters(self) -> list[DeadLetter]:
        """A bounded number of them, the oldest first; they stay."""
        ...

    async def requeue(self, wanted: Callable[[DeadLetter], bool]) -> int:
        """Put those back into the queue that they came from; how many."""
        ...

    async def discard(self, wanted: Callable[[DeadLetter], bool]) -> int:
        """Remove those; how many."""
        ...

    async def close(self) -> None: ...
