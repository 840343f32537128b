"""What an operator sees and does: the same for the command line and the page."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Final

from chunkq.api.acting import Action, Actions, Send
from chunkq.api.board import Board, frozen_out
from chunkq.api.commands import Commands
from chunkq.api.judging import Around
from chunkq.api.lists import choose
from chunkq.api.past import Past
from chunkq.api.pieces import pieces_of
from chunkq.api.processes import (
    Processes,
    link_troubles,
    peer_counts,
    refused_views,
    worker_views,
)
from chunkq.api.queues import Queues
from chunkq.api.rows import STAGED
from chunkq.api.views import (
    DeadLetterView,
    Filter,
    LinkView,
    Outcome,
    Page,
    PeerView,
    Pieces,
    Query,
    QueueView,
    RefusedView,
    TransferRow,
    TransferView,
    WorkerView,
)
from chunkq.compose import ref_of
from chunkq.errors import NotFound
from chunkq.protocol.condition import Reason, State
from chunkq.protocol.identity import fingerprint
from chunkq.protocol.names import STAGING_NAME
from chunkq.protocol.report import Report
from chunkq.settings import Registry, Settings
from chunkq.storage.control import Kind
from chunkq.storage.dropping import remove_staging
from chunkq.storage.history import History
from chunkq.storage.instances import instance_labels
from chunkq.storage.jobs import JobStore
from chunkq.storage.journal import Event, Journal
from chunkq.storage.recorder import Recorder
from chunkq.storage.reports import Reports
from chunkq.storage.staging import MANIFEST_SUFFIX, PART_SUFFIX, STATE_SUFFIX
from chunkq.storage.stagingindex import Key, StagingIndex
from chunkq.storage.transfers import read_state

#: The instance of the mailbox that processes of other hosts report to.
STATUS: Final = "status"
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
        self,
        settings: Settings,
        *,
        by: str,
        send: Send | None = None,
        notice: Callable[[str], None] = lambda _: None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`send` reaches processes of other hosts; `notice` hears what a person should know."""
        self.settings = settings
        self.by = by
        self._wall_ns = wall_ns
        state = settings.directories.state
        self._store = JobStore(state, wall_s=lambda: wall_ns() / 1e9)
        self._journal = Journal(state)
        self._reports = Reports(state, wall_s=lambda: wall_ns() / 1e9)
        self._recorder = Recorder(state, self._store, notice=notice, wall_ms=self._now_ms)
        self._past = Past(History(state))
        self._actions = Actions(
            self._store, self._journal, drop=self._drop, send=send, wall_ms=self._now_ms
        )
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
        self._queues = Queues(settings, self._alias_of, wall_ms=self._now_ms)
        self._lock = threading.Lock()
        self._recording = threading.Lock()

    def close(self) -> None:
        self._recorder.close()
        self._store.close()

    # ------------------------------------------------------------ looking

    def refresh(self) -> set[str]:
        """Look at the files again; the ids of transfers that are not as they were.

        Costs what changed, and a `stat` for each directory. Raises `StorageError`.
        """
        with self._lock:
            relink = self._registry.refresh()
            now_ms = self._now_ms()
            self._processes.found(self._reports.look(), now_ms)
            self._processes.forget(now_ms)
            return self._board.refresh(self._around(now_ms), relink=relink)

    def record(self) -> bool:
        """Bring history up to date, unless another process does: then False.

        Raises `StorageError`; nothing is lost by it.
        """
        with self._recording:
            return self._recorder.record()

    def heard(self, report: Report) -> None:
        """A process of another host says how it goes."""
        with self._lock:
            self._processes.heard(report, self._now_ms())

    def rows(self) -> Collection[TransferRow]:
        """Every transfer, in no order."""
        return self._board.rows.values()

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
            return self._ended(transfer_id)
        said = self._board.said(transfer_id)
        seen = self._board.jobs.jobs.get(transfer_id)
        return TransferView(
            row=row,
            pieces=self.pieces(row),
            origins=said.transfer.origins if said is not None else (),
            rates=self._board.rates(transfer_id),
            timeline=self._past.timeline(transfer_id),
            digest=seen.job.content_digest if seen is not None else "",
            staging=_files(self._board.keys(transfer_id)),
            commands=self._commands.of(row),
        )

    def peers(self) -> list[PeerView]:
        """Every pinned peer, by alias."""
        rows = self._board.rows.values()
        states = Counter((row.peer, row.state) for row in rows)
        fetched: Counter[str] = Counter()
        for row in rows:
            fetched[row.peer] += row.done_bytes
        with self._lock:
            counts = peer_counts(self._processes)
            frozen = self._frozen()
            peers = sorted(self._registry.peers.items())
        found = []
        for alias, peer in peers:
            told = counts.get(alias)
            found.append(
                PeerView(
                    alias=alias,
                    address=peer.address,
                    link=peer.link,
                    fingerprint=fingerprint(peer.card),
                    frozen=("peer", alias) in frozen,
                    trouble=peer.detail if peer.trouble else "",
                    active=sum(states[alias, state] for state in _ACTIVE),
                    waiting=sum(states[alias, state] for state in _WAITING),
                    failed=states[alias, State.FAILED],
                    fetched_bytes=fetched[alias],
                    served_bytes=told.sent_bytes if told else 0,
                    requests=told.requests if told else 0,
                    refusals=told.refusals if told else {},
                    heard_ms=told.heard_ms if told else 0,
                )
            )
        return found

    def links(self) -> list[LinkView]:
        """Every link that is configured, by name."""
        with self._lock:
            frozen = self._frozen()
        return [
            LinkView(
                link=name,
                transport=link.transport,
                address=link.safe_url,
                frozen=("link", name) in frozen,
                why=frozen.get(("link", name), ""),
            )
            for name, link in sorted(self.settings.links.items())
        ]

    def workers(self) -> list[WorkerView]:
        """The processes that report; those that are there first."""
        with self._lock:
            return worker_views(self._processes, self._now_ms())

    def refused(self) -> list[RefusedView]:
        """What was refused and dropped, the most first."""
        with self._lock:
            return refused_views(self._processes)

    # ------------------------------------------------------------ links

    async def queues(self) -> list[QueueView]:
        """This site's queues on all links; a link that cannot be looked at says why."""
        with self._lock:
            instances = [each.instance for each in self._processes]
            troubles = link_troubles(self._processes, self._now_ms())
        blocked = {
            link: each.detail
            for link, each in troubles.items()
            if each.reason is Reason.BROKER_BLOCKED
        }
        known = await asyncio.to_thread(instance_labels, self.settings.directories.state)
        return await self._queues.queues(sorted({*instances, *known, STATUS}), blocked)

    async def dead_letters(self) -> list[DeadLetterView]:
        """Requests to this site that no worker could take, counted by sender and reason."""
        return await self._queues.dead_letters()

    async def requeue(self, link: str, sender: str, reason: str, by: str = "") -> int:
        """Give them another chance; empty words mean all. How many. Raises `ChunkqError`."""
        count = await self._queues.requeue(link, sender, reason)
        detail = _told_of(count, sender, reason)
        if count:
            await asyncio.to_thread(self._tell, "dead_letters_requeued", link, by, detail)
        return count

    async def discard(self, link: str, sender: str, reason: str, by: str = "") -> int:
        """Remove them for good; empty words mean all. How many. Raises `ChunkqError`."""
        count = await self._queues.discard(link, sender, reason)
        detail = _told_of(count, sender, reason)
        if count:
            await asyncio.to_thread(self._tell, "dead_letters_discarded", link, by, detail)
        return count

    # ------------------------------------------------------------ what was

    def history(self, query: Query) -> Page[TransferRow]:
        """Transfers that ended. Reads a file."""
        return self._past.transfers(query)

    def audit(self, page: int, rows: int) -> Page[Event]:
        """Who did what, the latest first. Reads a file."""
        return self._past.audit(page, rows)

    # ------------------------------------------------------------ acting

    def pause(self, wanted: Filter, by: str = "") -> Outcome:
        """Let them rest, with all that has come."""
        return self._act(wanted, "pause", by)

    def resume(self, wanted: Filter, by: str = "") -> Outcome:
        """Let a worker go on with those that are paused."""
        return self._act(wanted, "resume", by)

    def retry(self, wanted: Filter, by: str = "") -> Outcome:
        """Try again what failed or was cancelled."""
        return self._act(wanted, "retry", by)

    def cancel(self, wanted: Filter, by: str = "", *, drop: bool = False) -> Outcome:
        """Give them up; `drop`: with what has come."""
        return self._act(wanted, "cancel", by, drop=drop)

    def prioritise(self, wanted: Filter, word: str, by: str = "") -> Outcome:
        """`urgent`, `normal` or `bulk`. Raises `UsageError` for other words."""
        return self._act(wanted, "priority", by, word=word)

    def freeze(self, kind: Kind, name: str, by: str = "", why: str = "") -> None:
        """Ask nothing of a peer, or over a link, from now on. Raises `NotFound`."""
        self._check_known(kind, name)
        self._store.control.freeze(kind, name, by or self.by, why)

    def thaw(self, kind: Kind, name: str, by: str = "") -> bool:
        """Go on with it; False if it was not frozen."""
        return self._store.control.thaw(kind, name, by or self.by)

    def drain(self, instance: str, by: str = "") -> None:
        """Let a process take nothing new, finish what it has, and end. Raises `NotFound`."""
        with self._lock:
            process = next((each for each in self._processes if each.instance == instance), None)
        if process is None:
            raise NotFound(
                f"no process here is called {instance!a}", hint="chunkq status --workers"
            )
        if not process.here:
            raise NotFound(f"{instance} is on {process.report.host}: drain it there")
        self._store.control.drain(instance, by or self.by)

    # ------------------------------------------------------------ inside

    def _act(
        self, wanted: Filter, action: Action, by: str, *, word: str = "", drop: bool = False
    ) -> Outcome:
        rows = list(self._board.rows.values())
        return self._actions.act(rows, wanted, action, by or self.by, word=word, drop=drop)

    def _tell(self, what: str, subject: str, by: str, detail: str = "") -> None:
        self._journal.add(
            Event(at_ms=self._now_ms(), what=what, subject=subject, by=by or self.by, detail=detail)
        )

    def _check_known(self, kind: Kind, name: str) -> None:
        if kind == "peer":
            self._registry.peer(name)
        else:
            self.settings.link(name)

    def _drop(self, transfer_id: str) -> None:
        key = self._board.key(STAGED + transfer_id)
        if key is None:
            raise NotFound(f"nothing is in staging as {transfer_id}")
        remove_staging(*key)

    def _ended(self, transfer_id: str) -> TransferView:
        """One that only history knows."""
        found = self._past.find(transfer_id)
        if found is None:
            raise NotFound(
                f"there is no transfer {transfer_id!a}", hint="chunkq status --all lists them"
            )
        row, digest = found
        return TransferView(row=row, timeline=self._past.timeline(transfer_id), digest=digest)

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
        """What is frozen, and a sentence about it."""
        return {
            thing: " ".join(filter(None, (f"by {each.by}" if each.by else "", each.why)))
            for thing, each in self._store.control.frozen().items()
        }

    def _alias_of(self, key: bytes) -> str | None:
        peer = self._registry.peer_by_key(key)
        return None if peer is None else peer.alias

    def _first_id(self, alias: str) -> bytes | None:
        peer = self._registry.peers.get(alias)
        return None if peer is None else ref_of(peer).first_id

    def pieces(self, row: TransferRow) -> Pieces | None:
        """From the bitmap on disk; a finished file has none any more, and needs none.

        Reads a file. None where there is none to read.
        """
        key = None if row.tree else self._board.key(row.id)
        if key is None:
            return None
        state = read_state(*key)
        if state is None or not state.bitmap.count:
            return None
        said = self._board.said(row.id)
        if said is None or not said.fresh:
            return pieces_of(state.bitmap)
        return pieces_of(state.bitmap, said.transfer.in_flight, said.transfer.failed)


def _told_of(count: int, sender: str, reason: str) -> str:
    words = [f"{count} requests", f"of {sender}" if sender else "", reason]
    return " ".join(filter(None, words))


def _files(keys: list[Key]) -> tuple[str, ...]:
    """The files of these transfers that are there."""
    stems = [os.path.join(directory, STAGING_NAME, name) for directory, name in keys]
    found = [stem + end for stem in stems for end in (PART_SUFFIX, STATE_SUFFIX, MANIFEST_SUFFIX)]
    return tuple(path for path in found if os.path.lexists(path))


__all__ = ["STAGED", "Operations"]
