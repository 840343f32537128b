"""What a person does on the page: from the fields of a form to the site, and what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from chunkq.api.operations import Operations
from chunkq.api.views import Filter, Outcome
from chunkq.dashboard.addresses import Fields, fields, filter_of, first
from chunkq.dashboard.elsewhere import Elsewhere
from chunkq.errors import ChunkqError, UsageError
from chunkq.protocol.control import Action
from chunkq.storage.control import Kind

#: Refusals told one by one; more are counted.
MAX_TOLD: Final = 5
_DONE: Final = {
    "pause": "paused",
    "resume": "resumed",
    "retry": "to be tried again",
    "cancel": "cancelled; what came is kept",
    "drop": "cancelled; what came is dropped",
    "urgent": "now urgent",
    "normal": "now of normal priority",
    "bulk": "now of bulk priority",
}


@dataclass(frozen=True, slots=True)
class Said:
    """What to tell whoever did it. `ok` is False where something could not be done."""

    text: str
    ok: bool = True


async def act(board: Operations, elsewhere: Elsewhere, given: Fields, by: str) -> Said:
    """Do what the button `do` says: a verb, and for some a target behind a space.

    Raises `ChunkqError` for what could not be done at all.
    """
    verb, _, target = first(given, "do").partition(" ")
    if verb in _DONE:
        return await _steer(board, verb, _chosen(given, target), by)
    if verb in ("freeze-peer", "thaw-peer", "freeze-link", "thaw-link"):
        return await _freeze(board, elsewhere, verb, target, by)
    if verb == "drain":
        await _drain(board, elsewhere, target, by)
        return Said(f"{target} takes nothing new and ends when what it has is done")
    if verb in ("requeue", "discard"):
        return await _dead_letters(board, verb, given, by)
    raise UsageError(f"nothing is called {verb!a} here")


def _chosen(given: Fields, target: str) -> Filter:
    """One transfer, those ticked, or all that a filter lets through. Raises `UsageError`."""
    if target:
        return Filter(ids=frozenset({target}))
    if first(given, "all") == "1":
        return filter_of(fields(first(given, "where")))
    if ids := frozenset(given.get("id", ())):
        return replace(filter_of({}), ids=ids)
    raise UsageError("no transfer is ticked", hint="tick some, or all that match")


async def _steer(board: Operations, verb: str, chosen: Filter, by: str) -> Said:
    calls: dict[str, Callable[[], Outcome]] = {
        "pause": lambda: board.pause(chosen, by),
        "resume": lambda: board.resume(chosen, by),
        "retry": lambda: board.retry(chosen, by),
        "cancel": lambda: board.cancel(chosen, by),
        "drop": lambda: board.cancel(chosen, by, drop=True),
    }
    call = calls.get(verb, lambda: board.prioritise(chosen, verb, by))
    outcome = await asyncio.to_thread(call)
    return _told(outcome, _DONE[verb])


def _told(outcome: Outcome, done: str) -> Said:
    what = "1 transfer is" if outcome.done == 1 else f"{outcome.done} transfers are"
    if not outcome.refused:
        return Said(f"{what} {done}.")
    told = [f"{transfer}: {message}" for transfer, message in outcome.refused[:MAX_TOLD]]
    if more := len(outcome.refused) - MAX_TOLD:
        told += [f"and {more} more"] if more > 0 else []
    return Said(f"{what} {done}. Not done: {'; '.join(told)}", ok=False)


async def _drain(board: Operations, elsewhere: Elsewhere, instance: str, by: str) -> None:
    """Here by the state directory, on another host by a link."""
    away = next((each for each in board.workers() if each.instance == instance), None)
    if away is None or away.here:
        await asyncio.to_thread(board.drain, instance, by)
    else:
        await elsewhere.drain(away, by)


async def _freeze(board: Operations, elsewhere: Elsewhere, verb: str, name: str, by: str) -> Said:
    """Here, and on the other hosts that are heard of."""
    action, _, word = verb.partition("-")
    kind: Kind = "peer" if word == "peer" else "link"
    call = board.freeze if action == "freeze" else board.thaw
    await asyncio.to_thread(call, kind, name, by)
    wanted: Action = "freeze" if action == "freeze" else "thaw"
    untold = await elsewhere.freeze(board, wanted, kind, name, by)
    done = (
        f"The {kind} {name} is frozen: nothing is asked of it until it is thawed."
        if action == "freeze"
        else f"The {kind} {name} is thawed."
    )
    return Said(f"{done} Not told: {'; '.join(untold)}", ok=False) if untold else Said(done)


async def _dead_letters(board: Operations, verb: str, given: Fields, by: str) -> Said:
    link, sender, reason = (first(given, name) for name in ("link", "sender", "reason"))
    if not link:
        raise UsageError("no link is named")
    call = board.requeue if verb == "requeue" else board.discard
    number = await call(link, sender, reason, by)
    word = "put back into the queue" if verb == "requeue" else "discarded"
    return Said(f"{number} dead letter{'' if number == 1 else 's'} {word}.")


def refused(error: ChunkqError) -> Said:
    """What a person is told of an error."""
    return Said(f"{error.message}. {error.hint}." if error.hint else f"{error.message}.", ok=False)
