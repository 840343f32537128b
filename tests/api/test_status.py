"""Two hosts of one site, on a spool and on a real broker: one seen and steered from the other."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import chunkq
from chunkq.api.operations import Operations
from chunkq.api.status import Status
from chunkq.api.views import Filter, TransferRow
from chunkq.dashboard.elsewhere import Elsewhere
from chunkq.errors import NotFound, UsageError
from chunkq.protocol.identity import encode_card
from chunkq.protocol.report import Report
from chunkq.runtime.identity import identity_of
from chunkq.storage.control import Control
from chunkq.storage.jobs import JobState, JobStore
from chunkq.storage.journal import Journal
from chunkq.storage.keys import save_keys
from tests.support.broker import Broker

DEADLINE_S = 60


@pytest.fixture(params=["spool", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def link(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "spool":
        (tmp_path / "spool").mkdir()
        yield f"spool://{tmp_path}/spool"
        return
    broker: Broker = request.getfixturevalue("broker")
    broker.add_vhost("own-site")
    yield broker.url(vhost="own-site")
    broker.delete_vhost("own-site")


async def test_a_transfer_of_another_host_is_paused_by_its_row(tmp_path: Path) -> None:
    """As the page does it: what is heard becomes a row, and its button reaches who has it."""
    (tmp_path / "spool").mkdir()
    keys = chunkq.SiteKeys.generate(secrets.token_bytes)
    silent = encode_card(chunkq.SiteKeys.generate(secrets.token_bytes), "silent")
    here, there = (
        chunkq.Settings(
            name="alpha",
            directories={"config": tmp_path / host / "c", "state": tmp_path / host / "s"},
            links={"default": {"url": f"spool://{tmp_path}/spool"}},
        )
        for host in ("here", "there")
    )
    here.directories.config.mkdir(parents=True, mode=0o700)
    save_keys(here.directories.keys_file, keys)
    elsewhere = Elsewhere()
    operations = Operations(here, by="op@here", send=elsewhere.send)
    site = chunkq.Site.open(there, keys=keys, peers={"silent": silent}, role="requester")

    def rows() -> list[TransferRow]:
        elsewhere.tell(operations)
        operations.refresh()
        return list(operations.rows())

    async with site as requester:
        await requester.hand.attend()
        transfer = requester.fetch("silent:docs/a", tmp_path / "a", patience_s=600)
        async with elsewhere.listening(here):
            await eventually(lambda: any(row.instance for row in rows()))
            (row,) = rows()
            outcome = await asyncio.to_thread(operations.pause, Filter(ids=frozenset({row.id})))
            assert (1, ()) == (outcome.done, outcome.refused)
            await transfer.ended()
        refused = await asyncio.to_thread(operations.resume, Filter(ids=frozenset({row.id})))
    assert "not reached" in refused.refused[0][1]
    store = JobStore(there.directories.state)
    assert ["op@here"] == [job.changed_by for job in store.jobs(JobState.PAUSED)]
    store.close()
    operations.close()


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110 - what is waited for is on disk, or heard
            await asyncio.sleep(0.05)


async def test_processes_are_seen_and_steered_from_another_host(tmp_path: Path, link: str) -> None:
    """Reports of a server and of a requester come, as often as they are made; jobs are paused, a
    peer is frozen and a server drained where they are; who wanted it is in the journal there.
    """
    keys = chunkq.SiteKeys.generate(secrets.token_bytes)
    silent = encode_card(chunkq.SiteKeys.generate(secrets.token_bytes), "silent")
    here, there = (
        chunkq.Settings(
            name="alpha",
            directories={"config": tmp_path / host / "c", "state": tmp_path / host / "s"},
            links={"default": {"url": link}},
        )
        for host in ("here", "there")
    )
    state = there.directories.state
    store = JobStore(state)
    job = store.add(("silent:docs/a",), str(tmp_path / "a"), created_ms=1)
    heard: dict[str, Report] = {}

    def hear(report: Report) -> None:
        heard[report.role] = report

    cards = {"silent": silent}
    async with (
        chunkq.Site.open(there, keys=keys, peers=cards, role="requester") as requester,
        chunkq.Site.open(there, keys=keys, peers=cards, role="origin") as origin,
        Status.listen(here, hear, identity=identity_of(keys)) as status,
    ):
        transfer = requester.fetch("silent:docs/a", tmp_path / "a", patience_s=600)
        serving = asyncio.ensure_future(origin.serve(lambda *_: None))
        await eventually(lambda: {"origin", "requester"} == set(heard))
        await eventually(lambda: heard["origin"].ready)
        await eventually(lambda: bool(heard["requester"].transfers))
        assert "alpha" == heard["origin"].site
        assert transfer.id == heard["requester"].transfers[0].transfer

        def process(role: str) -> tuple[str, str]:
            return heard[role].host, heard[role].instance

        await status.control(*process("requester"), "pause", transfers=[job.job_id], by="op@here")
        await eventually(lambda: bool(store.jobs(JobState.PAUSED)))
        await status.control(*process("origin"), "freeze", value="peer:silent", by="op@here")
        await status.control(*process("origin"), "drain", by="op@here")
        control = Control(state)
        await eventually(lambda: heard["origin"].instance in control.draining())
        assert {("peer", "silent")} == set(control.frozen())
        await status.control(*process("requester"), "thaw", value="peer:silent", by="op@here")
        await eventually(lambda: not control.frozen())
        with pytest.raises(NotFound, match="nothing was heard"):
            await status.control("elsewhere", "unknown", "drain", by="op@here")
        with pytest.raises(UsageError, match="cannot freeze"):
            await status.control(*process("origin"), "freeze", value="what", by="op@here")
        serving.cancel()
        transfer.cancel()
        await transfer.ended()

    told = {event.what for event in Journal(state).read()[0] if event.by == "op@here"}
    assert {"paused", "peer_frozen", "peer_thawed", "drained"} <= told
    control.close()
    store.close()
