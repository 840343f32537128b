"""Rows of the list of transfers, from what is on disk and what processes say."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import Final

from chunkq.api.judging import Around, Judgement, Said, judge, judge_staged
from chunkq.api.views import TransferRow
from chunkq.protocol.condition import State
from chunkq.storage.jobindex import SeenJob
from chunkq.storage.stagingindex import Key
from chunkq.storage.transfers import TransferSummary

#: What begins the id of a transfer that is no job's.
STAGED: Final = "staged-"

_MOVING: Final = frozenset({State.RUNNING, State.OPENING, State.RECOVERING, State.STALLED})


@dataclass(slots=True)
class Staged:
    """What of a job is in staging: its file, or those of its tree that have begun."""

    files: list[tuple[Key, TransferSummary]] = field(default_factory=list)

    @property
    def only(self) -> TransferSummary | None:
        return self.files[0][1] if len(self.files) == 1 else None

    @property
    def bytes_present(self) -> int:
        return sum(each.bytes_present for _, each in self.files)

    @property
    def modified_ms(self) -> int:
        return max((each.modified_ms for _, each in self.files), default=0)


def job_row(
    seen: SeenJob, staged: Staged, said: Said | None, locked: bool, around: Around
) -> TransferRow:
    """A job's row; what a process says counts before what it last committed."""
    job = seen.job
    source = job.sources[0] if job.sources else ""
    tree = source.endswith("/")
    file = None if tree else staged.only
    found = judge(seen, file, said, locked, around)
    size = job.size_bytes or (file.size_bytes if file and file.chunks_total else 0)
    done = size if found.state is State.DONE else staged.bytes_present
    row = TransferRow(
        id=job.job_id,
        state=found.state,
        reason=found.reason,
        detail=found.detail,
        sources=job.sources,
        peer=job.peer,
        name=name_of(source),
        destination=job.destination,
        tree=tree,
        size_bytes=size or (0 if found.state is State.DONE else None),
        done_bytes=done,
        chunks_total=file.chunks_total if file else 0,
        chunks_present=file.chunks_present if file else 0,
        files_total=0 if tree else 1,
        files_done=int(found.state is State.DONE and not tree),
        created_ms=job.created_ms,
        progress_ms=staged.modified_ms,
        ended_ms=(job.ended_ms or seen.changed_ms) if found.state.ended else 0,
        retries=job.attempts,
        priority=job.priority,
    )
    return row if said is None or found.state.ended else with_said(row, said)


def staged_row(key: Key, staged: TransferSummary, destination: str, around: Around) -> TransferRow:
    """What is in staging and no job's: of an embedded program, or of an earlier release.

    `destination` is the file's path if that could be told, else the directory.
    """
    found: Judgement = judge_staged(staged, around)
    source = f"{staged.site}:{staged.share}/{staged.path}" if staged.site else ""
    return TransferRow(
        id=STAGED + key[1],
        state=found.state,
        reason=found.reason,
        detail=found.detail,
        sources=(source,) if source else (),
        peer=staged.site,
        name=name_of(source) or key[1],
        destination=destination,
        size_bytes=staged.size_bytes if staged.chunks_total else None,
        done_bytes=staged.bytes_present,
        chunks_total=staged.chunks_total,
        chunks_present=staged.chunks_present,
        created_ms=staged.created_ms,
        progress_ms=staged.modified_ms,
    )


def said_row(row_id: str, said: Said) -> TransferRow:
    """A transfer that only its process tells of: one of another host, or of a program's own."""
    told = said.transfer
    row = TransferRow(
        id=row_id,
        state=told.state,
        reason=told.reason,
        detail=told.detail,
        sources=(told.source,),
        peer=told.source.partition(":")[0],
        name=name_of(told.source),
        tree=told.source.endswith("/"),
        created_ms=said.process.report.started_ms,
    )
    return with_said(row, said)


def with_said(row: TransferRow, said: Said) -> TransferRow:
    """The row with the figures of the process; its rate counts while it is there."""
    told = said.transfer
    size = told.size_bytes or row.size_bytes
    rate = told.rate_bytes_per_s if said.fresh else 0
    left = max(0, (size or 0) - told.done_bytes)
    return replace(
        row,
        size_bytes=size,
        done_bytes=max(told.done_bytes, row.done_bytes),
        chunks_total=told.chunks_total or row.chunks_total,
        chunks_present=max(told.chunks_present, row.chunks_present),
        files_total=told.files_total or row.files_total,
        files_done=told.files_done,
        rate_bytes_per_s=rate,
        eta_s=left / rate if size and rate and row.state in _MOVING else None,
        progress_ms=told.progress_ms or row.progress_ms,
        host=said.process.report.host,
        instance=said.process.report.instance,
    )


def name_of(source: str) -> str:
    """What it is called when it arrives."""
    _, _, path = source.partition(":")
    return os.path.basename(path.rstrip("/"))
