"""An origin that has its own keys, knows the source, and means ill: what a transfer makes of it.

The product's own worker answers, through `Answers.act`, which is hostile here. Virtual time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from blake3 import blake3

from chunkq.errors import ChunkqError, IntegrityError
from chunkq.ports import PeerRef
from chunkq.protocol import cbor
from chunkq.protocol.manifest import Head, encode_head, sign_head
from chunkq.protocol.messages import (
    Body,
    Chunks,
    Entry,
    Listing,
    ManifestReply,
    Open,
    Pages,
    Refusal,
    RefusalReason,
    Request,
    StandingReply,
)
from chunkq.protocol.packet import ReplyKind
from chunkq.protocol.packing import pack
from chunkq.protocol.strikes import Strikes
from chunkq.runtime.answers import Answers
from chunkq.runtime.fetch import FileFetch
from chunkq.runtime.replies import Replies
from chunkq.transport.limited import ByteRate
from tests.fuzz.bodies import REPLY_BODIES, head_of_four
from tests.runtime.sites import CHUNK_BYTES, Pair
from tests.support.virtual import run_virtual

RATE = ByteRate(64 << 20, 0)
CHUNKS = 6
LONG_S = 600.0
U64 = (1 << 64) - 1

Act = Callable[[Answers, PeerRef, Request, Replies], Awaitable[None]]
_honest = Answers.act


@dataclass
class Hostile:
    """`before` is said before the truth; where `instead` says something, that is all."""

    before: Act | None = None
    instead: Callable[[Request], Refusal | None] | None = None
    asked: list[tuple[float, Request]] = field(default_factory=list)

    async def act(self, answers: Answers, peer: PeerRef, body: Request, replies: Replies) -> None:
        self.asked.append((asyncio.get_running_loop().time(), body))
        if self.instead is not None and (refusal := self.instead(body)) is not None:
            await replies.refuse(refusal)
            return
        if self.before is not None:
            await self.before(answers, peer, body, replies)
        await _honest(answers, peer, body, replies)


def with_origin(monkeypatch: pytest.MonkeyPatch, hostile: Hostile) -> None:
    async def act(self: Answers, peer: PeerRef, body: Request, replies: Replies) -> None:
        await hostile.act(self, peer, body, replies)

    monkeypatch.setattr(Answers, "act", act)


async def say(replies: Replies, kind: ReplyKind, body: bytes, index: int = 0) -> None:
    await replies.send(replies.sealer.seal(kind, body, index))


async def say_packed(replies: Replies, kind: ReplyKind, frame: bytes, index: int = 0) -> None:
    await replies.send(replies.sealer.seal(kind, frame, index, packed=True))


# ---------------------------------------------------------------- before the truth


async def indices_that_are_not(
    answers: Answers, peer: PeerRef, body: Request, replies: Replies
) -> None:
    """Of chunks and pages: one past the end, and the last that a packet can say."""
    for index in (CHUNKS, CHUNKS + 1, 1 << 22, 1 << 63, U64):
        await say(replies, ReplyKind.CHUNK, bytes(CHUNK_BYTES), index)
        await say(replies, ReplyKind.PAGE, bytes(32 * CHUNKS), index)


async def every_kind_of_reply(
    answers: Answers, peer: PeerRef, body: Request, replies: Replies
) -> None:
    """Whatever was asked; of the manifest kind, one of another file."""
    for kind in ReplyKind:
        if kind in (ReplyKind.REFUSAL, ReplyKind.PAGE):
            continue
        for content in (b"", b"\0", b"\xa0", *(cbor.encode(each) for _, each in REPLY_BODIES)):
            if not (isinstance(body, Open) and kind is ReplyKind.MANIFEST):
                await say(replies, kind, content, CHUNKS + 7)


async def refusals_of_nonsense(
    answers: Answers, peer: PeerRef, body: Request, replies: Replies
) -> None:
    """Numbers that no model takes, under a good seal."""
    for name in ("retry_after_ms", "done", "total", "epoch_floor"):
        for number in (-1, -(1 << 63), U64):
            encoded = _map({"reason": "busy", name: number})
            await say(replies, ReplyKind.REFUSAL, encoded)
    await say(replies, ReplyKind.REFUSAL, _map({"reason": "because"}))


def _map(fields: dict[str, object]) -> bytes:
    import cbor2

    return cbor2.dumps(fields, canonical=True)


async def bombs(answers: Answers, peer: PeerRef, body: Request, replies: Replies) -> None:
    """Small frames that claim, or hold, far more than was asked for."""
    for claimed in (CHUNK_BYTES + 1, 4 << 20, 1 << 26):
        frame = pack(bytes(claimed), 3)
        for kind in ReplyKind:
            if kind is not ReplyKind.CHUNK:
                await say_packed(replies, kind, frame, CHUNKS + 1)
    await say_packed(replies, ReplyKind.MANIFEST, b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 8)


async def each_chunk_many_times(
    answers: Answers, peer: PeerRef, body: Request, replies: Replies
) -> None:
    """The truth, ten times over."""
    for _ in range(10):
        await _honest(answers, peer, body, replies)


@pytest.mark.parametrize(
    "before",
    [
        indices_that_are_not,
        every_kind_of_reply,
        refusals_of_nonsense,
        bombs,
        each_chunk_many_times,
    ],
)
def test_what_is_nonsense_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: Act
) -> None:
    """Nothing of it has any effect: the file arrives, as it is, and none of it is asked twice."""
    hostile = Hostile(before)
    with_origin(monkeypatch, hostile)

    async def run() -> bool:
        pair = Pair(tmp_path, RATE)
        pair.offer("file", CHUNKS)
        async with pair.at_work():
            await pair.fetch("file", "normal").run()
        return pair.arrived("file")

    assert run_virtual(run())
    asked = [body for _, body in hostile.asked if isinstance(body, Chunks)]
    assert CHUNKS == sum(count for body in asked for _, count in body.runs)


def test_chunks_that_came_bad_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator sees on the map which they are; what came well since is not among them."""

    async def wrong_second(
        answers: Answers, peer: PeerRef, body: Request, replies: Replies
    ) -> None:
        if isinstance(body, Chunks):
            await say(replies, ReplyKind.CHUNK, bytes(CHUNK_BYTES), 1)

    async def run() -> list[tuple[int, int]]:
        pair = Pair(tmp_path, RATE)
        pair.offer("file", CHUNKS)
        seen: list[tuple[int, int]] = []
        strike = Strikes.bad_chunk

        def struck(self: Strikes, index: int) -> None:
            strike(self, index)
            detail = fetch.detail()
            assert detail is not None
            seen.extend(detail.bad)

        monkeypatch.setattr(Strikes, "bad_chunk", struck)
        with_origin(monkeypatch, Hostile(wrong_second))
        async with pair.at_work():
            fetch = pair.fetch("file", "normal")
            await fetch.run()
            detail = fetch.detail()
            assert detail is not None
            assert [] == list(detail.bad)
        return seen

    assert {(1, 1)} == set(run_virtual(run()))


