"""A listing that is put off for ever, or that never ends: how often it is asked for."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from chunkq.errors import PeerRefused
from chunkq.ports import PeerRef
from chunkq.protocol.messages import Entry, List, Listing, Refusal, RefusalReason, Request
from chunkq.protocol.packet import ReplyKind
from chunkq.runtime import listing
from chunkq.runtime.answers import Answers
from chunkq.runtime.listing import MAX_WAIT_S, list_directory
from chunkq.runtime.replies import Replies
from tests.runtime.sites import SHARE, Pair
from tests.runtime.test_hostile_origin import DAY_MS, RATE
from tests.support.virtual import run_virtual

PATIENCE_S = 120.0
LONG_S = 3600.0


def listing_from(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[List], Listing | Refusal]
) -> list[float]:
    """When the origin, which answers so, was asked."""
    asked: list[float] = []

    async def act(self: Answers, peer: PeerRef, body: Request, replies: Replies) -> None:
        assert isinstance(body, List)
        asked.append(asyncio.get_running_loop().time())
        told = answer(body)
        kind = ReplyKind.LISTING if isinstance(told, Listing) else ReplyKind.REFUSAL
        await replies.send_body(kind, told)

    monkeypatch.setattr(Answers, "act", act)
    return asked


async def names(pair: Pair) -> list[str]:
    found = list_directory(pair.peer, SHARE, "", patience_s=PATIENCE_S)
    return [entry.name async for entry in found]


@pytest.mark.parametrize("retry_after_ms", [0, 1, DAY_MS])
def test_who_is_always_busy_is_asked_within_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retry_after_ms: int
) -> None:
    """Neither without a pause, nor a day later: at least once in a minute, and not ten a second."""
    busy = Refusal(reason=RefusalReason.BUSY, retry_after_ms=retry_after_ms)
    asked = listing_from(monkeypatch, lambda _: busy)

    async def run() -> None:
        pair = Pair(tmp_path, RATE)
        async with pair.at_work():
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(names(pair), LONG_S)

    run_virtual(run())
    gaps = [after - before for before, after in itertools.pairwise(asked)]
    assert max(gaps) <= MAX_WAIT_S + 1
    assert min(gaps) >= 0.5


def test_a_cursor_that_goes_round_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has to rise: a listing that leads back is at its end there."""
    entry = Entry(name="x", type="dir")
    cursors = {None: "m", "m": "a", "a": "m"}
    listing_from(monkeypatch, lambda body: Listing(entries=[entry], cursor=cursors[body.cursor]))

    async def run() -> list[str]:
        pair = Pair(tmp_path, RATE)
        async with pair.at_work(), asyncio.timeout(LONG_S):
            return await names(pair)

    assert ["x", "x"] == run_virtual(run())


def on_and_on(**said: object) -> Callable[[List], Listing]:
    """Each answer says these, and a cursor that rises."""

    def told(body: List) -> Listing:
        cursor = f"{int(body.cursor or '0') + 1:09}"
        return Listing.model_validate({"cursor": cursor, **said})

    return told


@pytest.mark.parametrize(
    ("answer", "most"),
    [
        pytest.param(on_and_on(entries=[]), 1, id="nothing"),
        pytest.param(on_and_on(entries=[], omitted=1), 21, id="omitted"),
        pytest.param(on_and_on(entries=[Entry(name="x", type="dir")] * 2), 11, id="names"),
    ],
)
def test_a_listing_without_end_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[List], Listing], most: int
) -> None:
    """After more names than a directory has, and at once where it says only "go on"."""
    monkeypatch.setattr(listing, "MAX_DIRECTORY_NAMES", 20)
    asked = listing_from(monkeypatch, answer)

    async def run() -> object:
        pair = Pair(tmp_path, RATE)
        async with pair.at_work(), asyncio.timeout(LONG_S):
            (outcome,) = await asyncio.gather(names(pair), return_exceptions=True)
            return outcome

    assert isinstance(run_virtual(run()), PeerRefused)
    assert most == len(asked)
