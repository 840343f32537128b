"""What a run leaves behind for the next one, where something went wrong in between."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from chunkq.errors import IntegrityError, StorageError
from chunkq.ports import Delivery, SourceFile, StoredManifest, TransferState
from chunkq.protocol.manifest import Head, decode_head, encode_head, sign_head
from chunkq.protocol.packet import RawReply
from chunkq.runtime.assembler import Assembler, RecheckJob
from chunkq.runtime.fetch import FileFetch
from chunkq.runtime.landing import Landing
from chunkq.runtime.peer import Asked
from chunkq.runtime.readback import ReadBack
from chunkq.runtime.replies import Replies
from chunkq.storage import descriptors
from chunkq.storage.partfile import PartFile
from chunkq.storage.staged import StagedFile
from chunkq.storage.statefile import StateFile, newest_slot
from chunkq.transport.limited import ByteRate
from tests.runtime.sites import Pair
from tests.support.virtual import run_virtual

RATE = ByteRate(1 << 30, 0)
NAME = "report"


def in_a_pair(tmp_path: Path, scene: Any) -> None:
    async def run() -> None:
        pair = Pair(tmp_path, RATE)
        pair.offer(NAME, 6)
        async with pair.at_work():
            await scene(pair)

    run_virtual(run())


def get(pair: Pair) -> Coroutine[Any, Any, Any]:
    fetch: FileFetch = pair.fetch(NAME, "normal")
    return fetch.run()


def test_a_content_digest_that_was_a_lie_is_not_believed_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no part of the root, so an origin that is honest by now never refuses the version."""

    async def scene(pair: Pair) -> None:
        answers = pair.worker._answers
        honest = answers._send_manifest

        async def lie(source: SourceFile, found: StoredManifest, replies: Replies) -> None:
            head = encode_head(replace(decode_head(found.head_bytes), content_digest=bytes(32)))
            await honest(source, _Lie(found, head, sign_head(pair._keys["bob"], head)), replies)

        with monkeypatch.context() as patch:
            patch.setattr(answers, "_send_manifest", lie)
            await stopped_half_way(pair, monkeypatch)  # so that it is on disk under that head
            with pytest.raises(IntegrityError):
                await get(pair)
        result = await get(pair)
        assert 0 == result.new_bytes
        assert pair.arrived(NAME)

    in_a_pair(tmp_path, scene)


class _Lie:
    """A manifest with another head."""

    def __init__(self, found: StoredManifest, head_bytes: bytes, signature: bytes) -> None:
        self._found = found
        self.head_bytes = head_bytes
        self.signature = signature


def test_bits_of_the_version_before_are_taken_back_before_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in between would leave a slot that says of other bytes that they are there.

    Also where the part file is cut, or lengthened: what was cut off is gone.
    """

    async def scene(pair: Pair) -> None:
        def watch(change: str, seen: dict[str, bytes | None]) -> None:
            real = getattr(PartFile, change)

            def look(*arguments: Any) -> None:
                seen.setdefault(change, newest_root(pair))
                real(*arguments)

            monkeypatch.setattr(PartFile, change, look)

        await stopped_half_way(pair, monkeypatch)
        before = newest_root(pair)
        assert before is not None
        pair.offer(NAME, 6)
        seen: dict[str, bytes | None] = {}
        for change in ("allocate", "write"):
            watch(change, seen)
        await get(pair)
        assert {"allocate", "write"} == set(seen)
        assert before not in seen.values()
        assert pair.arrived(NAME)

    in_a_pair(tmp_path, scene)


def test_bits_of_a_part_file_that_is_gone_are_taken_back_before_there_is_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in between would leave an empty one of the right size, and bits to be believed."""

    async def scene(pair: Pair) -> None:
        await stopped_half_way(pair, monkeypatch)
        assert newest_present(pair)
        next((pair.inbox / ".chunkq").glob("*.part")).unlink()
        seen: list[int] = []
        allocate = PartFile.allocate

        def look(*arguments: Any) -> None:
            seen.append(newest_present(pair))
            allocate(*arguments)

        monkeypatch.setattr(PartFile, "allocate", look)
        await get(pair)
        assert [0] == seen
        assert pair.arrived(NAME)

    in_a_pair(tmp_path, scene)


