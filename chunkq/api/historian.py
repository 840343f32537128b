"""History is kept up to date for as long as a process runs, by one of those on this host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from chunkq.errors import ChunkqError
from chunkq.ports import Log
from chunkq.settings import Settings
from chunkq.storage.jobs import JobStore
from chunkq.storage.recorder import Recorder

#: The journal is read so often: what happened is in the history before somebody asks for it.
EVERY_S: Final = 2.0


@asynccontextmanager
async def keeping_history(settings: Settings, log: Log) -> AsyncIterator[None]:
    """Record while the block runs, if no other process does; and once more at its end.

    What goes wrong is logged once, and stops nothing: the lines stay in the journal.
    """
    state = settings.directories.state
    store = JobStore(state)

    def notice(text: str) -> None:
        log("history_damaged", level="warning", detail=text)

    recorder = Recorder(state, store, notice=notice)
    #: A thread that records is not to be met by another: the last one may still be at it.
    alone = asyncio.Lock()
    told = ""

    async def record() -> None:
        nonlocal told
        try:
            async with alone:
                await asyncio.to_thread(recorder.record)
            told = ""
        except ChunkqError as error:
            if error.message != told:
                log("history_failed", level="warning", detail=error.message)
            told = error.message

    async def keep() -> None:
        while True:
            await asyncio.shield(record())
            await asyncio.sleep(EVERY_S)

    task = asyncio.ensure_future(keep())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await record()
        recorder.close()
        store.close()
