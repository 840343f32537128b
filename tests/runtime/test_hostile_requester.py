"""A pinned peer that asks for whatever it can: what the origin sends, to whom."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chunkq.ports import Mailbox
from chunkq.protocol import cbor
from chunkq.protocol.limits import (
    MAX_BYTES_PER_REQUEST,
    MAX_EPOCHS_PER_PEER,
    MAX_FILES_PER_REQUEST,
    MAX_SMALL_FILE_SIZE_BYTES,
    MIB,
)
from chunkq.protocol.messages import (
    Chunks,
    Files,
    List,
    Open,
    Pages,
    Probe,
    Receipt,
    Request,
    Statement,
)
from chunkq.protocol.origin import BODIES
from chunkq.protocol.packet import RequestId, RequestKind, Suite
from chunkq.protocol.seal import seal_request
from chunkq.storage import smallfiles
from chunkq.storage.replayfile import FILE_SIZE_BYTES
from chunkq.transport.limited import ByteRate
from tests.runtime.sites import CHUNK_BYTES, INSTANCE, SHARE, Pair
from tests.support.virtual import run_virtual

RATE = ByteRate(1 << 30, 0)
U64 = (1 << 64) - 1
KINDS = {model: kind for kind, model in BODIES.items()}
ROOT = b"r" * 32


@dataclass
class Attack:
    """alice's keys in the wrong hands; `sent` is what the origin has sent, and where to."""

    pair: Pair
    sent: list[tuple[Mailbox, int]] = field(default_factory=list)
    epoch: int = 1 << 60
    counter: int = 0

    async def ask(self, body: Request, request_id: RequestId | None = None) -> None:
        """As `PeerLink.ask`, with any request id."""
        self.counter += 1
        pair = self.pair
        now_ms = pair.clock.wall_ms()
        packet = seal_request(
            keys=pair._keys["alice"],
            recipient=pair._refs["bob"].card,
            ephemeral_secret=b"e" * 32,
            kind=KINDS[type(body)],
            request_id=request_id or RequestId(self.epoch, self.counter),
            issued_ms=now_ms,
            expires_ms=now_ms + 600_000,
            body=cbor.encode(body),
            suite=Suite.XCHACHA20POLY1305,
        )
        await pair.requester.transport.publish(Mailbox("req", "bob"), packet)
        await asyncio.sleep(0.5)

    @property
    def sent_bytes(self) -> int:
        return sum(size for _, size in self.sent)


@asynccontextmanager
async def attack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Attack]:
    """Afterwards an honest transfer has to succeed: the worker has survived all of it."""
    pair = Pair(tmp_path, RATE)
    pair.offer("file", 3)
    attacked = Attack(pair)
    transport = pair.worker._transport
    real = transport.publish

    async def publish(to: Mailbox, body: Any, **how: Any) -> None:
        attacked.sent.append((to, len(body)))
        await real(to, body, **how)

    monkeypatch.setattr(transport, "publish", publish)
    async with pair.at_work():
        await asyncio.sleep(0.5)  # the worker's mailbox comes into being
        yield attacked
        assert not pair.worker._failed.done()
        await pair.fetch("file", "normal").run()
    assert pair.arrived("file")


def absurd() -> list[Request]:
    """Well formed bodies of every kind that ask for what is not there, or too much of it."""
    last = (1 << 22) - 1
    at = {"instance": INSTANCE, "share": SHARE}
    paths = ["", "file", "../file", "a/../../x", "/etc/passwd", "f\0", "CON", "x" * 4096, "a//b"]
    bodies: list[Request] = []
    for path in paths:
        bodies.append(Open(**at, path=path, largest_chunk=4096))
        bodies.append(List(**at, path=path, cursor="\U0010ffff" * 1000))
        bodies.append(List(**at, path=path, cursor="\0"))
        bodies.append(Receipt(**at, path=path, root=ROOT))
        for size in (4096, 8192 + 1, CHUNK_BYTES, 4 * MIB):
            for runs in ([(0, 1)], [(last, 1)], [(0, 1), (5, 1)]):
                version = {"path": path, "root": ROOT, "chunk_size": size, "runs": runs}
                bodies += [Pages(**at, **version), Chunks(**at, **version)]
    names = ["..", ".", "", "a/b", "CON", "file", "file", "x" * 255, "\0", ".chunkq"]
    bodies.append(Files(**at, groups=[("", names), ("..", names), ("file", names)], largest=4096))
    bodies.append(Files(instance=INSTANCE, share="none", groups=[("", ["a"])], largest=4096))
    bodies.append(Probe(instance=INSTANCE, size=4 * MIB, count=4))
    bodies.append(Statement(instance=INSTANCE, line="chunkq-succession:1:alice:AAAA"))
    return bodies