def test_a_chunk_that_comes_while_it_is_found_good_is_written_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the file would appear, and the write into what was its part file fail the transfer."""

    async def scene(pair: Pair) -> None:
        came: list[RawReply] = []
        take, recheck = Landing.take, Assembler._recheck

        def note(self: Landing, asked: Asked, raw: RawReply, delivery: Delivery) -> None:
            came.append(raw)
            take(self, asked, raw, delivery)

        with monkeypatch.context() as patch:
            patch.setattr(Landing, "take", note)
            patch.setattr(ReadBack, "digest", _fails)
            with pytest.raises(StorageError):
                await get(pair)
        fetch = pair.fetch(NAME, "normal")

        def late(self: Assembler, job: RecheckJob, buffer: memoryview) -> None:
            recheck(self, job, buffer)
            asked = fetch._adopt(came[0])
            assert asked is not None
            fetch._on_reply(asked, came[0], Delivery(b"", 0, -1))

        async def slowly(self: FileFetch, head: Head) -> None:
            await end(self, head)
            await asyncio.sleep(1)

        end = FileFetch._end
        monkeypatch.setattr(FileFetch, "_end", slowly)
        monkeypatch.setattr(Assembler, "_recheck", late)
        await fetch.run()
        assert pair.arrived(NAME)

    in_a_pair(tmp_path, scene)


async def _fails(*_: object) -> None:
    raise StorageError("stopped here, all chunks written")


async def stopped_half_way(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has committed some chunks, and was stopped."""
    store, write = asyncio.Event(), PartFile.write

    def some(part: PartFile, offset: int, buffers: Any) -> None:
        write(part, offset, buffers)
        store.set()

    with monkeypatch.context() as patch:
        patch.setattr(PartFile, "write", some)
        running = asyncio.ensure_future(get(pair))
        await store.wait()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


def newest_root(pair: Pair) -> bytes | None:
    state = newest_state(pair)
    return None if state is None else state.root


def newest_present(pair: Pair) -> int:
    state = newest_state(pair)
    return 0 if state is None else state.bitmap.present


def newest_state(pair: Pair) -> TransferState | None:
    """What the state file on disk says."""
    for path in (pair.inbox / ".chunkq").glob("*.state"):
        fd = os.open(path, os.O_RDONLY)
        try:
            return newest_slot(fd, path.stem, str(path))[0]
        finally:
            os.close(fd)
    return None


def test_published_and_not_tidied_up_ends_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the manifest was lost with the power; and the name is made durable once more."""

    def crash(*_: object) -> None:
        raise _Crash

    async def scene(pair: Pair) -> None:
        for lost in (False, True):
            with monkeypatch.context() as patch:
                patch.setattr(StagedFile, "remove", crash)
                with pytest.raises(_Crash):
                    await get(pair)
            assert pair.arrived(NAME)
            if lost:
                for path in (pair.inbox / ".chunkq").glob("*.manifest"):
                    path.unlink()
            synced: list[int] = []
            with monkeypatch.context() as patch:
                patch.setattr(descriptors, "sync_directory", partial(_note, synced))
                await get(pair)
            assert pair.inbox.stat().st_ino in synced
            assert [NAME] == os.listdir(pair.inbox)
            (pair.inbox / NAME).unlink()

    in_a_pair(tmp_path, scene)


def test_a_file_that_is_there_already_is_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run before may have published it and failed to sync its directory: this one says done."""

    async def scene(pair: Pair) -> None:
        await get(pair)
        synced: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(descriptors, "sync_directory", partial(_note, synced))
            result = await get(pair)
        assert result.unchanged
        assert pair.inbox.stat().st_ino in synced

    in_a_pair(tmp_path, scene)


def _note(synced: list[int], fd: int) -> None:
    synced.append(os.fstat(fd).st_ino)
    os.fsync(fd)


def test_who_is_stopped_while_staging_is_opened_holds_nothing(tmp_path: Path) -> None:
    """Else the same process would find the transfer busy, with itself, until its end."""

    async def scene(pair: Pair) -> None:
        fetch = asyncio.ensure_future(get(pair))
        await asyncio.sleep(0)
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        await get(pair)
        assert pair.arrived(NAME)

    in_a_pair(tmp_path, scene)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13])
def test_who_is_stopped_twice_holds_nothing(tmp_path: Path, turns: int) -> None:
    """Whenever the second time comes: it returns once everything is let go of."""

    async def scene(pair: Pair) -> None:
        fetch = asyncio.ensure_future(get(pair))
        for _ in range(turns):
            await asyncio.sleep(0)
        fetch.cancel()
        await asyncio.sleep(0)
        fetch.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetch
        await get(pair)
        assert pair.arrived(NAME)

    in_a_pair(tmp_path, scene)


def test_who_is_stopped_by_a_disk_that_fails_keeps_no_deliveries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the link would soon bring no more to any transfer of the process."""

    async def scene(pair: Pair) -> None:
        def broken(_state: StateFile, _next: Any) -> None:
            raise StorageError("write: Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr(StateFile, "store", broken)
            with pytest.raises(StorageError):
                await stopped_half_way(pair, monkeypatch)
        assert pair.requester._inbox is not None
        assert 0 == len(pair.requester._inbox)
        await get(pair)
        assert pair.arrived(NAME)

    in_a_pair(tmp_path, scene)


class _Crash(Exception):
    """The process ends here."""


def test_a_stop_while_it_is_published_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left to commit then: what was staged is the file at its place."""

    async def scene(pair: Pair) -> None:
        loop, publish = asyncio.get_running_loop(), StagedFile.publish
        running = asyncio.ensure_future(get(pair))

        def stopped(staged: StagedFile, **options: Any) -> None:
            loop.call_soon_threadsafe(running.cancel)
            publish(staged, **options)

        monkeypatch.setattr(StagedFile, "publish", stopped)
        with pytest.raises(asyncio.CancelledError):
            await running
        assert pair.arrived(NAME)

    in_a_pair(tmp_path, scene)