def test_a_wrong_length_of_what_is_there_is_no_news_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is there, and the manifest has its digest and another length: a contradiction."""

    async def longer(answers: Answers, peer: PeerRef, body: Request, replies: Replies) -> None:
        head = head_of_four()
        there = blake3((tmp_path / "files" / "file").read_bytes()).digest()
        packed = encode_head(Head(head.geometry, head.page_digests, there))
        signature = sign_head(answers._keys, packed)
        manifest = ManifestReply(head=packed, signature=signature, mode=0, mtime_ns=0)
        await replies.send_body(ReplyKind.MANIFEST, manifest)

    async def run() -> None:
        pair = Pair(tmp_path, RATE)
        pair.offer("file", CHUNKS)
        async with pair.at_work():
            await pair.fetch("file", "normal").run()
            with_origin(monkeypatch, Hostile(longer))
            with pytest.raises(IntegrityError, match="contradicts itself"):
                await pair.fetch("file", "normal").run()
            assert pair.arrived("file")

    run_virtual(run())


def test_manifests_without_number_take_no_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer may hold one head of a MiB; hundreds of them, all well signed, are not kept."""
    kept: list[int] = []

    async def many(answers: Answers, peer: PeerRef, body: Request, replies: Replies) -> None:
        """Another content digest each, in answer to whatever was asked."""
        assert replies is not None
        for number in range(60):
            head = head_of_four()
            told = Head(head.geometry, head.page_digests, number.to_bytes(32, "big"))
            packed = encode_head(told)
            manifest = ManifestReply(
                head=packed, signature=sign_head(answers._keys, packed), mode=0, mtime_ns=0
            )
            if not isinstance(body, Open):
                await replies.send_body(ReplyKind.MANIFEST, manifest)

    with_origin(monkeypatch, Hostile(many))
    real = FileFetch._on_manifest

    def on_manifest(self: FileFetch, *arguments: object) -> None:
        real(self, *arguments)  # type: ignore[arg-type]
        kept.append(len(self._offers._offered))

    monkeypatch.setattr(FileFetch, "_on_manifest", on_manifest)

    async def run() -> bool:
        pair = Pair(tmp_path, RATE)
        pair.offer("file", CHUNKS)
        async with pair.at_work():
            await pair.fetch("file", "normal").run()
        return pair.arrived("file")

    assert run_virtual(run())
    assert len(kept) >= 60
    assert max(kept) <= 2


