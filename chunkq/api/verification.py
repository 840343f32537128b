"""Received files compared with what was received, and mended."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from chunkq.api.source import Source
from chunkq.api.transfer import PROGRESS_S, Transfer, Wanted
from chunkq.errors import (
    BrokerRefused,
    ChunkqError,
    DestinationExists,
    IdentityError,
    NotFound,
    OtherVersion,
    PeerDistrusted,
    StorageError,
    Unreachable,
)
from chunkq.protocol import cbor
from chunkq.protocol.checking import Checked, Instead, Received, Verdict
from chunkq.protocol.limits import MAX_SMALL_FILE_SIZE_BYTES
from chunkq.runtime.verifying import FileNow, KeptManifest, Standing, Verifying
from chunkq.storage.filecheck import Tree
from chunkq.storage.kept import KeptManifests
from chunkq.storage.kinds import Kind, identity_of, kind_of
from chunkq.storage.marks import MarksFile
from chunkq.storage.mending import Mend
from chunkq.storage.received import ReceivedLog
from chunkq.storage.wallclock import wall_ms

#: Errors that concern all files of that peer: the others are not tried.
FATAL: Final = (Unreachable, BrokerRefused, IdentityError, PeerDistrusted)
#: Small files that are mended at once: each is a few round trips.
AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Mending:
    """How to repair: `fetch` begins the transfer of one file."""

    fetch: Callable[[Wanted], Transfer]
    overwrite: bool
    patience_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was found. `counts`: files by verdict, before any repair.

    `wrong`: those that are not as received, still; `repaired` are again. `unknown`: paths that are
    there and were not received. `resumed`: files that an earlier run had compared. `failures`: why
    a file could not be repaired. `new_bytes` were fetched for that.
    """

    files: int
    bytes_total: int
    counts: Mapping[Verdict, int]
    wrong: tuple[Checked, ...] = ()
    repaired: tuple[Checked, ...] = ()
    unknown: tuple[str, ...] = ()
    resumed: int = 0
    failures: tuple[tuple[str, ChunkqError], ...] = ()
    new_bytes: int = 0


@dataclass(slots=True)
class _Place:
    """A path that was named: the directory below which no link is followed, and what to expect."""

    tree: Tree
    expected: dict[str, Received]
    whole: bool


@dataclass(slots=True)
class _Outcome:
    """What comes of the repairs."""

    repaired: list[Checked] = field(default_factory=list)
    failures: list[tuple[str, ChunkqError]] = field(default_factory=list)
    new_bytes: int = 0
    #: Peers of which nothing is to be had, and why.
    lost: dict[str, ChunkqError] = field(default_factory=dict)


