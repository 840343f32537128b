"""What a process says of itself: what moves, what does not and why, on which links.

A report is small and whole: the newest of a process replaces what it said before. Processes of one
host leave it in the state directory; between hosts it travels as a request that the site signs and
seals to itself. Counts only rise while the process lives (`incarnation`), times are the sender's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Final, Literal

from pydantic import Field

from chunkq.protocol.condition import Reason, State
from chunkq.protocol.messages import Body, Label, Run

#: Changes when the meaning of a field does; others' reports are shown as "another version".
VERSION: Final = 1
#: Transfers that one report tells of: those that move first. More are only counted.
MAX_TRANSFERS: Final = 128
MAX_LINKS: Final = 64
MAX_PEERS: Final = 256
MAX_COUNTERS: Final = 256
#: Runs of chunks on the way that one transfer tells of.
MAX_RUNS: Final = 64
MAX_DETAIL_CHARS: Final = 300
MAX_TEXT_CHARS: Final = 4096

Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
Detail = Annotated[str, Field(max_length=MAX_DETAIL_CHARS)]
Word = Annotated[str, Field(max_length=64)]
#: What a peer is called here: a label, unless a program that embeds chunkq calls it otherwise.
Alias = Annotated[str, Field(max_length=255)]

#: 16 random bytes of a process's start, in hexadecimal.
Incarnation = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

Role = Literal["origin", "requester", "get", "embedded", "dashboard"]


class OriginShare(Body):
    """What one origin does for a transfer. `left`: why it is asked for nothing any more."""

    peer: Alias
    new_bytes: Count = 0
    window_chunks: Count = 0
    in_flight: Count = 0
    rtt_ms: Count = 0
    left: Detail = ""


class TransferReport(Body):
    """A transfer that the process has in hand. `transfer` is its id in the state directory."""

    transfer: Word
    state: Annotated[State, Field(strict=False)]
    reason: Annotated[Reason, Field(strict=False)] | None = None
    detail: Detail = ""
    source: Text
    path: Text = ""
    size_bytes: Count = 0
    done_bytes: Count = 0
    new_bytes: Count = 0
    chunks_total: Count = 0
    chunks_present: Count = 0
    files_total: Count = 0
    files_done: Count = 0
    rate_bytes_per_s: Count = 0
    #: When the last new byte came; 0: none yet.
    progress_ms: Count = 0
    origins: Annotated[list[OriginShare], Field(max_length=16)] = Field(default_factory=list)
    #: Chunks that were asked for and have not come, of the only file.
    in_flight: Annotated[list[Run], Field(max_length=MAX_RUNS)] = Field(default_factory=list)
    #: Chunks of it that came with other bytes than were signed, and are asked for again.
    failed: Annotated[list[Run], Field(max_length=MAX_RUNS)] = Field(default_factory=list)


class LinkReport(Body):
    """How a process finds one link. `reason` is empty where packets move."""

    link: Label
    transport: Word
    reason: Annotated[Reason, Field(strict=False)] | None = None
    detail: Detail = ""
    sent_bytes: Count = 0
    received_bytes: Count = 0


class PeerReport(Body):
    """What an origin did for one peer, as counts since it started."""

    peer: Alias
    requests: Count = 0
    sent_bytes: Count = 0
    refusals: Annotated[dict[Word, Count], Field(max_length=16)] = Field(default_factory=dict)
    #: When it was last heard of; 0: not since the start.
    heard_ms: Count = 0


class Report(Body):
    """One process at one moment."""

    version: int = VERSION
    site: Label
    host: Word
    pid: Count
    role: Role
    instance: Word
    incarnation: Incarnation
    software: Word
    started_ms: Count
    at_ms: Count
    ready: bool = True
    draining: bool = False
    resident_bytes: Count = 0
    descriptors: Count = 0
    #: Transfers in hand, those too many to be told of included.
    transfers_total: Count = 0
    transfers: Annotated[list[TransferReport], Field(max_length=MAX_TRANSFERS)] = Field(
        default_factory=list
    )
    links: Annotated[list[LinkReport], Field(max_length=MAX_LINKS)] = Field(default_factory=list)
    peers: Annotated[list[PeerReport], Field(max_length=MAX_PEERS)] = Field(default_factory=list)
    #: Packets dropped and refused, by reason: `dropped_bad_signature`, `refused_busy`, …
    counters: Annotated[dict[Word, Count], Field(max_length=MAX_COUNTERS)] = Field(
        default_factory=dict
    )


def fitting(
    report: Report, size_bytes: int, encode: Callable[[Report], bytes]
) -> tuple[Report, bytes]:
    """The report in at most so many bytes, and these: the last transfers are left out, if need be.

    They are still counted in `transfers_total`.
    """
    encoded = encode(report)
    while len(encoded) > size_bytes and report.transfers:
        kept = report.transfers[: len(report.transfers) // 2]
        report = report.model_copy(update={"transfers": kept})
        encoded = encode(report)
    return report, encoded
