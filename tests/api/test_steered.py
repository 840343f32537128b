"""What a program fetches has jobs, too: operators see and stop it, and the program hears of it."""

from __future__ import annotations

import asyncio
import resource
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import chunkq
from chunkq.api import hand
from chunkq.errors import Cancelled, Paused
from chunkq.protocol.identity import encode_card
from chunkq.storage.jobs import Job, JobState, JobStore

BY = "ann@here"


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[chunkq.Site]:
    """A site that fetches from a peer who never answers."""
    (tmp_path / "spool").mkdir()
    silent = chunkq.SiteKeys.generate(secrets.token_bytes)
    settings = chunkq.Settings(
        name="north",
        directories={"config": tmp_path / "c", "state": tmp_path / "s"},
        links={"default": {"url": f"spool://{tmp_path}/spool"}},
        requester={"pending_transfers": 4},
    )
    keys = chunkq.SiteKeys.generate(secrets.token_bytes)
    cards = {"silent": encode_card(silent, "silent")}
    async with chunkq.Site.open(settings, keys=keys, peers=cards) as site:
        yield site


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.01)


def jobs(site: chunkq.Site, state: JobState) -> list[Job]:
    store = JobStore(site.settings.directories.state)
    try:
        return store.jobs(state)
    finally:
        store.close()


async def test_who_embeds_it_hears_what_operators_do(program: chunkq.Site, tmp_path: Path) -> None:
    """Paused, cancelled, and what is left when the program goes; waiting for a turn or not."""
    fetches = [
        program.fetch(f"silent:files/{n}", tmp_path / str(n), by="nomad:ann") for n in range(6)
    ]
    await until(lambda: len(jobs(program, JobState.RUNNING)) == 6)
    found = {job.sources[0]: job for job in jobs(program, JobState.RUNNING)}
    ids = [found[f"silent:files/{n}"].job_id for n in range(6)]

    program.hand.store.pause(ids[0], BY)
    program.hand.store.cancel(ids[5], BY)
    with pytest.raises(Paused, match=f"paused by {BY}"):
        await fetches[0]
    with pytest.raises(Cancelled, match=f"cancelled by {BY}"):
        await fetches[5]
    fetches[1].cancel()
    await fetches[1].ended()
    again = program.fetch("silent:files/0", tmp_path / "0")
    await until(lambda: again.id == ids[0])

    assert [ids[1]] == [job.job_id for job in jobs(program, JobState.PAUSED)]
    assert [ids[5]] == [job.job_id for job in jobs(program, JobState.CANCELLED)]
    assert {"nomad:ann"} == {job.by for job in found.values()}
    assert ids[2:5] == [each.id for each in fetches[2:5]]


async def test_thousands_hold_a_bounded_number_of_files_open(
    program: chunkq.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beyond the bound have their job with their turn; all stop when the site is left."""
    monkeypatch.setattr(hand, "MAX_HELD", 10)
    fetches = [program.fetch(f"silent:files/{n}", tmp_path / str(n)) for n in range(200)]
    await until(lambda: len(jobs(program, JobState.RUNNING)) >= 10)
    await until(lambda: sum(each.waits for each in fetches) == 196)

    running = len(jobs(program, JobState.RUNNING))
    for each in fetches[:4]:
        each.cancel()
    await until(lambda: sum(each.waits for each in fetches) == 192)

    assert 10 <= running <= 16
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > hand.MAX_HELD
    assert not any(each.waits for each in fetches[:4])
