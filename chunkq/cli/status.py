"""`chunkq status`: what is under way, waits, failed, is done."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from chunkq.cli import console
from chunkq.cli.options import JsonOption, Options

if TYPE_CHECKING:
    from chunkq.storage.jobs import Job, JobState, JobStore
    from chunkq.storage.transfers import TransferSummary

EXAMPLES: Final = """\b
Examples:
  chunkq status            transfers under way or stopped, and jobs
  chunkq status --all      and jobs that are done
  chunkq status --json     one object a line
"""

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog=EXAMPLES)
def status(
    ctx: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Show jobs that are done.")] = False,
    json: JsonOption = False,
) -> int:
    """Show transfers and jobs as the files on disk have them; nothing need be running."""
    from chunkq.storage.jobs import JobState, JobStore
    from chunkq.storage.places import Places
    from chunkq.storage.transfers import list_transfers

    options = Options.of(ctx, json=json)
    state = options.load().settings.directories.state
    transfers = [
        (directory, summary)
        for directory in Places(state).all()
        for summary in list_transfers(directory)
    ]
    wanted = [JobState.RUNNING, JobState.PENDING, JobState.FAILED]
    if everything:
        wanted.append(JobState.DONE)
    jobs = _jobs(JobStore(state), wanted)
    if options.json:
        for directory, summary in transfers:
            console.emit("transfer", _transfer_fields(directory, summary))
        for job in jobs:
            console.emit("job", _job_fields(job))
        return 0
    _print(transfers, jobs)
    return 0


def _jobs(store: JobStore, states: list[JobState]) -> list[Job]:
    try:
        return [job for state in states for job in store.jobs(state)]
    finally:
        store.close()


def _print(transfers: list[tuple[str, TransferSummary]], jobs: list[Job]) -> None:
    if not transfers and not jobs:
        console.note("nothing is under way, and no job waits")
        return
    if transfers:
        rows = [_transfer_row(directory, summary) for directory, summary in transfers]
        console.table(("STATE", "DONE", "CHUNKS", "SIZE", "SOURCE", "IN"), rows)
    if jobs:
        if transfers:
            console.out("")
        console.table(("JOB", "STATE", "SOURCE", "TO", "WHY"), [_job_row(job) for job in jobs])


def _state(summary: TransferSummary) -> str:
    from chunkq.protocol.transfer_events import Phase

    if summary.problem:
        return "damaged"
    phase = Phase(summary.phase).name.lower() if summary.phase else "opening"
    return phase if summary.locked else "stopped"


def _transfer_row(directory: str, summary: TransferSummary) -> tuple[str, ...]:
    from chunkq.cli.progress import size_text

    total = summary.chunks_total
    percent = f"{100 * summary.chunks_present // total}%" if total else "-"
    return (
        _state(summary),
        percent,
        f"{summary.chunks_present}/{total}" if total else "-",
        size_text(summary.size_bytes) if total else "-",
        f"{summary.site}:{summary.share}/{summary.path}",
        directory,
    )


def _job_row(job: Job) -> tuple[str, ...]:
    return (job.job_id, job.state, " ".join(job.sources), job.destination, job.error_message)


def _transfer_fields(directory: str, summary: TransferSummary) -> dict[str, object]:
    return {
        "transfer": summary.transfer_id,
        "state": _state(summary),
        "source": f"{summary.site}:{summary.share}/{summary.path}",
        "directory": directory,
        "bytes_present": summary.bytes_present,
        "size_bytes": summary.size_bytes,
        "chunks_present": summary.chunks_present,
        "chunks_total": summary.chunks_total,
        "created_ms": summary.created_ms,
        "modified_ms": summary.modified_ms,
        "problem": summary.problem,
    }


def _job_fields(job: Job) -> dict[str, object]:
    return {
        "job": job.job_id,
        "state": job.state,
        "sources": list(job.sources),
        "destination": job.destination,
        "created_ms": job.created_ms,
        "attempts": job.attempts,
        "error": job.error_code,
        "message": job.error_message,
    }
