"""The page of one host sees a worker on another, and steers it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from chunkq.api.operations import Operations
from chunkq.dashboard.elsewhere import Elsewhere
from chunkq.settings import load
from chunkq.storage.control import Control
from tests.dashboard.application import visited
from tests.support.pair import DEADLINE_S, Actor

HERE, THERE = "here", "there"


async def eventually(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110 - what is waited for is on disk, or heard
            await asyncio.sleep(0.05)


async def test_a_worker_on_another_host_is_seen_and_drained(tmp_path: Path) -> None:
    """Two state directories, one set of keys, one spool: as two hosts of one site have them."""
    spool = tmp_path / "spool"
    spool.mkdir()
    here, there = Actor(HERE, tmp_path), Actor(THERE, tmp_path)
    here.quick("init", "--name", "alice", "--link", f"spool://{spool}")
    silent = Actor("silent", tmp_path)
    silent.quick("init", "--name", "silent")
    here.quick("peer", "add", silent.quick("id"))
    shutil.copytree(here.config, there.config)
    worker = there.start("serve")
    settings = load(config_dir=here.config, state_dir=here.state, environ={}).settings
    elsewhere = Elsewhere()
    operations = Operations(settings, by="page@here", send=elsewhere.send)
    try:
        async with elsewhere.listening(settings), visited(operations, elsewhere=elsewhere) as page:
            page.log_in()

            def seen() -> bool:
                elsewhere.tell(operations)
                operations.refresh()
                return bool(operations.workers())

            await eventually(seen)
            (view,) = operations.workers()
            await page.form("/act", do="freeze-peer silent")
            await eventually(lambda: ("peer", "silent") in Control(there.state).frozen())
            await page.form("/act", do=f"drain {view.instance}")
            done = await asyncio.to_thread(worker.wait)
    finally:
        operations.close()
        there.end()

    assert ("origin", False) == (view.role, view.here)
    assert 0 == done.code
