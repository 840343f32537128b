"""Removing what has come of a job that was given up: its staging, and nothing that is published."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from chunkq.errors import StorageError, TransferBusy
from chunkq.storage.destination import Destination
from chunkq.storage.job import Job
from chunkq.storage.staging import Staging
from chunkq.storage.transferid import transfer_id
from chunkq.storage.transfers import list_transfers


def drop_staging(job: Job) -> int:
    """Remove the staging of a job's file, or of all unfinished files of its tree; how many.

    What another process works on stays. Raises `StorageError`.
    """
    dropped = 0
    for directory, name in list(staged_by(job)):
        with suppress(TransferBusy):
            remove_staging(directory, name)
            dropped += 1
    return dropped


def remove_staging(directory: str, transfer_id: str) -> None:
    """Remove what is in staging of one file. Raises `TransferBusy`, `StorageError`."""
    with Destination.for_tree(directory, create=False) as destination:
        Staging(destination, transfer_id).remove()


def staged_by(job: Job) -> Iterator[tuple[str, str]]:
    """`(directory, transfer id)` of what the job has in staging now."""
    if not job.sources or not job.origin:
        return
    peer, _, rest = job.sources[0].partition(":")
    share, _, path = rest.partition("/")
    tree = not path or path.endswith("/")
    path = path.rstrip("/")
    directory = job.destination if tree else os.path.dirname(job.destination)
    try:
        origin = bytes.fromhex(job.origin)
        summaries = list_transfers(directory)
    except (ValueError, StorageError):
        return
    own = (os.path.basename(job.destination),)
    for each in summaries:
        if tree and (each.site, each.share) != (peer, share):
            continue
        below = each.path.removeprefix(f"{path}/") if path else each.path
        at, parts = (each.path, tuple(below.split("/"))) if tree else (path, own)
        with suppress(UnicodeError):
            if transfer_id(origin, share, at, parts) == each.transfer_id:
                yield directory, each.transfer_id
