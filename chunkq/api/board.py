"""All transfers of a state directory as rows, kept up to date at the cost of what changed."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Final

from chunkq.api.judging import Around, Said
from chunkq.api.links import Links
from chunkq.api.processes import Processes
from chunkq.api.rows import STAGED, Staged, job_row, said_row, staged_row, with_said
from chunkq.api.views import TransferRow
from chunkq.protocol.condition import Reason, State
from chunkq.storage.job import Job, JobState
from chunkq.storage.jobfiles import JobFiles
from chunkq.storage.jobindex import JobIndex
from chunkq.storage.locks import locked_inodes
from chunkq.storage.staging import TRANSFER_ID
from chunkq.storage.stagingindex import Key, StagingIndex

#: Rates are remembered for so long, of transfers that a process tells of.
RATES_MS: Final = 600_000
#: One rate in so long is kept: three hundred points make a curve.
RATE_STEP_MS: Final = 2_000


class Board:
    """The rows, by id. `refresh` blocks; everything else reads memory. One thread at a time.

    `processes`: what they say, filled by the caller. `first_id`: see `Links`.
    """

    def __init__(
        self,
        store: JobFiles,
        staging: StagingIndex,
        processes: Processes,
        first_id: Callable[[str], bytes | None],
        *,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.jobs = JobIndex(store, wall_ns)
        self.staging = staging
        self._processes = processes
        self._first_id = first_id
        self._links = Links(first_id)
        self._around = Around()
        self._said: dict[str, Said] = {}
        self._running: set[str] = set()
        #: Rows of what is in staging and seems to be in somebody's hands: time may tell otherwise.
        self._unsure: set[Key] = set()
        self._rates: dict[str, deque[tuple[int, int]]] = {}
        self._only_said: AbstractSet[str] = frozenset()
        #: The rows at the last refresh; a new mapping each time, so that readers have their own.
        self.rows: Mapping[str, TransferRow] = MappingProxyType({})
        self.counts: Mapping[State, int] = MappingProxyType({})

    def refresh(self, around: Around, *, relink: bool = False) -> set[str]:
        """Bring the rows up to date; the ids of those that are not as they were.

        `relink`: peers are not who they were. Raises `StorageError`.
        """
        # Before the files: who takes a job locks it first, and who leaves it unlocks it last.
        locked = locked_inodes()
        changed_jobs = self.jobs.refresh()
        changed_staging = self.staging.refresh(locked)
        if relink:
            self._links = Links(self._first_id)
            changed_jobs = changed_jobs | self.jobs.jobs.keys()
            changed_staging = changed_staging | self.staging.transfers.keys()
        touched = changed_staging | self._link(changed_jobs)
        dirty = changed_jobs | {
            job_id
            for key in changed_staging
            for job_id in self._links.jobs(key, self.staging.transfers.get(key))
        }
        dirty |= self._hear(around.now_ms) | self._running
        if _differ(around, self._around):
            dirty |= {
                id_ for id_, seen in self.jobs.jobs.items() if seen.job.state is JobState.PENDING
            }
        self._around = around
        rows = dict(self.rows)
        changed = self._set(rows, {each: self._job_row(each, locked) for each in dirty})
        changed |= self._set(rows, self._staged_rows(touched))
        changed |= self._set(rows, self._rows_said(rows))
        if changed:
            self.rows = MappingProxyType(rows)
            self.counts = MappingProxyType(Counter(row.state for row in rows.values()))
        return changed

    def key(self, row_id: str) -> Key | None:
        """Where a transfer of one file has its staging; None for trees, and where it is unknown."""
        place = self._links.place(row_id)
        if isinstance(place, tuple):
            return place
        if place is None and row_id.startswith(STAGED):
            wanted = row_id.removeprefix(STAGED)
            return next((key for key in self.staging.transfers if key[1] == wanted), None)
        return None

    def keys(self, row_id: str) -> list[Key]:
        """What of a transfer is in staging now."""
        return [key for key, _ in self._staged(row_id).files] or [
            key for key in (self.key(row_id),) if key in self.staging.transfers and key
        ]

    def said(self, row_id: str) -> Said | None:
        """What a process says of it."""
        return self._said.get(row_id)

    def rates(self, row_id: str) -> list[tuple[int, int]]:
        """Bytes a second at the last moments, oldest first."""
        return list(self._rates.get(row_id, ()))

    # ------------------------------------------------------------ inside

    def _link(self, changed: AbstractSet[str]) -> set[Key]:
        """Note which jobs there are now; what in staging is, or was, one of these'."""
        touched: set[Key] = set()
        for job_id in changed:
            seen = self.jobs.jobs.get(job_id)
            if seen is not None:
                self._links.add(seen.job)
            place = self._links.place(job_id)
            if isinstance(place, str):
                touched.update(self.staging.within(place))
            elif place is not None:
                touched.add(place)
            if seen is None:
                self._links.drop(job_id)
            if seen is not None and seen.job.state is JobState.RUNNING:
                self._running.add(job_id)
            else:
                self._running.discard(job_id)
        return touched

    def _hear(self, now_ms: int) -> set[str]:
        """Take what the processes say; the transfers of which they say something else."""
        said = {
            _row_id(told.transfer): Said(told, process, process.fresh(now_ms))
            for process, told in self._processes.transfers()
        }
        before, self._said = self._said, said
        for transfer, each in said.items():
            if each.fresh:
                self._remember_rate(transfer, each)
        for transfer in [id_ for id_, known in self._rates.items() if _old(known, now_ms)]:
            del self._rates[transfer]
        return {
            each
            for each in before.keys() | said.keys()
            if each in self.jobs.jobs and _otherwise(before.get(each), said.get(each))
        }

    def _remember_rate(self, transfer: str, said: Said) -> None:
        known = self._rates.setdefault(transfer, deque(maxlen=RATES_MS // RATE_STEP_MS))
        at_ms = said.process.heard_ms
        if not known or at_ms - known[-1][0] >= RATE_STEP_MS:
            known.append((at_ms, said.transfer.rate_bytes_per_s))

    def _staged(self, job_id: str) -> Staged:
        place = self._links.place(job_id)
        found = Staged()
        if isinstance(place, tuple) and place in self.staging.transfers:
            found.files.append((place, self.staging.transfers[place]))
        elif isinstance(place, str):
            found.files += [
                (key, self.staging.transfers[key])
                for key in self.staging.within(place)
                if job_id in self._links.jobs(key, self.staging.transfers[key])
            ]
        return found

    def _job_row(self, job_id: str, locked: set[tuple[int, int]]) -> TransferRow | None:
        seen = self.jobs.jobs.get(job_id)
        if seen is None:
            return None
        staged, said = self._staged(job_id), self._said.get(job_id)
        return job_row(seen, staged, said, seen.lock in locked, self._around)

    def _staged_rows(self, touched: AbstractSet[Key]) -> dict[str, TransferRow | None]:
        keys = touched | self._unsure
        self._unsure.clear()
        return {STAGED + key[1]: self._staged_row(key) for key in keys}

    def _staged_row(self, key: Key) -> TransferRow | None:
        """None if it is a job's that is not over."""
        staged = self.staging.transfers.get(key)
        if staged is None:
            return None
        jobs = self._known(self._links.jobs(key, staged))
        if any(job.state is not JobState.DONE for job in jobs):
            return None
        row = staged_row(key, staged, self._links.destination(key, staged), self._around)
        if row.state is not State.PAUSED:
            self._unsure.add(key)
        return row

    def _has_its_job(self, row_id: str, said: Said) -> bool:
        """It was given one after this was said, and the next report will call it by that."""
        if not said.process.here:
            return False
        jobs = self._known(self._links.called(row_id.removeprefix(STAGED)))
        return any(job.created_ms >= said.process.report.started_ms for job in jobs)

    def _known(self, job_ids: Iterable[str]) -> Iterator[Job]:
        """Those of the jobs that are there."""
        return (seen.job for each in job_ids if (seen := self.jobs.jobs.get(each)) is not None)

    def _rows_said(self, rows: Mapping[str, TransferRow]) -> dict[str, TransferRow | None]:
        """Rows that rest on what processes say alone, and those that did and do no more."""
        only_said = {
            each
            for each, said in self._said.items()
            if each not in self.jobs.jobs and not self._has_its_job(each, said)
        }
        gone = (self._only_said & rows.keys()) - only_said - self.jobs.jobs.keys()
        # what is in staging is told of as nobody's
        keys = {row_id: self.key(row_id) for row_id in gone}
        found = {row_id: key and self._staged_row(key) for row_id, key in keys.items()}
        self._only_said = only_said
        for row_id in self._only_said:
            said = self._said[row_id]
            known = rows.get(row_id) if row_id.startswith(STAGED) else None
            if known is not None:
                found[row_id] = with_said(known, said)
            elif said.fresh or not said.process.here:
                found[row_id] = said_row(row_id, said)
            else:
                found[row_id] = None
        return found

    @staticmethod
    def _set(rows: dict[str, TransferRow], new: Mapping[str, TransferRow | None]) -> set[str]:
        """Put rows in, take those that are None out; the ids of what differs."""
        changed = set()
        for row_id, row in new.items():
            if rows.get(row_id) == row:
                continue
            changed.add(row_id)
            if row is None:
                del rows[row_id]
            else:
                rows[row_id] = row
        return changed


def _row_id(transfer: str) -> str:
    """What a process calls a transfer that is no job's is what its staging is called."""
    return STAGED + transfer if TRANSFER_ID.fullmatch(transfer) else transfer


def frozen_out(
    links: Mapping[str, str],
    troubles: Mapping[str, str],
    frozen: Mapping[tuple[str, str], str],
) -> dict[str, tuple[Reason, str]]:
    """Peers of whom nothing is begun. `links`: of each peer; `frozen`: who did so and why."""
    found: dict[str, tuple[Reason, str]] = {}
    for peer, link in links.items():
        if ("peer", peer) in frozen:
            found[peer] = Reason.PEER_FROZEN, frozen["peer", peer]
        elif ("link", link) in frozen:
            found[peer] = Reason.LINK_FROZEN, frozen["link", link]
        elif troubles.get(peer):
            found[peer] = Reason.PEER_DISTRUSTED, troubles[peer]
    return found


def _differ(one: Around, other: Around) -> bool:
    return (one.workers, one.held_up) != (other.workers, other.held_up)


def _old(rates: deque[tuple[int, int]], now_ms: int) -> bool:
    return now_ms - rates[-1][0] > RATES_MS


def _otherwise(one: Said | None, other: Said | None) -> bool:
    if one is None or other is None:
        return True
    return one.fresh != other.fresh or one.transfer != other.transfer
