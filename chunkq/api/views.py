"""What an operator sees: rows of plain values, for the command line and the page alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, TypeVar

from chunkq.protocol.condition import Reason, State
from chunkq.protocol.report import OriginShare
from chunkq.storage.journal import Event

_Row = TypeVar("_Row")

#: Rows of a page unless asked otherwise, and at most.
PAGE_ROWS: Final = 50
MAX_PAGE_ROWS: Final = 500

SortKey = Literal[
    "state", "name", "peer", "size", "done", "rate", "eta", "age", "progress", "retries", "priority"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which transfers: all that are given must hold; empty ones hold always.

    `text` is looked for in source and destination, letter case aside.
    """

    states: frozenset[State] = frozenset()
    reasons: frozenset[Reason] = frozenset()
    peer: str = ""
    text: str = ""
    ids: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A page of a list. `page` counts from 1."""

    filter: Filter = Filter()
    sort: SortKey = "state"
    descending: bool = False
    page: int = 1
    rows: int = PAGE_ROWS


@dataclass(frozen=True, slots=True)
class Page(Generic[_Row]):
    """Some rows of `total`."""

    rows: Sequence[_Row]
    total: int
    page: int
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRow:
    """A transfer, wherever it stands. Times are in ms since 1970, 0 where there is none.

    `id` is that of its job, or `staged-…` for what was found in staging alone. `size_bytes`,
    `eta_s`: None while unknown. `host` and `instance` say who has it in hand; empty: nobody.
    """

    id: str
    state: State
    reason: Reason | None = None
    detail: str = ""
    sources: tuple[str, ...] = ()
    peer: str = ""
    name: str = ""
    destination: str = ""
    tree: bool = False
    size_bytes: int | None = None
    done_bytes: int = 0
    chunks_total: int = 0
    chunks_present: int = 0
    files_total: int = 1
    files_done: int = 0
    rate_bytes_per_s: int = 0
    eta_s: float | None = None
    created_ms: int = 0
    progress_ms: int = 0
    ended_ms: int = 0
    retries: int = 0
    priority: str = "normal"
    host: str = ""
    instance: str = ""

    @property
    def advice(self) -> str:
        return self.reason.advice if self.reason else ""

    @property
    def percent(self) -> int:
        """Whole percents, rounded down: 100 only if all is there."""
        if self.state is State.DONE:
            return 100
        return 100 * self.done_bytes // self.size_bytes if self.size_bytes else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The chunks of a file, cut into at most some hundred equal cells.

    `cells`: one word each: `have` (all of it), `part`, `in_flight`, `missing`, `failed`.
    `contiguous`: chunks from the first on without a gap. `gaps`: runs of chunks that are missing.
    """

    total: int
    present: int
    contiguous: int
    gaps: int
    in_flight: int
    failed: int
    cells: tuple[str, ...]

    @property
    def text(self) -> str:
        """What the map shows, in words."""
        gaps = "no gaps" if not self.gaps else f"{self.gaps} gap{'s' if self.gaps != 1 else ''}"
        more = f", {self.in_flight} in flight" if self.in_flight else ""
        failed = f", {self.failed} failed" if self.failed else ""
        return (
            f"{self.present} of {self.total}, contiguous to {self.contiguous}, {gaps}{more}{failed}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferView:
    """One transfer in full. `pieces` is None for a tree, and before the manifest came.

    `rates`: bytes a second at the last moments, `(at_ms, rate)`, oldest first. `staging`: files
    that hold what has come. `commands`: command lines that do what the page can.
    """

    row: TransferRow
    pieces: Pieces | None = None
    origins: Sequence[OriginShare] = ()
    rates: Sequence[tuple[int, int]] = ()
    timeline: Sequence[Event] = ()
    digest: str = ""
    staging: Sequence[str] = ()
    commands: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """A peer. `trouble`: why nothing is asked of it, or empty. Counts are of all processes."""

    alias: str
    address: str
    link: str
    fingerprint: str
    frozen: bool = False
    trouble: str = ""
    active: int = 0
    waiting: int = 0
    failed: int = 0
    fetched_bytes: int = 0
    served_bytes: int = 0
    requests: int = 0
    refusals: Mapping[str, int] = field(default_factory=dict)
    heard_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkView:
    """A link of this site. `address`: its URL without a password. `why`: who froze it, and why."""

    link: str
    transport: str
    address: str
    frozen: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueView:
    """A queue of this site. None: not known by this way (passive declare, management API).

    `problem`: why nothing is known, as a sentence, or empty.
    """

    link: str
    queue: str
    depth: int | None = None
    consumers: int | None = None
    unacknowledged: int | None = None
    oldest_s: float | None = None
    size_bytes: int | None = None
    blocked: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """A process of this site. `alive` is False where its last report is too old."""

    instance: str
    role: str
    host: str
    pid: int
    software: str
    started_ms: int
    heard_ms: int
    alive: bool
    ready: bool
    draining: bool
    here: bool
    transfers: int
    resident_bytes: int
    descriptors: int
    links: Sequence[tuple[str, str, str]] = ()
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedView:
    """Packets dropped or requests refused, by whom and why."""

    instance: str
    peer: str
    reason: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterView:
    """Requests that no worker could take, by sender; `queue` and `link` where they lie.

    `problem`: why nothing is known of the link's, as a sentence, or empty.
    """

    link: str
    queue: str
    sender: str
    reason: str
    count: int
    oldest_ms: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an action: for how many transfers it holds now, and which refused, why."""

    done: int = 0
    refused: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.done + other.done, self.refused + other.refused)
