"""What the getting of small files is told (events) and what it wants done (effects).

A token stands for one request; an index for a file of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from chunkq.errors import ChunkqError
from chunkq.protocol.messages import Refusal, RefusalReason
from chunkq.protocol.transfer_events import Waiting


@dataclass(frozen=True, slots=True, eq=False)
class Small:
    """A small file that is wanted: its directory in the share, its place below the destination.

    `size_bytes` is what the listing said. The last of `parts` is its name in both places.
    """

    directory: str
    parts: tuple[str, ...]
    size_bytes: int

    @property
    def name(self) -> str:
        return self.parts[-1]


# ---------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Offered:
    """The walk has come by these."""

    files: tuple[Small, ...]


@dataclass(frozen=True, slots=True)
class WalkEnded:
    """There will be no more."""


@dataclass(frozen=True, slots=True)
class Landed:
    """A bundle for this request is in memory."""

    token: int


@dataclass(frozen=True, slots=True)
class Opened:
    """Its signature holds. `good`: files whose content is the signed one; `bad`: others."""

    token: int
    good: tuple[int, ...]
    bad: tuple[int, ...]
    refused: tuple[tuple[int, RefusalReason], ...]


@dataclass(frozen=True, slots=True)
class Spoiled:
    """The bundle was nothing that was asked for, or nothing the origin signed."""

    token: int


@dataclass(frozen=True, slots=True)
class Settled:
    """Files that were to be placed are durable, or failed for a reason of their own."""

    token: int
    files: tuple[Small, ...]


@dataclass(frozen=True, slots=True)
class Returned:
    """They could not be placed. `error`: a sync that failed; None: no room, or nobody's fault."""

    token: int
    files: tuple[Small, ...]
    error: ChunkqError | None = None


@dataclass(frozen=True, slots=True)
class Refused:
    """The request as a whole."""

    token: int
    refusal: Refusal


@dataclass(frozen=True, slots=True)
class AskFailed:
    """The carrier did not take the request, or its answer is unknown."""

    token: int
    waiting: Waiting


@dataclass(frozen=True, slots=True)
class SpaceGone:
    """No room on the disk."""

    detail: str


@dataclass(frozen=True, slots=True)
class SpaceBack:
    pass


Event = (
    Tick
    | Offered
    | WalkEnded
    | Landed
    | Opened
    | Spoiled
    | Settled
    | Returned
    | Refused
    | AskFailed
    | SpaceGone
    | SpaceBack
)


# ---------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask for these files, in this order."""

    token: int
    files: tuple[Small, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Of the bundle just opened, these are still wanted: place them, then `Settled`, `Returned`."""

    token: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class GoAlone:
    """To be got as any other file: grown, unreadable, or spoiled more than once."""

    files: tuple[Small, ...]


@dataclass(frozen=True, slots=True)
class Fail:
    """This file cannot be had; the others can."""

    file: Small
    error: ChunkqError


@dataclass(frozen=True, slots=True)
class Finish:
    """Every file is settled (None), or it cannot go on."""

    error: ChunkqError | None


Effect = Ask | Place | GoAlone | Fail | Finish
