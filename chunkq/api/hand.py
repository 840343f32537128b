"""What this process has in hand, and what people want of it: looked at twice a second."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from chunkq.errors import StorageError
from chunkq.ports import Log
from chunkq.protocol.transfer_events import Waiting
from chunkq.settings import Peer
from chunkq.storage.control import Frozen, Kind, Wish
from chunkq.storage.jobs import JobStore
from chunkq.storage.journal import Event, What

if TYPE_CHECKING:
    from chunkq.api.steered import Steered

#: Who presses a button sees its effect within a second; a look that finds nothing is one fstat.
WATCH_S: Final = 0.5
#: Jobs that one process holds open at once, each with a descriptor; transfers beyond that wait for
#: their turn, and get their jobs then.
MAX_HELD: Final = 2000


class Hand:
    """The jobs of one process, below its site's state directory."""

    def __init__(self, state_dir: str | os.PathLike[str], log: Log) -> None:
        self.draining = asyncio.Event()
        self.frozen: Mapping[tuple[Kind, str], Frozen] = {}
        #: What this process is called where people want it to end; empty: nobody can.
        self.instance = ""
        #: Hears that somebody wants that.
        self.on_drain: Callable[[], None] = lambda: None
        self._state_dir = state_dir
        self._log = log
        self._opened: JobStore | None = None
        self._held: dict[str, Steered] = {}
        self._beginning: set[Steered] = set()
        self._waiting: set[Steered] = set()
        self._looked = asyncio.Event()
        #: Jobs are begun one after the other, so that transfers have their turns in that order.
        self.beginning = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None
        self._told = ""

    @property
    def store(self) -> JobStore:
        """The jobs of this site. Raises `StorageError`."""
        if self._opened is None:
            self._opened = JobStore(self._state_dir)
        return self._opened

    async def attend(self, instance: str = "") -> None:
        """Look from now on; returns when the first look is over.

        `instance`: the name under which this process may be asked to end, which nobody has done
        before it had it.
        """
        if instance and not self.instance:
            await asyncio.to_thread(self.store.control.ended, instance)
            self.instance = instance
        if self._watching is None:
            self._watching = asyncio.ensure_future(self._watch())
        await self._looked.wait()

    async def close(self) -> None:
        """All transfers have ended. What people wanted of the process is fulfilled."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait((self._watching,))
        if self._opened is not None:
            if self.instance:
                await self._quietly(self._opened.control.ended, self.instance)
            self._opened.close()
            self._opened = None

    # ------------------------------------------------------------ what is in hand

    @property
    def has_room(self) -> bool:
        return len(self._held) + len(self._beginning) < MAX_HELD

    def watch(self, steered: Steered) -> None:
        """A transfer begins that heeds what is frozen."""
        self._waiting.add(steered)

    def expect(self, steered: Steered) -> None:
        """Its job is being made."""
        self._beginning.add(steered)

    def hold(self, job_id: str, steered: Steered) -> None:
        """It has its job."""
        self._beginning.discard(steered)
        self._held[job_id] = steered

    def let_go(self, job_id: str, steered: Steered) -> None:
        """It has ended."""
        self._waiting.discard(steered)
        self._beginning.discard(steered)
        self._held.pop(job_id, None)

    # ------------------------------------------------------------ what is frozen

    def barred(self, peer: Peer) -> Waiting | None:
        """Why nothing is to be asked of a peer: somebody here has frozen it, or its link."""
        return self.barred_by("peer", peer.alias) or self.barred_by("link", peer.link)

    def barred_by(self, kind: Kind, name: str) -> Waiting | None:
        """The same, of one peer or link."""
        frozen = self.frozen.get((kind, name))
        if frozen is None:
            return None
        by = f" by {frozen.by}" if frozen.by else ""
        why = f": {frozen.why}" if frozen.why else ""
        return Waiting(f"{kind}_frozen", f"the {kind} {name} is frozen here{by}{why}")

    def refuses(self, alias: str, link: str) -> str:
        """What a peer is told that asks over a link while it, or that, is frozen here, or empty.

        Why, and by whom, is nothing for the peer.
        """
        barred = self.barred_by("peer", alias) or self.barred_by("link", link)
        return "frozen here by its operator" if barred is not None else ""

    # ------------------------------------------------------------ looking

    async def _watch(self) -> None:
        while True:
            try:
                self._heed(*await asyncio.to_thread(self._look))
                self._told = ""
            except StorageError as error:
                if self._told != error.message:
                    self._log("control_unreadable", level="warning", detail=error.message)
                self._told = error.message
            self._looked.set()
            await asyncio.sleep(WATCH_S)

    def _look(self) -> tuple[list[Wish], Mapping[tuple[Kind, str], Frozen], set[str]]:
        control = self.store.control
        return control.wishes(), control.frozen(), control.draining()

    def _heed(
        self,
        wishes: list[Wish],
        frozen: Mapping[tuple[Kind, str], Frozen],
        draining: set[str],
    ) -> None:
        if self.instance and self.instance in draining and not self.draining.is_set():
            self._log("draining", instance=self.instance)
            self.draining.set()
            self.on_drain()
        for wish in wishes:
            steered = self._held.get(wish.job_id)
            if steered is not None:
                steered.heed(wish)
        if frozen != self.frozen:
            self.frozen = frozen
            for steered in [*self._waiting]:
                steered.look_at_frozen()

    # ------------------------------------------------------------ telling

    def tell(self, job_id: str, what: What, reason: str, detail: str) -> None:
        """A line of the journal, about a transfer in hand; does not wait for the disk."""
        if job_id not in self._held:
            return
        event = Event(
            at_ms=self.store.now_ms(), what=what, transfer=job_id, reason=reason, detail=detail
        )
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(None, self._add, event)
        writing.add_done_callback(lambda done: done.exception())

    def _add(self, event: Event) -> None:
        self.store.journal.add(event, durable=False)

    async def _quietly(self, work: Callable[[str], None], name: str) -> None:
        try:
            await asyncio.to_thread(work, name)
        except StorageError as error:
            self._log("control_unreadable", level="warning", detail=error.message)
