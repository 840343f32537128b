"""Manifests of an origin's files: from the store, or made now; one hash of a file at a time.

A small file is hashed while its requester waits; for a large one it waits a moment, and is then
told how far it is. Workers of one host share the store and its locks.

Large files have their turns: a few at once, one of a peer, and the peers' next ones in rotation. So
whoever asks for ten thousand of them holds up neither the answers to others nor their hashes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from chunkq.errors import ChunkqError
from chunkq.ports import FileIdentity, HashLock, ManifestStore, SourceFile, StoredManifest
from chunkq.protocol.geometry import Geometry
from chunkq.protocol.identity import SiteKeys
from chunkq.protocol.limits import MIB
from chunkq.protocol.manifest import Head, encode_head, sign_head
from chunkq.protocol.quota import DEFAULT_PENDING_HASHES

#: Up to this size the answer waits for the hash (at 1 GB/s: 30 ms).
INLINE_BYTES: Final = 32 * MIB
#: For a larger one the answer waits so long at most: a fast disk hashes a GiB meanwhile, and else
#: the requester hears soon how far it is. Far below its timer (1 s at the least).
HOLD_S: Final = 0.5
#: Large files hashed at once: half of the threads of a process, so that it goes on serving.
LARGE_AT_ONCE: Final = 2
#: The lock file hears of progress in steps of this size.
PROGRESS_STEP_BYTES: Final = 64 * MIB
#: When to ask again: what remains at the rate of a fast disk, within bounds that keep a person
#: informed. Asking too early costs one small request, too late a part of every first transfer.
FAST_BYTES_PER_S: Final = 2000 * MIB
MIN_RETRY_S: Final = 0.2
MAX_RETRY_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Preparing:
    """A hash is under way: bytes done, of how many, and when to ask again."""

    done_bytes: int
    total_bytes: int

    @property
    def retry_after_ms(self) -> int:
        left_s = (self.total_bytes - self.done_bytes) / FAST_BYTES_PER_S
        return int(1000 * min(max(left_s, MIN_RETRY_S), MAX_RETRY_S))


class Build(Protocol):
    """Hash a source. Raises `SourceChanging`, `StorageError`, `Stopped`."""

    def __call__(
        self,
        source: SourceFile,
        geometry: Geometry,
        on_progress: Callable[[int], None],
        should_stop: Callable[[], bool],
        /,
    ) -> tuple[Head, bytes]: ...


_Key = tuple[FileIdentity, int]
_Reopen = Callable[[], SourceFile]
_T = TypeVar("_T")


class Manifests:
    """The manifests that one worker gives out."""

    def __init__(
        self, *, keys: SiteKeys, store: ManifestStore, build: Build, pool: Executor
    ) -> None:
        self._keys = keys
        self._store = store
        self._build = build
        self._pool = pool
        self._jobs: dict[_Key, asyncio.Future[None]] = {}
        #: Large files that are hashed now, and for whom; and those that wait, by peer.
        self._turns: dict[_Key, str] = {}
        self._waiting: OrderedDict[str, OrderedDict[_Key, _Reopen]] = OrderedDict()
        self._progress: dict[_Key, int] = {}
        self._crash: BaseException | None = None
        self._stopping = False

    def stored(self, source: SourceFile, chunk_size_bytes: int) -> StoredManifest | None:
        """The manifest if it was made before. Blocks. Raises `StorageError`."""
        if self._crash is not None:
            raise self._crash
        return self._store.load(source.identity, chunk_size_bytes)

    async def get(
        self,
        source: SourceFile,
        chunk_size_bytes: int,
        reopen: _Reopen,
        whom: str = "",
        most_waiting: int = DEFAULT_PENDING_HASHES,
    ) -> StoredManifest | Preparing:
        """The manifest of the version that `source` is, or how far its hash is.

        `reopen` opens the file again for a hash that outlives this request; `whom`: the peer that
        asks, of whom so many may wait. Raises `SourceChanging`, `StorageError`.
        """
        identity = source.identity
        key = (identity, chunk_size_bytes)
        stored = await self._in_pool(self.stored, source, chunk_size_bytes)
        if stored is not None:
            return stored
        large = identity.size_bytes > INLINE_BYTES
        job = self._jobs.get(key)
        if job is None and large and not self._has_turn(whom):
            self._wait(whom, key, reopen, most_waiting)
            return self._told(key)
        if job is None:
            job = self._begin(whom if large else None, key, reopen)
        await asyncio.wait((job,), timeout=HOLD_S if large else None)
        if job.done():
            job.result()
            stored = await self._in_pool(self._store.load, identity, chunk_size_bytes)
            if stored is not None:
                return stored
        return self._told(key)

    def discard(self, identity: FileIdentity, chunk_size_bytes: int) -> None:
        """The file does not match its manifest: the next `get` makes a new one."""
        self._store.discard(identity, chunk_size_bytes)

    async def close(self) -> None:
        """Stop the hashes under way."""
        self._stopping = True
        if self._jobs:
            await asyncio.wait(list(self._jobs.values()))

    def _told(self, key: _Key) -> Preparing:
        """How far this worker is with it, or another one of this host."""
        identity, chunk_size = key
        done = self._progress.get(key)
        if done is not None:
            return Preparing(done, identity.size_bytes)
        return Preparing(*(self._store.progress(identity, chunk_size) or (0, identity.size_bytes)))

    # ------------------------------------------------------------ whose turn it is

    def _has_turn(self, whom: str) -> bool:
        return len(self._turns) < LARGE_AT_ONCE and whom not in self._turns.values()

    def _wait(self, whom: str, key: _Key, reopen: _Reopen, most: int) -> None:
        waiting = self._waiting.setdefault(whom, OrderedDict())
        if len(waiting) < most:
            waiting.setdefault(key, reopen)

    def _begin(self, whom: str | None, key: _Key, reopen: _Reopen) -> asyncio.Future[None]:
        """Hash it now. `whom` None: it is small, and takes nobody's turn."""
        if whom is not None:
            self._turns[key] = whom
            self._unwait(whom, key)
        job = self._jobs[key] = asyncio.ensure_future(self._hash(key, reopen))
        job.add_done_callback(lambda done: self._forget(key, done))
        return job

    def _unwait(self, whom: str, key: _Key) -> None:
        waiting = self._waiting.get(whom, OrderedDict())
        waiting.pop(key, None)
        if not waiting:
            self._waiting.pop(whom, None)

    def _next_turn(self) -> None:
        """Begin with the first that waits of the peer that was served longest ago."""
        for whom in list(self._waiting):
            if self._stopping or not self._has_turn(whom):
                continue
            key, reopen = next(iter(self._waiting[whom].items()))
            self._waiting.move_to_end(whom)
            self._unwait(whom, key)
            if key not in self._jobs:
                self._begin(whom, key, reopen)

    # ------------------------------------------------------------ one hash

    async def _hash(self, key: _Key, reopen: _Reopen) -> None:
        """Unless another worker of this host does."""
        lock = await self._in_pool(self._store.try_lock, *key)
        if lock is None:
            return
        try:
            await self._in_pool(self._hash_blocking, key, lock, reopen)
        finally:
            lock.release()

    def _hash_blocking(self, key: _Key, lock: HashLock, reopen: _Reopen) -> None:
        identity, chunk_size = key
        source = reopen()
        try:
            if source.identity != identity:
                return  # it changed already; whoever asks next asks for the new version
            told = 0

            def on_progress(done: int) -> None:
                nonlocal told
                self._progress[key] = done
                if done - told >= PROGRESS_STEP_BYTES:
                    told = done
                    lock.progress(done, identity.size_bytes)

            geometry = Geometry(identity.size_bytes, chunk_size)
            head, leaves = self._build(source, geometry, on_progress, lambda: self._stopping)
            head_bytes = encode_head(head)
            signature = sign_head(self._keys, head_bytes)
            self._store.save(identity, chunk_size, head_bytes, signature, leaves)
        finally:
            source.close()

    def _forget(self, key: _Key, job: asyncio.Future[None]) -> None:
        self._jobs.pop(key, None)
        self._turns.pop(key, None)
        self._progress.pop(key, None)
        error = None if job.cancelled() else job.exception()
        if error is not None and not isinstance(error, ChunkqError):
            self._crash = error  # a defect: the next request brings it to the worker's notice
        self._next_turn()

    async def _in_pool(self, work: Callable[..., _T], *arguments: Any) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
