"""What a disk, a person or a power cut does to staging between two runs: the file arrives, whole.

Real files, virtual time: the first run is stopped half way, the second one goes on from what the
damage has left.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chunkq.errors import StateInvalid
from chunkq.protocol.messages import Chunks, Request
from chunkq.runtime.answers import Answers
from chunkq.storage import statefile
from chunkq.storage.statefile import StateFile
from chunkq.transport.limited import ByteRate
from tests.runtime.sites import CHUNK_BYTES, Pair
from tests.support.virtual import run_virtual

#: Four chunks a second; the first run is stopped after so many seconds.
RATE = ByteRate(1 << 20, 0)
CHUNKS, FIRST_S = 60, 8.0
#: At least so many chunks are durable then.
DURABLE = 16


def one(staging: Path, suffix: str) -> Path:
    (found,) = staging.glob(f"*{suffix}")
    return found


def flip(path: Path, *offsets: int) -> None:
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            byte = file.read(1)[0] ^ 0x10
            file.seek(offset)
            file.write(bytes((byte,)))


def nothing(staging: Path) -> None:
    """What the others are compared with."""


def bit_flip_after_commit(staging: Path) -> None:
    flip(one(staging, ".part"), 5, 3 * CHUNK_BYTES + 77)


def part_truncated(staging: Path) -> None:
    path = one(staging, ".part")
    with path.open("r+b") as file:
        file.truncate(2 * CHUNK_BYTES + 1)


def part_deleted(staging: Path) -> None:
    one(staging, ".part").unlink()


def part_emptied_to_its_size(staging: Path) -> None:
    """State newer than data: what it says is there never reached the disk."""
    path = one(staging, ".part")
    size = path.stat().st_size
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(size)


def torn_slot(staging: Path) -> None:
    flip(one(staging, ".state"), newest_slot(staging) + statefile._SLOT.size + 3)


def both_slots_corrupt(staging: Path) -> None:
    flip(one(staging, ".state"), *(statefile._slot_offset(number) + 9 for number in (0, 1)))


def header_corrupt(staging: Path) -> None:
    """The key of what is under way is lost with it."""
    flip(one(staging, ".state"), 40)


def state_deleted(staging: Path) -> None:
    one(staging, ".state").unlink()


def manifest_deleted(staging: Path) -> None:
    one(staging, ".manifest").unlink()


def manifest_corrupt(staging: Path) -> None:
    flip(one(staging, ".manifest"), 50)


def newest_slot(staging: Path) -> int:
    path = one(staging, ".state")
    with path.open("rb") as file:
        state, _ = statefile.newest_slot(file.fileno(), path.stem, str(path))
    assert state is not None
    return statefile._slot_offset(state.generation % 2)


def state_of_another_chunk_size(staging: Path) -> None:
    """A slot that holds in itself, of the same file cut otherwise."""
    path = one(staging, ".state")
    with path.open("r+b") as file:
        fd = file.fileno()
        state, _ = statefile.newest_slot(fd, path.stem, str(path))
        assert state is not None
        opened = StateFile(os.dup(fd), path.stem, str(path))
        opened.load()
        bitmap = type(state.bitmap)(2 * state.bitmap.count)
        bitmap.fill(0, DURABLE)
        opened.store(
            type(state)(
                generation=state.generation + 1,
                phase=state.phase,
                root=b"o" * 32,
                size_bytes=state.size_bytes,
                chunk_size_bytes=state.chunk_size_bytes // 2,
                bitmap=bitmap,
            )
        )
        opened.close()


def state_of_another_transfer(staging: Path) -> None:
    """Copied by somebody who thought that it would help."""
    path = one(staging, ".state")
    raw = path.read_bytes()
    other = staging / f"{'0' * 32}.state"
    other.write_bytes(raw)
    with other.open("rb") as file, pytest.raises(StateInvalid):
        StateFile(os.dup(file.fileno()), "0" * 32, "other").load()
    other.unlink()
    path.write_bytes(bytes(len(raw)))


@pytest.mark.parametrize(
    ("damage", "asked_again"),
    [
        (nothing, 0),
        (bit_flip_after_commit, 2),
        (part_truncated, CHUNKS),
        (part_deleted, CHUNKS),
        (part_emptied_to_its_size, CHUNKS),
        (torn_slot, 8),
        (both_slots_corrupt, 0),
        (header_corrupt, 0),
        (state_deleted, 0),
        (manifest_deleted, 0),
        (manifest_corrupt, 0),
        (state_of_another_chunk_size, 0),
        (state_of_another_transfer, 0),
    ],
)
def test_the_next_run_goes_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    asked_again: int,
) -> None:
    """What is lost is fetched again, and nothing that is still right."""
    plain = asked_in_the_second_run(tmp_path / "plain", monkeypatch, nothing)
    more = asked_in_the_second_run(tmp_path / "damaged", monkeypatch, damage) - plain

    assert plain <= CHUNKS - DURABLE
    assert more <= asked_again
    assert (more > 0) is (asked_again > 0)


def asked_in_the_second_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> int:
    """How many chunks, after a first run that was stopped half way, and the damage."""
    asked: list[int] = []
    honest = Answers.act

    async def act(self: Answers, peer: object, body: Request, *rest: object) -> None:
        if isinstance(body, Chunks):
            asked.extend(i for first, n in body.runs for i in range(first, first + n))
        await honest(self, peer, body, *rest)  # type: ignore[arg-type]

    async def run() -> bool:
        pair = Pair(root, RATE)
        pair.offer("file", CHUNKS)
        async with pair.at_work():
            first = asyncio.ensure_future(pair.fetch("file", "normal").run())
            await asyncio.sleep(FIRST_S)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await asyncio.sleep(60)  # what was under way has come
            asked.clear()
            damage(pair.inbox / ".chunkq")
            await pair.fetch("file", "normal").run()
        return pair.arrived("file") and not (pair.inbox / ".chunkq").exists()

    root.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(Answers, "act", act)
        assert run_virtual(run())
    return len(asked)