class Verification:
    """A comparison under way. Iterate it for its `Standing`, await it for `Verified`, `cancel` it.

    What was compared and fetched before a cancellation stays; the same call goes on from there.
    """

    def __init__(
        self,
        state_dir: str | os.PathLike[str],
        paths: Sequence[str],
        *,
        mending: Mending | None = None,
        anew: bool = False,
        on_checked: Callable[[Checked], None] | None = None,
    ) -> None:
        self._paths = sorted({os.path.abspath(path) for path in paths})
        self._log = ReceivedLog(state_dir)
        self._kept = KeptManifests(state_dir)
        self._mending = mending
        self._anew = anew
        self._on_checked = on_checked
        self._places: list[_Place] = []
        self._found: dict[str, Checked] = {}
        self._counts: Counter[Verdict] = Counter()
        self._files = 0
        self._outcome = _Outcome()
        self._marks = MarksFile(
            state_dir,
            self._paths,
            wall_ms=wall_ms,
            monotonic_s=time.monotonic,
        )
        self._loop = asyncio.get_running_loop()
        self._verifying = Verifying(self._open, self._load, self._marks, self._note)
        #: The file that is being repaired.
        self.repairing: Transfer | None = None
        self._task = asyncio.ensure_future(self._run())

    def cancel(self) -> None:
        """Stop resumably, and end as cancelled."""
        self._task.cancel()

    async def ended(self) -> None:
        """Wait until it is over, however it ends. Raises nothing."""
        await asyncio.wait((self._task,))

    def __await__(self) -> Generator[Any, None, Verified]:
        return self._task.__await__()

    async def __aiter__(self) -> AsyncIterator[Standing]:
        """Where it stands, now and then. Raises nothing: await it for that."""
        while not self._task.done():
            yield self.standing
            await asyncio.wait((self._task,), timeout=PROGRESS_S)
        yield self.standing

    @property
    def standing(self) -> Standing:
        return self._verifying.standing

    # ------------------------------------------------------------ comparing

    async def _run(self) -> Verified:
        comparing = asyncio.ensure_future(asyncio.to_thread(self._compare))
        try:
            unknown = await asyncio.shield(comparing)
        except asyncio.CancelledError:
            self._verifying.stop()
            await asyncio.wait((comparing,))
            comparing.exception()
            raise
        if self._mending is not None:
            await self._repair_all(self._mending)
        repaired = {checked.path for checked in self._outcome.repaired}
        wrong = tuple(each for path, each in self._found.items() if path not in repaired)
        with suppress(StorageError):
            await asyncio.to_thread(self._marks.finish if wrong else self._marks.remove)
        return Verified(
            files=self._files,
            bytes_total=self.standing.bytes_total,
            counts=dict(self._counts),
            wrong=wrong,
            repaired=tuple(self._outcome.repaired),
            unknown=unknown,
            resumed=self.standing.resumed,
            failures=tuple(self._outcome.failures),
            new_bytes=self._outcome.new_bytes,
        )

    def _compare(self) -> tuple[str, ...]:
        """Compare all; returns what is there and was not received. Blocks."""
        for path in self._paths:
            self._places += self._look(path)
        with suppress(StorageError):  # without them all is compared
            if self._anew:
                self._marks.remove()
            else:
                self._marks.load(finished_too=self._mending is not None)
        expected = {path: each for place in self._places for path, each in place.expected.items()}
        self._files = len(expected)
        self._verifying.run(expected[path] for path in sorted(expected))
        return tuple(
            path for place in self._places if place.whole for path in place.tree.strangers(expected)
        )

    def _look(self, path: str) -> list[_Place]:
        """What was received at a path and below it, by the name it was got under."""
        whole = os.path.isdir(path)
        places = []
        for name in dict.fromkeys((path, _real(path))):
            if expected := self._log.look(name):
                is_tree = whole or name not in expected
                root = name if is_tree else os.path.dirname(name)
                tree = Tree(root, self._verifying.on_read)
                places.append(_Place(tree, expected, whole))
        if not places:
            raise NotFound(
                f"{path} is not known as received here",
                hint="give the digest to compare with: chunkq verify --blake3 DIGEST FILE",
            )
        return places

    def _place(self, path: str) -> _Place:
        return next(place for place in self._places if path in place.expected)

    def _open(self, path: str) -> FileNow | Instead:
        return self._place(path).tree.open(path)

    def _load(self, entry: Received) -> KeptManifest | None:
        return self._kept.load(entry.path, bytes.fromhex(entry.root))

    def _note(self, checked: Checked) -> None:
        """On the thread that compares."""
        self._counts[checked.verdict] += 1
        if checked.verdict is not Verdict.OK:
            self._found[checked.path] = checked
        if self._on_checked is not None:
            self._loop.call_soon_threadsafe(self._on_checked, checked)

    # ------------------------------------------------------------ repairing

    async def _repair_all(self, mending: Mending) -> None:
        """Small files several at once, the others one by one: each takes its room once more."""
        wanted = [each for each in self._found.values() if _is_to_be_repaired(each, mending)]
        small = [each for each in wanted if each.size_bytes <= MAX_SMALL_FILE_SIZE_BYTES]
        turn = asyncio.Semaphore(AT_ONCE)

        async def repair(checked: Checked) -> None:
            async with turn:
                await self._repair(checked, mending)

        tasks = [asyncio.ensure_future(repair(each)) for each in small]
        try:
            await asyncio.gather(*tasks)
            for each in wanted:
                if each.size_bytes > MAX_SMALL_FILE_SIZE_BYTES:
                    await self._repair(each, mending)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _repair(self, checked: Checked, mending: Mending) -> None:
        place, outcome = self._place(checked.path), self._outcome
        peer = checked.source.partition(":")[0]
        try:
            if peer in outcome.lost:
                raise outcome.lost[peer]
            wanted = await asyncio.to_thread(self._wanted, checked, place, mending)
            result = await self._fetch(mending, wanted)
        except ChunkqError as error:
            if isinstance(error, FATAL):
                outcome.lost[peer] = error
            outcome.failures.append((checked.path, _explained(error, checked)))
            return
        outcome.new_bytes += result
        outcome.repaired.append(replace(checked, verdict=Verdict.OK, detail=""))

    async def _fetch(self, mending: Mending, wanted: Wanted) -> int:
        transfer = self.repairing = mending.fetch(wanted)
        try:
            return (await transfer).new_bytes
        except asyncio.CancelledError:
            transfer.cancel()
            await transfer.ended()
            raise
        finally:
            self.repairing = None

    def _wanted(self, checked: Checked, place: _Place, mending: Mending) -> Wanted:
        """The transfer that mends a file. Blocks."""
        entry = place.expected[checked.path]
        mend = self._mend(checked, entry, place)
        below = Path(place.tree.root)
        return Wanted(
            source=_source(entry.source),
            destination=Path(entry.path),
            overwrite=mend.identity is not None,
            links=False,
            patience_s=mending.patience_s,
            content_digest=mend.content_digest,
            mend=mend,
            below=below,
        )

    def _mend(self, checked: Checked, entry: Received, place: _Place) -> Mend:
        status = place.tree.status(entry.path)
        identity = None if status is None else identity_of(status)
        seen = checked.identity
        if seen is not None and identity is not None and not seen.same_content(identity):
            raise DestinationExists(
                f"{entry.path} was changed since it was compared; it was left as it is",
                hint="run the same command again",
            )
        mend = Mend(
            content_digest=bytes.fromhex(entry.blake3),
            identity=None if checked.verdict is Verdict.MISSING else identity,
            seed=False,
        )
        if status is None or kind_of(status) is not Kind.FILE:
            return mend
        kept = self._load(entry) if entry.root else None
        if kept is None or checked.good is None:
            return replace(mend, seed=entry.size_bytes > MAX_SMALL_FILE_SIZE_BYTES)
        return replace(
            mend,
            seed=True,
            manifest=cbor.encode(kept.manifest),
            root=kept.head.root,
            geometry=kept.head.geometry,
            good=checked.good,
            doubt=not checked.exact,
        )


