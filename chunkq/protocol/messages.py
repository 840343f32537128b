"""The bodies of control packets: strict models over deterministic CBOR.

Decoded only after the signature (or the seal) holds. Unknown fields are refused, so that a change
of meaning needs a new packet kind.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from chunkq.protocol.limits import (
    DIGEST_SIZE_BYTES,
    KEY_SIZE_BYTES,
    MAX_BYTES_PER_REQUEST,
    MAX_CHUNK_COUNT,
    MAX_CHUNK_SIZE_BYTES,
    MAX_CHUNKS_PER_REQUEST,
    MAX_FILE_SIZE_BYTES,
    MAX_FILES_PER_REQUEST,
    MAX_HEAD_SIZE_BYTES,
    MAX_LISTING_ENTRIES,
    MAX_NAME_SIZE_BYTES,
    MAX_PAGES_PER_REQUEST,
    MAX_PATH_SIZE_BYTES,
    MAX_REPLY_BODY_SIZE_BYTES,
    MIN_CHUNK_SIZE_BYTES,
    SIGNATURE_SIZE_BYTES,
)
from chunkq.protocol.priority import PriorityWord
from chunkq.protocol.succession import MAX_STATEMENT_LENGTH

Label = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
Digest = Annotated[bytes, Field(min_length=DIGEST_SIZE_BYTES, max_length=DIGEST_SIZE_BYTES)]
#: Paths are checked in full by `names`; here only their size is bounded.
RawPath = Annotated[str, Field(max_length=MAX_PATH_SIZE_BYTES)]
ChunkSize = Annotated[int, Field(ge=MIN_CHUNK_SIZE_BYTES, le=MAX_CHUNK_SIZE_BYTES)]


#: A succession or a revocation, as it would be pasted.
StatementLine = Annotated[str, Field(max_length=MAX_STATEMENT_LENGTH)]


def _pair(value: object) -> object:
    """CBOR has only arrays, and a strict tuple takes no list."""
    return tuple(value) if isinstance(value, list) else value


Run = Annotated[
    tuple[
        Annotated[int, Field(ge=0, lt=MAX_CHUNK_COUNT)],
        Annotated[int, Field(ge=1, le=MAX_CHUNK_COUNT)],
    ],
    BeforeValidator(_pair),
]


def _total_of_runs(runs: list[tuple[int, int]], largest: int) -> int:
    """How many indices ascending, separate runs name. Raises `ValueError` if they are not so."""
    end = total = 0
    for first, count in runs:
        if first < end:
            raise ValueError(f"the run at {first} overlaps or precedes the one before it")
        end = first + count
        total += count
    if end > MAX_CHUNK_COUNT:
        raise ValueError(f"runs up to {end} pass the last possible index, {MAX_CHUNK_COUNT - 1}")
    if total > largest:
        raise ValueError(f"{total} indices in one request; the most is {largest}")
    return total


class Body(BaseModel):
    """A control body. `instance` in requests names the requester's reply mailbox."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


# ---------------------------------------------------------------- requests


class Request(Body):
    """`priority`: what the answer may overtake at the origin, and what may overtake it.

    `zstd`: replies may be packed (`packing`).
    """

    instance: Label
    priority: PriorityWord = "normal"
    zstd: bool = False


class Open(Request):
    """Ask for a file's manifest, cut so that a reply fits the requester's link."""

    share: Label
    path: RawPath
    largest_chunk: ChunkSize


class Pages(Request):
    """Ask for pages of leaves of the version `root`, as `(first, count)` runs."""

    share: Label
    path: RawPath
    root: Digest
    chunk_size: ChunkSize
    runs: Annotated[list[Run], Field(min_length=1, max_length=MAX_PAGES_PER_REQUEST)]

    @model_validator(mode="after")
    def _check_runs(self) -> Self:
        _total_of_runs(self.runs, MAX_PAGES_PER_REQUEST)
        return self


class Chunks(Request):
    """Ask for chunks of the version `root`, as `(first, count)` runs."""

    share: Label
    path: RawPath
    root: Digest
    chunk_size: ChunkSize
    runs: Annotated[list[Run], Field(min_length=1, max_length=MAX_CHUNKS_PER_REQUEST)]

    @model_validator(mode="after")
    def _check_runs(self) -> Self:
        size = _total_of_runs(self.runs, MAX_CHUNKS_PER_REQUEST) * self.chunk_size
        if size > MAX_BYTES_PER_REQUEST:
            raise ValueError(f"{size} bytes in one request; the most is {MAX_BYTES_PER_REQUEST}")
        return self


class List(Request):
    """Ask for entries of a directory after `cursor`."""

    share: Label
    path: RawPath
    cursor: Annotated[str, Field(max_length=MAX_PATH_SIZE_BYTES)] | None = None


