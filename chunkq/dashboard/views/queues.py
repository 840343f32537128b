"""Queues: how much lies in them, and who takes it."""

from __future__ import annotations

from typing import Final

from chunkq.api.views import QueueView
from chunkq.dashboard import wording
from chunkq.dashboard.live import Cells, Live
from chunkq.dashboard.views.view import Asked, View

#: The broker is asked no more often, however many tabs are open.
AGE_S: Final = 2.0


async def build(asked: Asked) -> Live:
    queues = await asked.lately.get("queues", AGE_S, asked.board.queues)
    return Live(
        values={"empty": {"hidden": bool(queues)}},
        lists={"queues": {f"{each.link}:{each.queue}": _cells(each) for each in queues}},
    )


def _cells(queue: QueueView) -> Cells:
    tone, word = _standing(queue)
    return {
        "row": {"data-tone": tone},
        "icon": {"href": f"#i-{tone}"},
        "standing": word,
        "problem": {"text": wording.shown(queue.problem), "hidden": not queue.problem},
        "queue": queue.queue or wording.NONE,
        "link": queue.link,
        "depth": wording.count(queue.depth),
        "oldest": wording.duration(queue.oldest_s),
        "consumers": wording.count(queue.consumers),
        "unacknowledged": wording.count(queue.unacknowledged),
        "size": wording.size(queue.size_bytes),
    }


def _standing(queue: QueueView) -> tuple[str, str]:
    if queue.problem:
        return "failed", "unknown"
    if queue.blocked:
        return "stalled", "blocked"
    if queue.depth and queue.consumers == 0:
        return "stalled", "nobody takes"
    return ("moving", "in use") if queue.depth else ("done", "empty")


VIEW: Final = View(name="queues", title="Queues", build=build)
