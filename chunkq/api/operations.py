"""What an operator sees and does: the same for the command line and the page."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from chunkq.api.board import Board, frozen_out
from chunkq.api.commands import Commands
from chunkq.api.judging import Around
from chunkq.api.lists import choose
from chunkq.api.pieces import pieces_of
from chunkq.api.processes import (
    Processes,
    origin_views,
    peer_counts,
    refused_views,
    worker_views,
)
from chunkq.api.rows import STAGED
from chunkq.api.views import (
    Page,
    PeerView,
    Pieces,
    Query,
    RefusedView,
    TransferRow,
    TransferView,
    WorkerView,
)
from chunkq.compose import ref_of
from chunkq.errors import NotFound
from chunkq.protocol.condition import State
from chunkq.protocol.identity import fingerprint
from chunkq.protocol.names import STAGING_NAME
from chunkq.protocol.report import Report
from chunkq.settings import Registry, Settings
from chunkq.storage.jobs import JobStore
from chunkq.storage.staging import MANIFEST_SUFFIX, PART_SUFFIX, STATE_SUFFIX
from chunkq.storage.stagingindex import Key, StagingIndex
from chunkq.storage.transfers import read_state

_ACTIVE: Final = frozenset(
    {State.OPENING, State.RUNNING, State.RECOVERING, State.VERIFYING, State.PUBLISHING}
)
_WAITING: Final = frozenset({State.QUEUED, State.PAUSED, State.STALLED})


class Operations:
    """One site, as an operator has it in view. `by`: who acts, for the audit.

    `refresh`, `transfer` and all that acts read files and block: call them in a thread. The others
    read what the last refresh left, in memory. May be used from several threads. Raises
    `ChunkqError` only. Close it.
    """

    def __init__(
        self, settings: Settings, *, by: str, wall_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.settings = settings
        self.by = by
        self._wall_ns = wall_ns
        state = settings.directories.state
        self._store = JobStore(state)
        self._registry = Registry(settings.directories)
        self._processes = Processes()
        self._commands = Commands(settings.directories)
        self._board = Board(
            self._store,
            StagingIndex(state, wall_ns),
            self._processes,
            self._first_id,
            wall_ns=wall_ns,
        )
        self._lock = threading.Lock()

    def close(self) -> None:
        self._store.close()

    # ------------------------------------------------------------ looking

    def refresh(self) -> set[str]:
        """Look at the files again; the ids of transfers that are not as they were.

        Costs what changed, and a `stat` for each directory. Raises `StorageError`.
        """
        with self._lock:
            relink = self._registry.refresh()
            now_ms = self._now_ms()
            self._processes.forget(now_ms)
            return self._board.refresh(self._around(now_ms), relink=relink)

    def heard(self, report: Report) -> None:
        """A process of another host says how it goes."""
        with self._lock:
            self._processes.heard(report, self._now_ms())

    def counts(self) -> Mapping[State, int]:
        """How many transfers are in each state; states that none is in may be missing."""
        return self._board.counts

    def transfers(self, query: Query) -> Page[TransferRow]:
        """A page of the list, filtered and sorted."""
        return choose(self._board.rows.values(), query)

    def transfer(self, transfer_id: str) -> TransferView:
        """One transfer in full. Reads its bitmap. Raises `NotFound`."""
        row = self._board.rows.get(transfer_id)
        if row is None:
            raise NotFound(
                f"there is no transfer {transfer_id!a}", hint="`chunkq status --all` lists them"
            )
        said = self._board.said(transfer_id)
        seen = self._board.jobs.jobs.get(transfer_id)
        return TransferView(
            row=row,
            pieces=self._pieces(row),
            origins=origin_views(said.transfer) if said is not None else (),
            rates=self._board.rates(transfer_id),
            digest=seen.job.content_digest if seen is not None else "",
            staging=_files(self._board.keys(transfer_id)),
            commands=self._commands.of(row),
        )

    def peers(self) -> list[PeerView]:
        """Every pinned peer, by alias."""
        rows = self._board.rows.values()
        with self._lock:
            counts = peer_counts(self._processes)
            frozen = self._frozen()
            peers = sorted(self._registry.peers.items())
        found = []
        for alias, peer in peers:
            told = counts.get(alias)
            own = [row for row in rows if row.peer == alias]
            found.append(
                PeerView(
                    alias=alias,
                    address=peer.address,
                    link=peer.link,
                    fingerprint=fingerprint(peer.card),
                    frozen=("peer", alias) in frozen,
                    trouble=peer.detail if peer.trouble else "",
                    active=sum(row.state in _ACTIVE for row in own),
                    waiting=sum(row.state in _WAITING for row in own),
                    failed=sum(row.state is State.FAILED for row in own),
                    fetched_bytes=sum(row.done_bytes for row in own),
                    served_bytes=told.sent_bytes if told else 0,
                    requests=told.requests if told else 0,
                    refusals=told.refusals if told else {},
                    heard_ms=told.heard_ms if told else 0,
                )
            )
        return found

    def workers(self) -> list[WorkerView]:
        """The processes that report; those that are there first."""
        with self._lock:
            return worker_views(self._processes, self._now_ms())

    def refused(self) -> list[RefusedView]:
        """What was refused and dropped, the most first."""
        with self._lock:
            return refused_views(self._processes)

    # ------------------------------------------------------------ inside

    def _now_ms(self) -> int:
        return self._wall_ns() // 1_000_000

    def _around(self, now_ms: int) -> Around:
        peers = self._registry.peers
        takers = [
            process.report
            for process in self._processes
            if process.report.role == "requester" and process.fresh(now_ms)
        ]
        return Around(
            now_ms=now_ms,
            workers=any(not each.draining for each in takers),
            held_up=frozen_out(
                {alias: peer.link for alias, peer in peers.items()},
                {alias: peer.detail for alias, peer in peers.items() if peer.trouble},
                self._frozen(),
            ),
        )

    def _frozen(self) -> Mapping[tuple[str, str], str]:
        return {}

    def _first_id(self, alias: str) -> bytes | None:
        peer = self._registry.peers.get(alias)
        return None if peer is None else ref_of(peer).first_id

    def _pieces(self, row: TransferRow) -> Pieces | None:
        """From the bitmap on disk; a finished file has none any more, and needs none."""
        key = None if row.tree else self._board.key(row.id)
        if key is None:
            return None
        state = read_state(*key)
        if state is None or not state.bitmap.count:
            return None
        said = self._board.said(row.id)
        return pieces_of(state.bitmap, said.transfer.in_flight if said and said.fresh else ())


def _files(keys: list[Key]) -> tuple[str, ...]:
    """The files of these transfers that are there."""
    stems = [os.path.join(directory, STAGING_NAME, name) for directory, name in keys]
    found = [stem + end for stem in stems for end in (PART_SUFFIX, STATE_SUFFIX, MANIFEST_SUFFIX)]
    return tuple(path for path in found if os.path.lexists(path))


__all__ = ["STAGED", "Operations"]
