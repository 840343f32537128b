"""Processes that embed chunkq, serve or get: what they leave in their state directory."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from pathlib import Path

import chunkq
from chunkq.protocol.condition import Reason, State
from chunkq.protocol.identity import encode_card
from chunkq.protocol.report import Report
from chunkq.storage.reports import Reports
from tests.api.hub import Hub


async def reported(state: Path, holds: Callable[[Report], bool]) -> Report:
    """The first report there of which this holds."""
    async with asyncio.timeout(60):
        while True:
            for report in Reports(state).read_all():
                if holds(report):
                    return report
            await asyncio.sleep(0.05)


async def test_both_sides_report_what_they_do_until_they_end(tmp_path: Path) -> None:
    """The requester what it waits for and what came, the origin what it was asked for; a file that
    came whole, a peer that is silent, a request that was refused.
    """
    (tmp_path / "spool").mkdir()
    link = f"spool://{tmp_path}/spool"
    silent = chunkq.SiteKeys.generate(secrets.token_bytes)
    async with (
        Hub.start("south", tmp_path, link) as south,
        Hub.start("north", tmp_path, link) as north,
    ):
        north.befriend(south)
        south.befriend(north)
        north.cards["silent"] = encode_card(silent, "silent")
        content = secrets.token_bytes(300_000)
        await south.post("north", "look", content)
        packet = await north.inbox.get()
        waiting = north.site.fetch("silent:files/x", tmp_path / "never")
        await north.fetch(packet, tmp_path / "here")
        refused = north.site.fetch("south:files/other", tmp_path / "none")
        await refused.ended()

        ours = await reported(
            tmp_path / "north" / "state",
            lambda report: any(each.state is State.STALLED for each in report.transfers),
        )
        (stalled,) = ours.transfers
        assert ("embedded", "north", 1) == (ours.role, ours.site, ours.transfers_total)
        assert (Reason.PEER_SILENT, "silent:files/x") == (stalled.reason, stalled.source)
        assert waiting.id == stalled.transfer
        assert ours.resident_bytes > 10_000_000
        assert ours.descriptors > 5
        assert [("default", "spool", None)] == [
            (each.link, each.transport, each.reason) for each in ours.links
        ]
        assert ours.links[0].received_bytes > len(content)

        theirs = await reported(
            tmp_path / "south" / "state",
            lambda report: any(each.refusals for each in report.peers),
        )
        (peer,) = theirs.peers
        assert ("north", 1) == (peer.peer, peer.refusals["not_found"])
        assert peer.requests >= 3
        assert peer.sent_bytes >= len(content)
        assert ours.started_ms < peer.heard_ms
        assert 1 == theirs.counters["refused_not_found"]
        assert theirs.ready
        assert ours.incarnation != theirs.incarnation

    assert [] == Reports(tmp_path / "north" / "state").read_all()
    assert [] == Reports(tmp_path / "south" / "state").read_all()


async def test_a_site_that_only_looks_says_nothing(tmp_path: Path) -> None:
    """What is opened to list, or to speak to a peer, is no worker."""
    settings = chunkq.Settings(
        name="north",
        directories={"config": tmp_path / "config", "state": tmp_path / "state"},
    )
    keys = chunkq.SiteKeys.generate(secrets.token_bytes)
    async with chunkq.Site.open(settings, keys=keys, peers={}):
        await asyncio.sleep(0)
        assert not (tmp_path / "state" / "reports").exists()


async def test_reports_that_cannot_be_written_stop_nothing(tmp_path: Path) -> None:
    """The transfer is done all the same, and the log says once what is wrong."""
    (tmp_path / "spool").mkdir()
    link = f"spool://{tmp_path}/spool"
    (tmp_path / "north" / "state").mkdir(parents=True)
    (tmp_path / "north" / "state" / "reports").write_text("in the way")
    async with (
        Hub.start("south", tmp_path, link) as south,
        Hub.start("north", tmp_path, link) as north,
    ):
        north.befriend(south)
        south.befriend(north)
        await south.post("north", "look", b"content")
        await north.fetch(await north.inbox.get(), tmp_path / "here")
        assert b"content" == (tmp_path / "here").read_bytes()
        async with asyncio.timeout(60):
            while "report_failed" not in north.events:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.01)