def forget(state_dir: str | os.PathLike[str], paths: Collection[str]) -> int:
    """Expect nothing any more at these paths and below them; how many files that were. Blocks.

    Raises `NotFound`, `StorageError`.
    """
    log, kept = ReceivedLog(state_dir), KeptManifests(state_dir)
    forgotten: dict[str, None] = {}
    for path in paths:
        found = [entry for name in (os.path.abspath(path), _real(path)) for entry in log.look(name)]
        if not found:
            raise NotFound(f"{path} is not known as received here")
        forgotten.update(dict.fromkeys(found))
    log.forget(forgotten)
    for path in forgotten:
        kept.forget(path)
    return len(forgotten)


def _real(path: str) -> str:
    """The path without links on the way; the last name is left as it is, unless a directory."""
    if os.path.isdir(path) and not os.path.islink(path):
        return os.path.realpath(path)
    parent, name = os.path.split(os.path.abspath(path))
    return os.path.join(os.path.realpath(parent), name)


def _is_to_be_repaired(checked: Checked, mending: Mending) -> bool:
    if checked.verdict is Verdict.CHANGED:
        return mending.overwrite
    return checked.verdict in {Verdict.DAMAGED, Verdict.MISSING}


def _source(text: str) -> Source:
    peer, _, rest = text.partition(":")
    share, _, path = rest.partition("/")
    return Source(peer, share, path, tree=False)


def _explained(error: ChunkqError, checked: Checked) -> ChunkqError:
    """What it means for a repair, and what to do."""
    if isinstance(error, OtherVersion):
        return OtherVersion(
            f"{checked.source}: the origin has another version by now, so this one cannot be"
            " repaired",
            hint=f"get the one that it has: chunkq get --overwrite {checked.source} {checked.path}",
        )
    return error
