"""Which job belongs to what is in staging: both are told apart by source and destination alone."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator

from chunkq.api.source import Source
from chunkq.errors import ChunkqError
from chunkq.storage.job import Job
from chunkq.storage.stagingindex import Key
from chunkq.storage.transferid import transfer_id
from chunkq.storage.transfers import TransferSummary


class Links:
    """Jobs by where their staging is. `first_id`: of a peer by its alias, None if it is unknown."""

    def __init__(self, first_id: Callable[[str], bytes | None]) -> None:
        self._first_id = first_id
        self._files: dict[Key, set[str]] = defaultdict(set)
        #: Trees have all their files in one staging directory.
        self._trees: dict[str, dict[str, Source]] = defaultdict(dict)
        self._places: dict[str, Key | str] = {}
        #: What a job's transfer is called until it has the job, and the jobs by that.
        self._called: dict[str, str] = {}
        self._callers: dict[str, set[str]] = defaultdict(set)

    def add(self, job: Job) -> None:
        """Link a job; a second time does nothing, as neither source nor destination changes."""
        if job.job_id in self._places or not job.sources:
            return
        try:
            source = Source.parse(job.sources[0])
        except ChunkqError:
            return  # edited by hand; whoever takes it says what is wrong
        where = os.path.abspath(job.destination)
        directory, name = os.path.split(where)
        try:
            origin = bytes.fromhex(job.origin) or self._first_id(source.peer)
        except ValueError:
            origin = None
        called = None
        if origin is not None:
            parts = () if source.tree else (name,)
            called = transfer_id(origin, source.share, source.path, parts)
            self._called[job.job_id] = called
            self._callers[called].add(job.job_id)
        if source.tree:
            self._trees[where][job.job_id] = source
            self._places[job.job_id] = where
        elif called is not None:
            key = directory, called
            self._files[key].add(job.job_id)
            self._places[job.job_id] = key

    def drop(self, job_id: str) -> None:
        """The job is gone."""
        place = self._places.pop(job_id, None)
        if isinstance(place, str):
            self._trees[place].pop(job_id, None)
            if not self._trees[place]:
                del self._trees[place]
        elif place is not None:
            self._files[place].discard(job_id)
            if not self._files[place]:
                del self._files[place]
        called = self._called.pop(job_id, None)
        if called is not None:
            self._callers[called].discard(job_id)
            if not self._callers[called]:
                del self._callers[called]

    def place(self, job_id: str) -> Key | str | None:
        """Where its staging is: that of a file, or the directory of a tree."""
        return self._places.get(job_id)

    def jobs(self, key: Key, staged: TransferSummary | None) -> Iterator[str]:
        """The jobs that what is in staging belongs to; None: it is gone."""
        if key in self._files:
            yield from self._files[key]
            return
        for job_id, source in self._trees.get(key[0], {}).items():
            if staged is None or _within(staged, source):
                yield job_id

    def called(self, transfer: str) -> Iterator[str]:
        """The jobs whose transfer was called so while it had none."""
        return iter(self._callers.get(transfer, ()))

    def destination(self, key: Key, staged: TransferSummary) -> str:
        """The path of a file that is no job's, if it keeps its name; else its directory."""
        origin = self._first_id(staged.site)
        name = staged.path.rpartition("/")[2]
        same = origin is not None and name
        if same and transfer_id(origin or b"", staged.share, staged.path, (name,)) == key[1]:
            return os.path.join(key[0], name)
        return key[0]


def _within(staged: TransferSummary, source: Source) -> bool:
    below = not source.path or staged.path.startswith(f"{source.path}/")
    return below and (staged.site, staged.share) == (source.peer, source.share)
