"""What `pause`, `resume`, `cancel`, `retry` and `prio` have in common: do it to each, and tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chunkq.cli import console
from chunkq.errors import ChunkqError, NotFound, PartialFailure

if TYPE_CHECKING:
    from chunkq.cli.options import Options
    from chunkq.cli.selection import Chosen
    from chunkq.storage.job import Job, JobState
    from chunkq.storage.jobs import JobStore


def steer(
    options: Options,
    chosen: Chosen,
    act: Callable[[JobStore, str, str], Job],
    *,
    sensible: frozenset[JobState],
    done: str,
    asked: str,
) -> int:
    """`act(store, id, who)` to each chosen transfer; says `done`, or `asked` of a process.

    Raises the error of the only one that was refused, or `PartialFailure`.
    """
    from chunkq.cli.selection import as_shown, select
    from chunkq.settings.actor import actor
    from chunkq.storage.job import JobState
    from chunkq.storage.jobs import JobStore

    settings = options.load().settings
    chosen = as_shown(chosen, settings)
    store = JobStore(settings.directories.state)
    by, errors = actor(), 0
    try:
        jobs, missing = select(store, chosen, sensible)
        refused: list[ChunkqError] = [*missing]
        if not jobs and not missing:
            raise NotFound("no such transfer is there", hint="chunkq status --all")
        for job in jobs:
            try:
                changed = act(store, job.job_id, by)
            except ChunkqError as error:
                refused.append(error)
                if len(jobs) + len(missing) > 1:
                    _tell_refused(options, error, job.job_id)
                continue
            errors += 1
            _tell(options, changed, asked if changed.state is JobState.RUNNING else done)
        if len(jobs) + len(missing) > 1:
            for absent in missing:
                _tell_refused(options, absent)
    finally:
        store.close()
    if refused and not errors:
        raise refused[0]
    if refused:
        raise PartialFailure(f"{len(refused)} of {len(refused) + errors} were refused")
    return 0


def _tell(options: Options, job: Job, word: str) -> None:
    if options.json:
        fields = {"id": job.job_id, "outcome": word, "state": str(job.state)}
        console.emit("transfer", {**fields, "sources": list(job.sources)})
    else:
        console.out(console.clean(f"{word}: {job.job_id}  {' '.join(job.sources)}"))


def _tell_refused(options: Options, error: ChunkqError, job_id: str = "") -> None:
    if options.json:
        console.emit("refused", {"id": job_id, "message": error.message})
    else:
        console.warn(error.message)
