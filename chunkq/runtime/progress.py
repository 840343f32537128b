"""Where a transfer stands, for whoever watches: one file or a whole tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from chunkq.errors import ChunkqError
from chunkq.protocol.transfer_events import Phase, Waiting


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A moment of a transfer.

    `phase`: opening, running, recovering, verifying, publishing, done or failed. Bytes and chunks
    are those present; `new_bytes` came since this start. `files_total` grows while a tree is
    walked. `waiting` says why nothing moves. `resumed_chunks`: were there at the start.
    `origins`: new bytes by peer. `left`: peers that are asked for nothing any more, and why.
    """

    source: str
    peer: str
    phase: str
    path: str = ""
    bytes_present: int = 0
    bytes_total: int = 0
    new_bytes: int = 0
    chunks_present: int = 0
    chunks_total: int = 0
    resumed_chunks: int = 0
    files_done: int = 0
    files_total: int = 1
    waiting: Waiting | None = None
    origins: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished transfer.

    `content_digest` is the BLAKE3 of the file (as `b3sum` prints it, in hexadecimal), empty for a
    tree. `failures` are the files of a tree that could not be had, as `(path, error)`. `origins`
    and `left` as in `Progress`.
    """

    source: str
    destination: str
    size_bytes: int
    new_bytes: int
    content_digest: str = ""
    resumed_chunks: int = 0
    duplicate_chunks: int = 0
    files: int = 1
    unchanged: int = 0
    links_left: int = 0
    failures: tuple[tuple[str, ChunkqError], ...] = field(default_factory=tuple)
    origins: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchProgress:
    """Where a transfer stands. Bytes and chunks that are present; `new_bytes` came this time."""

    path: str
    peer: str
    phase: Phase
    chunks_present: int
    chunks_total: int
    bytes_total: int
    bytes_present: int
    new_bytes: int
    in_flight: int
    waiting: Waiting | None
    read_back_bytes: int
    origins: Mapping[str, int]
    left: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchResult:
    """A published file. `resumed_chunks` were there before; `unchanged`: it was all there."""

    path: str
    size_bytes: int
    new_bytes: int
    content_digest: bytes
    resumed_chunks: int
    chunks_total: int
    duplicate_chunks: int
    unchanged: bool = False
    origins: Mapping[str, int] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneProgress:
    """How one origin does for a file. `silent`: what was asked of it is overdue.

    `window_chunks`: how many may be on the way from it to all transfers; `in_flight`: to this one.
    """

    peer: str
    new_bytes: int
    window_chunks: int
    in_flight: int
    rtt_s: float
    silent: bool

    def __add__(self, other: LaneProgress) -> LaneProgress:
        """The same origin, for two files of a tree."""
        return LaneProgress(
            peer=self.peer,
            new_bytes=self.new_bytes + other.new_bytes,
            window_chunks=self.window_chunks,
            in_flight=self.in_flight + other.in_flight,
            rtt_s=self.rtt_s,
            silent=self.silent and other.silent,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchDetail:
    """What a file has under way. `runs`: chunks asked for that have not come, `(first, count)`.

    `bad`: chunks that came with other bytes than were signed, and have not come well since.
    `starved`: it would ask for more, and others have the whole window.
    """

    lanes: Sequence[LaneProgress]
    runs: Sequence[tuple[int, int]]
    bad: Sequence[tuple[int, int]]
    starved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A transfer at one moment, for whoever reports it.

    `id`: its job's, or one that it was given at its start. `error`: the class of what it ended
    with. `queued`: it waits for its turn. `runs`, `bad`: of its only file.
    """

    id: str
    progress: Progress
    lanes: Sequence[LaneProgress] = ()
    runs: Sequence[tuple[int, int]] = ()
    bad: Sequence[tuple[int, int]] = ()
    queued: bool = False
    starved: bool = False
    error: str = ""
    read_back_bytes: int = 0