def test_chunks_of_another_transfer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one file in the answers to another's requests: each file has its own, or fails."""
    contents: dict[str, bytes] = {}

    async def crossed(answers: Answers, peer: PeerRef, body: Request, replies: Replies) -> None:
        if not isinstance(body, Chunks):
            return
        other = contents["b" if body.path == "a" else "a"]
        for first, count in body.runs:
            for index in range(first, first + count):
                await say(
                    replies,
                    ReplyKind.CHUNK,
                    other[index * CHUNK_BYTES :][:CHUNK_BYTES],
                    index,
                )

    with_origin(monkeypatch, Hostile(crossed))

    async def run() -> None:
        pair = Pair(tmp_path, RATE)
        for name in "ab":
            pair.offer(name, CHUNKS)
            contents[name] = (pair.files / name).read_bytes()
        async with pair.at_work():
            fetches = [pair.fetch(name, "normal").run() for name in "ab"]
            outcomes = await asyncio.gather(*fetches, return_exceptions=True)
        for name, outcome in zip("ab", outcomes, strict=True):
            arrived = (pair.inbox / name).exists()
            assert arrived is not isinstance(outcome, BaseException)
            assert isinstance(outcome, IntegrityError) or pair.arrived(name)

    run_virtual(run())


# ---------------------------------------------------------------- instead of the truth


def refusal(reason: RefusalReason, **fields: int) -> Callable[[Request], Refusal | None]:
    return lambda _: Refusal(reason=reason, **fields)  # type: ignore[arg-type]


DAY_MS = 24 * 3600 * 1000
FOREVER = {
    "busy": refusal(RefusalReason.BUSY),
    "busy-now": refusal(RefusalReason.BUSY, retry_after_ms=1),
    "busy-a-day": refusal(RefusalReason.BUSY, retry_after_ms=DAY_MS),
    "preparing": refusal(RefusalReason.PREPARING, retry_after_ms=1, done=U64, total=0),
    "expired": refusal(RefusalReason.EXPIRED),
    "expired-epoch": refusal(RefusalReason.EXPIRED, epoch_floor=1 << 62),
    "expired-last": refusal(RefusalReason.EXPIRED, epoch_floor=U64),
    "clock": refusal(RefusalReason.CLOCK_SKEW, offset_ms=1 << 40),
    "clock-back": refusal(RefusalReason.CLOCK_SKEW, offset_ms=-(1 << 63)),
    "clock-none": refusal(RefusalReason.CLOCK_SKEW),
}


@pytest.mark.parametrize("which", FOREVER)
def test_who_refuses_for_ever_is_neither_hammered_nor_waited_for_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Ten minutes: a bounded number of requests, a reason to be read, and a stop that works."""
    hostile = Hostile(instead=FOREVER[which])
    with_origin(monkeypatch, hostile)

    async def run() -> tuple[object, object]:
        pair = Pair(tmp_path, RATE)
        pair.offer("file", CHUNKS)
        async with pair.at_work():
            fetch = pair.fetch("file", "normal")
            running = asyncio.ensure_future(fetch.run())
            await asyncio.wait((running,), timeout=LONG_S)
            progress = fetch.progress()
            waiting = progress.waiting if progress and not running.done() else None
            running.cancel()
            (outcome,) = await asyncio.gather(running, return_exceptions=True)
        return waiting, outcome

    waiting, outcome = run_virtual(run())
    assert waiting is not None or isinstance(outcome, ChunkqError)
    assert 5 <= len(hostile.asked)
    if "now" in which or which == "preparing":  # it says that it will answer soon
        assert len(hostile.asked) <= LONG_S + 10
    else:
        assert len(hostile.asked) <= 20


def test_a_source_that_is_stale_for_ever_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Manifests are given, and no chunk of them: it ends by a typed error, after a few rounds."""

    def stale(body: Request) -> Refusal | None:
        return Refusal(reason=RefusalReason.STALE) if isinstance(body, Chunks | Pages) else None

    hostile = Hostile(instead=stale)
    with_origin(monkeypatch, hostile)

    async def run() -> object:
        pair = Pair(tmp_path, RATE)
        pair.offer("file", CHUNKS)
        async with pair.at_work(), asyncio.timeout(LONG_S):
            (outcome,) = await asyncio.gather(
                pair.fetch("file", "normal").run(), return_exceptions=True
            )
        return outcome

    assert isinstance(run_virtual(run()), ChunkqError)
    assert len(hostile.asked) < 100


def bodies() -> list[Body]:
    """Kept here so that a new kind of reply is thought of: see `every_kind_of_reply`."""
    return [Listing(entries=[Entry(name="x", type="dir")]), StandingReply(known=bytes(32))]


def test_every_kind_of_reply_is_in_the_list() -> None:
    """All eight; those that are no CBOR are bytes of any kind."""
    assert {type(body) for body in bodies()} <= {type(body) for _, body in REPLY_BODIES}
    assert 8 == len(ReplyKind)
