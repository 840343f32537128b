"""Many transfers begun at once by a program: how many of one peer are under way, and who waits."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import chunkq
from chunkq.protocol.identity import encode_card
from tests.api.hub import Hub


async def test_a_silent_peer_keeps_the_others_turns_free(tmp_path: Path) -> None:
    """Two may be under way: of a silent peer the third waits and says so, another peer's file comes
    at once. Whoever is cancelled makes room.
    """
    (tmp_path / "spool").mkdir()
    link = f"spool://{tmp_path}/spool"
    silent = chunkq.SiteKeys.generate(secrets.token_bytes)
    settings = chunkq.Settings(
        name="north",
        directories={"config": tmp_path / "n" / "c", "state": tmp_path / "n" / "s"},
        links={"default": {"url": link}},
        requester={"pending_transfers": 2},
    )
    async with Hub.start("south", tmp_path, link) as south:
        keys = chunkq.SiteKeys.generate(secrets.token_bytes)
        cards = {"south": south.site.card, "silent": encode_card(silent, "silent")}
        async with chunkq.Site.open(settings, keys=keys, peers=cards) as site:
            south.cards["north"] = site.card
            (south.blobs / "one").write_bytes(b"one")
            south.offered["one"] = south.blobs / "one", "north"
            waiting = [site.fetch(f"silent:files/{n}", tmp_path / str(n)) for n in range(3)]

            await site.fetch("south:files/one", tmp_path / "one", patience_s=60)
            assert b"one" == (tmp_path / "one").read_bytes()
            assert [False, False, True] == [told_queued(each) for each in waiting]
            last = waiting[2].progress().waiting
            assert last is not None
            assert "2 transfers from silent are under way" == last.detail

            waiting[0].cancel()
            await waiting[0].ended()
            async with asyncio.timeout(60):
                while told_queued(waiting[2]):  # noqa: ASYNC110 - no event tells of it
                    await asyncio.sleep(0.01)


def told_queued(transfer: chunkq.Transfer) -> bool:
    now = transfer.progress().waiting
    return now is not None and now.reason == "queued"
