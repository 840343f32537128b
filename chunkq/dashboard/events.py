"""The stream of a tab: first all that is alive on its page, then what changed, numbered.

Nothing is remembered for a tab that went away: when it comes back, or finds a number missing, it
opens a new stream, which begins with the whole.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from chunkq.dashboard.live import Live, difference, whole
from chunkq.dashboard.refresher import Refresher
from chunkq.errors import ChunkqError

#: Streams of all tabs together: each costs looking up a page's rows every second.
MAX_STREAMS: Final = 32
#: At least so often something is sent, so that a tab knows that the server lives.
SILENCE_S: Final = 2.0
#: A tab that takes nothing for so long is given up; it comes back by itself.
SEND_TIMEOUT_S: Final = 15.0


@dataclass(slots=True)
class Streams:
    """How many are open, and whether they shall end."""

    open: int = 0
    ending: bool = False


async def changes(
    look: Callable[[], Awaitable[Live]], refresher: Refresher, streams: Streams
) -> AsyncGenerator[dict[str, object]]:
    """Messages for one tab, the first of them whole; ends when `streams` do.

    `trouble` says why what the page shows is old: the site cannot be looked at.
    """
    shown: Live | None = None
    number = 0
    while not streams.ending:
        generation = refresher.generation
        message: dict[str, object] = {}
        trouble = refresher.trouble
        try:
            now = await look()
        except ChunkqError as error:
            trouble = trouble or error.message
        else:
            message = whole(now) if shown is None else difference(shown, now)
            shown = now
        number += 1
        yield {**message, "number": number, "trouble": trouble, "at": refresher.refreshed_ms}
        await refresher.after(generation, SILENCE_S)


def encoded(message: dict[str, object], version: str) -> dict[str, str]:
    """As the stream carries it; the id tells a tab of another start from one of this."""
    data = json.dumps({**message, "version": version}, separators=(",", ":"))
    return {"id": f"{message['number']}", "data": data}