def test_every_kind_of_request_is_in_the_list() -> None:
    """A new one has to be added."""
    own = {RequestKind.REPORT, RequestKind.CONTROL}  # no origin takes these: see test_ownsite
    assert set(RequestKind) - own == {KINDS[type(body)] for body in absurd()}


def test_what_cannot_be_had_is_refused_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request ends the worker, and none but the probe is answered with more than a refusal."""

    async def run() -> None:
        async with attack(tmp_path, monkeypatch) as attacked:
            for body in absurd():
                before = attacked.sent_bytes
                await attacked.ask(body)
                if not isinstance(body, Probe | Open | List):
                    assert attacked.sent_bytes - before < 4096, body

    run_virtual(run())


@pytest.mark.parametrize("instance", ["bob", "carol", "x", INSTANCE, "0" * 63])
def test_answers_go_to_whom_the_keys_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: str
) -> None:
    """However the mailbox is named: a large answer cannot be had for somebody else."""

    async def run() -> list[Mailbox]:
        async with attack(tmp_path, monkeypatch) as attacked:
            await attacked.ask(Probe(instance=instance, size=CHUNK_BYTES, count=4))
            return [to for to, _ in attacked.sent]

    assert {Mailbox("rep", "alice", instance)} == set(run_virtual(run()))


def test_one_request_for_small_files_has_no_larger_answer_than_one_for_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand times the name of the largest small file: what is not sent is not read either."""

    read: list[int] = []
    real = smallfiles._read

    def counted(fd: int, before: os.stat_result, *how: Any) -> Any:
        read.append(before.st_size)
        return real(fd, before, *how)

    async def run() -> int:
        monkeypatch.setattr(smallfiles, "_read", counted)
        async with attack(tmp_path, monkeypatch) as attacked:
            path = attacked.pair.files / "small"
            path.write_bytes(os.urandom(MAX_SMALL_FILE_SIZE_BYTES - 4096))
            os.utime(path, (1, 1))
            monkeypatch.setattr("chunkq.storage.smallfiles.settling_ms", lambda *_: 0)
            groups = [("", ["small"] * MAX_FILES_PER_REQUEST)]
            await attacked.ask(
                Files(instance=INSTANCE, share=SHARE, groups=groups, largest=4 * MIB)
            )
            return attacked.sent_bytes

    assert MIB < run_virtual(run()) < MAX_BYTES_PER_REQUEST + MIB
    assert sum(read) < MAX_BYTES_PER_REQUEST + MIB


def test_epochs_and_counters_of_any_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record neither grows nor fails; who has used up its own epochs is told so."""

    async def run() -> Path:
        async with attack(tmp_path, monkeypatch) as attacked:
            body = List(instance=INSTANCE, share=SHARE, path="")
            for number in range(4 * MAX_EPOCHS_PER_PEER):
                await attacked.ask(body, RequestId((1 << 62) + number, number))
            for epoch in (0, 1, 1 << 63, U64 - 1 << 20 & U64):
                for counter in (0, 1, U64 - 1, U64):
                    await attacked.ask(body, RequestId(epoch, counter))
            assert attacked.sent
            return tmp_path / "replays"

    (record,) = run_virtual(run()).iterdir()
    assert FILE_SIZE_BYTES == record.stat().st_size
