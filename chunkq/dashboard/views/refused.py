"""Refused packets, and requests that no worker could take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from chunkq.api.views import DeadLetterView, RefusedView
from chunkq.dashboard import wording
from chunkq.dashboard.live import Cells, Live
from chunkq.dashboard.views.view import Asked, View
from chunkq.errors import ChunkqError

#: The broker is asked no more often, however many tabs are open.
AGE_S: Final = 2.0


async def build(asked: Asked) -> Live:
    letters: Sequence[DeadLetterView] = ()
    problem = ""
    try:
        letters = await asked.lately.get("dead letters", AGE_S, asked.board.dead_letters)
    except ChunkqError as error:
        problem = error.message
    problem = problem or "; ".join(
        f"{each.link}: {each.problem}" for each in letters if each.problem
    )
    letters = [each for each in letters if not each.problem]
    refused = asked.board.refused()
    return Live(
        values={
            "no-letters": {"hidden": bool(letters) or bool(problem)},
            "problem": {"text": wording.shown(problem), "hidden": not problem},
            "no-refused": {"hidden": bool(refused)},
        },
        lists={
            "letters": _letters(letters, asked.now_ms),
            "refused": {
                f"{each.instance}:{each.peer}:{each.reason}": _cells(each)
                for each in sorted(refused, key=lambda each: -each.count)
            },
        },
    )


def _letters(letters: Sequence[DeadLetterView], now_ms: int) -> dict[str, Cells]:
    return {
        f"{each.link}:{each.sender}:{each.reason}": {
            "sender": wording.shown(each.sender) or "unknown",
            "reason": wording.plain(wording.shown(each.reason)),
            "count": wording.count(each.count),
            "queue": {"text": each.queue, "title": each.link},
            "oldest": wording.since(each.oldest_ms, now_ms),
            "in-link": {"value": each.link},
            "in-sender": {"value": each.sender},
            "in-reason": {"value": each.reason},
        }
        for each in letters
    }


def _cells(refused: RefusedView) -> Cells:
    return {
        "peer": wording.shown(refused.peer) or "unknown",
        "reason": wording.plain(wording.shown(refused.reason)),
        "count": wording.count(refused.count),
        "instance": wording.shown(refused.instance),
    }


VIEW: Final = View(name="refused", title="Refused", build=build)