#: A directory and names in it.
Group = Annotated[
    tuple[
        RawPath,
        Annotated[list[Annotated[str, Field(max_length=MAX_NAME_SIZE_BYTES)]], Field(min_length=1)],
    ],
    BeforeValidator(_pair),
]


class Files(Request):
    """Ask for small files whole, in bundles whose bodies have at most `largest` bytes."""

    share: Label
    groups: Annotated[list[Group], Field(min_length=1, max_length=MAX_FILES_PER_REQUEST)]
    largest: int = Field(ge=MIN_CHUNK_SIZE_BYTES, le=MAX_REPLY_BODY_SIZE_BYTES)

    @model_validator(mode="after")
    def _check_count(self) -> Self:
        count = sum(len(names) for _, names in self.groups)
        if count > MAX_FILES_PER_REQUEST:
            raise ValueError(f"{count} files in one request; the most is {MAX_FILES_PER_REQUEST}")
        return self


class Receipt(Request):
    """Tell the origin that the version `root` is published here."""

    share: Label
    path: RawPath
    root: Digest


class Probe(Request):
    """Ask for `count` replies of `size` bytes that mean nothing, to measure the link."""

    size: Annotated[int, Field(ge=1, le=MAX_CHUNK_SIZE_BYTES)]
    count: Annotated[int, Field(ge=1, le=MAX_CHUNKS_PER_REQUEST)]

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        if self.size * self.count > MAX_BYTES_PER_REQUEST:
            raise ValueError(
                f"{self.size * self.count} bytes in one request; the most is"
                f" {MAX_BYTES_PER_REQUEST}"
            )
        return self


class Statement(Request):
    """Tell a site of a succession or revocation, as its line: it proves itself."""

    line: StatementLine


# ---------------------------------------------------------------- replies


class ManifestReply(Body):
    """The signed head (see `manifest`), and what belongs to the path, not to the content."""

    head: Annotated[bytes, Field(max_length=MAX_HEAD_SIZE_BYTES)]
    signature: Annotated[
        bytes, Field(min_length=SIGNATURE_SIZE_BYTES, max_length=SIGNATURE_SIZE_BYTES)
    ]
    mode: int = Field(ge=0, le=0o777)
    mtime_ns: int = Field(ge=-(2**63), lt=2**63)


class Entry(Body):
    """One name in a directory. `target` only for links; `size` only for files."""

    name: Annotated[str, Field(min_length=1, max_length=MAX_PATH_SIZE_BYTES)]
    type: Literal["file", "dir", "link"]
    size: int = Field(default=0, ge=0, le=MAX_FILE_SIZE_BYTES)
    mode: int = Field(default=0, ge=0, le=0o777)
    mtime_ns: int = Field(default=0, ge=-(2**63), lt=2**63)
    target: RawPath | None = None

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if (self.type == "link") is not bool(self.target):
            raise ValueError("a link has a target, and nothing else has one")
        return self


class Listing(Body):
    """Entries ordered by name, where to go on, and how many names could not be offered."""

    entries: Annotated[list[Entry], Field(max_length=MAX_LISTING_ENTRIES)]
    cursor: Annotated[str, Field(max_length=MAX_PATH_SIZE_BYTES)] | None = None
    omitted: int = Field(default=0, ge=0, lt=2**32)


class RefusalReason(StrEnum):
    """Why an origin does not do what was asked. A closed set."""

    NOT_FOUND = "not_found"
    NOT_PERMITTED = "not_permitted"
    STALE = "stale"
    PREPARING = "preparing"
    BUSY = "busy"
    TOO_LARGE = "too_large"
    EXPIRED = "expired"
    CLOCK_SKEW = "clock_skew"
    UNSUPPORTED = "unsupported"


class StandingReply(Body):
    """How the origin and the asker stand to each other in keys.

    `known`: the id of the asker that is pinned there now. `line`: what the origin says of its own
    keys, to one who asked others than its newest.
    """

    known: Annotated[bytes, Field(min_length=KEY_SIZE_BYTES, max_length=KEY_SIZE_BYTES)]
    line: StatementLine = ""


class Refusal(Body):
    """`retry_after_ms`: when to ask again. `done`/`total` bytes of a hash under way (preparing).

    `offset_ms`: origin's clock minus the request's (clock_skew). `epoch_floor`: only epochs above
    it are taken (expired, after the origin lost its replay record).
    """

    # Not strict here alone: what arrives is the word, not the enum's member.
    reason: Annotated[RefusalReason, Field(strict=False)]
    detail: Annotated[str, Field(max_length=500)] = ""
    retry_after_ms: int = Field(default=0, ge=0, le=24 * 3600 * 1000)
    done: int = Field(default=0, ge=0)
    total: int = Field(default=0, ge=0)
    offset_ms: int = 0
    epoch_floor: int = Field(default=0, ge=0, lt=2**64)
