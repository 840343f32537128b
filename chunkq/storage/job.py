"""What a job is: one transfer that somebody asked for, wherever it stands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cache
from hashlib import blake2b
from typing import Final

from pydantic import TypeAdapter

from chunkq.protocol.condition import Reason, reason_of_error

SUFFIX: Final = ".json"
#: Its number is the ms at which it was left; that, too, is the order in which jobs are taken.
NAME: Final = re.compile(r"[0-9]{13,20}-[0-9a-f]{8}\.json")

#: Half a character, as JSON writes it.
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")

_REASONS: Final = frozenset(Reason)

Option = str | int | float | bool | None


class JobState(StrEnum):
    """The directory that a job is in."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Nothing more comes of it unless somebody asks for it."""
        return self in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What to get and where to; `sources` are where one thing is to be had.

    `attempts` counts the times it was begun and not finished, `lost` those of the last of them that
    ended with their worker. `by` asked for it, `changed_by` brought it to where it stands (empty:
    chunkq itself) and `reason` says why it waits, if that is no error. `foreground`: a program has
    it in hand that somebody runs for it, so no worker takes it unasked. `origin` is the first key's
    id of the peer that it asks first, in hexadecimal, by which its staging is found. The sizes and
    the digest (hexadecimal) are known when it is done. Of two copies the higher `revision` counts.
    """

    job_id: str
    sources: tuple[str, ...]
    destination: str
    options: Mapping[str, Option] = field(default_factory=dict)
    created_ms: int = 0
    attempts: int = 0
    lost: int = 0
    error_code: str = ""
    error_message: str = ""
    by: str = ""
    foreground: bool = False
    started_ms: int = 0
    ended_ms: int = 0
    size_bytes: int = 0
    new_bytes: int = 0
    content_digest: str = ""
    reason: str = ""
    changed_by: str = ""
    origin: str = ""
    revision: int = 0
    state: JobState = JobState.PENDING

    @property
    def peer(self) -> str:
        """Whom it asks first."""
        return self.sources[0].partition(":")[0] if self.sources else ""

    @property
    def priority(self) -> str:
        """As it was given; it may have been edited by hand."""
        return str(self.options.get("priority") or "normal")

    @property
    def why(self) -> Reason | None:
        """Why it stands where it stands, if there is anything to say."""
        if self.error_code:
            return reason_of_error(self.error_code)
        return Reason(self.reason) if self.reason in _REASONS else None


class JobClaim:
    """A job that this process has.

    Close it with `JobStore.complete`, `fail`, `give_back`, `leave_paused` or `leave_cancelled`.
    `durable`: its record must survive a power cut at every step.
    """

    def __init__(self, job: Job, fd: int, *, started_ms: int = 0, durable: bool = True) -> None:
        self.job = job
        self.fd = fd
        self.started_ms = started_ms
        self.durable = durable


@cache
def _parser() -> TypeAdapter[Job]:
    """What a job's file may hold, types and all: it may have been edited by hand."""
    return TypeAdapter(Job)


def encode(job: Job) -> bytes:
    """As the file has it; its state is where the file is."""
    content = {name: getattr(job, name) for name in _FIELDS}
    return json.dumps(content, ensure_ascii=True, indent=1).encode()


def decode(raw: bytes) -> Job | None:
    """What a file says; None if that is no job."""
    try:
        return _parser().validate_json(raw, strict=True)
    except ValueError:
        pass
    # A path may be no text: Python has its odd bytes as lone surrogates, which JSON proper has not.
    try:
        _parser().validate_json(_SURROGATE.sub(b"?", raw), strict=True)
        content = json.loads(raw)
    except ValueError:
        return None
    known = {each.name: content[each.name] for each in fields(Job) if each.name in content}
    return Job(**{**known, "sources": tuple(known["sources"])})


#: What a file says: all but the state.
_FIELDS: Final = tuple(each.name for each in fields(Job) if each.name != "state")


def mark_of(sources: Sequence[str], destination: str) -> str:
    """What the id of a job that was begun ends with: the same for the same command."""
    told = "\0".join((*sources, destination)).encode(errors="surrogateescape")
    return blake2b(told, digest_size=4, person=b"chunkq job").hexdigest()
