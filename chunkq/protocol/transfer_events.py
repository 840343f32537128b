"""What a transfer is told (events) and what it wants done (effects)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from chunkq.errors import ChunkqError
from chunkq.protocol.bitmap import Bitmap
from chunkq.protocol.manifest import Head
from chunkq.protocol.messages import Refusal


class Phase(IntEnum):
    """Where a transfer stands. The numbers are on disk."""

    OPENING = 1
    RUNNING = 2
    RECOVERING = 3
    VERIFYING = 4
    PUBLISHING = 5
    DONE = 6
    FAILED = 7


@dataclass(frozen=True, slots=True)
class Resumed:
    """What staging knew of a transfer: the manifest's head, the phase, and what is durable.

    `lane`: the origin that signed the manifest.
    """

    head: Head
    phase: Phase
    bitmap: Bitmap
    lane: int = 0


@dataclass(frozen=True, slots=True)
class Waiting:
    """Why nothing moves: a word from a closed set, a sentence, and bytes done if known."""

    reason: str
    detail: str = ""
    done: int = 0
    total: int = 0


# ---------------------------------------------------------------- events
#
# `lane` is the number of the origin that a reply came from, in the order in which they were named.


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed. Also the first event of all."""


@dataclass(frozen=True, slots=True)
class ManifestCame:
    """The signed head; its signature holds. Token 0: an earlier process asked for it."""

    token: int
    head: Head
    lane: int = 0


@dataclass(frozen=True, slots=True)
class PageCame:
    """One page of leaves, packed; not yet verified."""

    token: int
    page: int
    leaves: bytes
    lane: int = 0


@dataclass(frozen=True, slots=True)
class ChunkLanded:
    """A reply with this chunk is in memory."""

    index: int
    lane: int = 0


@dataclass(frozen=True, slots=True)
class ChunkStored:
    """The chunk matches its leaf and is in the part file (not yet durable)."""

    index: int
    token: int | None
    lane: int = 0


@dataclass(frozen=True, slots=True)
class ChunkBad:
    """A reply under a valid seal does not match the leaf."""

    index: int
    lane: int = 0


@dataclass(frozen=True, slots=True)
class ChunkAdopted:
    """A reply to a request of an earlier process is in the part file, unverified."""

    index: int
    lane: int = 0


@dataclass(frozen=True, slots=True)
class ChunkDropped:
    """The chunk landed and could not be written (no room, or a seal that does not open)."""

    index: int
    lane: int = 0


@dataclass(frozen=True, slots=True)
class Rechecked:
    """Chunks of the part file were read and compared with their leaves."""

    good: tuple[int, ...]
    bad: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Staging has the manifest and the room."""


@dataclass(frozen=True, slots=True)
class Committed:
    phase: Phase


@dataclass(frozen=True, slots=True)
class SyncLost:
    """An fsync failed: what is not in `durable` counts as absent. `detail`: what the disk said."""

    durable: Bitmap
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ReadBackDone:
    matches: bool


@dataclass(frozen=True, slots=True)
class Published:
    pass


@dataclass(frozen=True, slots=True)
class Refused:
    token: int
    refusal: Refusal
    lane: int = 0


@dataclass(frozen=True, slots=True)
class AskFailed:
    """The carrier did not take the request, or its answer is unknown."""

    token: int
    waiting: Waiting
    lane: int = 0


@dataclass(frozen=True, slots=True)
class OriginBroken:
    """This origin is of no use any more: its link ended for good, or what it says cannot be."""

    lane: int
    error: ChunkqError


@dataclass(frozen=True, slots=True)
class SpaceGone:
    """No room on the disk. `step`: it was the prepare or commit under way that failed."""

    detail: str
    step: bool = False


@dataclass(frozen=True, slots=True)
class SpaceBack:
    pass


@dataclass(frozen=True, slots=True)
class Broken:
    """Something here cannot go on (destination exists, disk error)."""

    error: ChunkqError


Event = (
    Tick
    | ManifestCame
    | PageCame
    | ChunkLanded
    | ChunkStored
    | ChunkBad
    | ChunkAdopted
    | ChunkDropped
    | Rechecked
    | Prepared
    | Committed
    | SyncLost
    | ReadBackDone
    | Published
    | Refused
    | AskFailed
    | OriginBroken
    | SpaceGone
    | SpaceBack
    | Broken
)


# ---------------------------------------------------------------- effects


@dataclass(frozen=True, slots=True)
class AskOpen:
    token: int
    lane: int = 0


@dataclass(frozen=True, slots=True)
class AskPages:
    token: int
    runs: tuple[tuple[int, int], ...]
    lane: int = 0


@dataclass(frozen=True, slots=True)
class AskChunks:
    token: int
    runs: tuple[tuple[int, int], ...]
    lane: int = 0


@dataclass(frozen=True, slots=True)
class Prepare:
    """Keep the manifest beside the part file and make room; then `Prepared`, or `SpaceGone`."""

    head: Head


@dataclass(frozen=True, slots=True)
class Recheck:
    """Read these chunks from the part file and compare them with their leaves."""

    indices: tuple[int, ...]
    first: int
    leaves: bytes


@dataclass(frozen=True, slots=True)
class Punch:
    """Give back the room reserved for these holes, `(first, count)` runs of chunks."""

    runs: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """Sync the data, then the bitmap as it is now, under this phase; then acknowledge."""

    phase: Phase


@dataclass(frozen=True, slots=True)
class ReadBack:
    """Hash the whole part file."""


@dataclass(frozen=True, slots=True)
class Publish:
    pass


@dataclass(frozen=True, slots=True)
class OriginLeft:
    """One of several origins is asked for nothing any more, for this reason."""

    lane: int
    error: ChunkqError


@dataclass(frozen=True, slots=True)
class Finish:
    """The end, well (None) or not."""

    error: ChunkqError | None


Effect = (
    AskOpen
    | AskPages
    | AskChunks
    | Prepare
    | Recheck
    | Punch
    | Commit
    | ReadBack
    | Publish
    | OriginLeft
    | Finish
)
