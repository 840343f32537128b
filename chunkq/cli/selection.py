"""Which transfers a command is about: by id, by the beginning of an id, by source, by filter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from chunkq.errors import NotFound, UsageError

if TYPE_CHECKING:
    from chunkq.api.views import Filter
    from chunkq.settings import Settings
    from chunkq.storage.job import Job, JobState
    from chunkq.storage.jobs import JobStore

NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[TRANSFER...]", help="Ids, beginnings of ids, or sources (beta:docs/x)."
    ),
]
PeerOption = Annotated[str | None, typer.Option("--peer", help="Those from this peer.")]
StateOption = Annotated[
    list[str] | None, typer.Option("--state", help="Those in this state, e.g. failed.")
]
ReasonOption = Annotated[
    list[str] | None, typer.Option("--reason", help="Those for this reason, e.g. disk_full.")
]
TextOption = Annotated[
    str | None, typer.Option("--text", help="Those with this in source or destination.")
]
AllOption = Annotated[bool, typer.Option("--all", help="All for which it makes sense.")]

_Word = TypeVar("_Word", bound=StrEnum)
#: Shorter beginnings of the second part of an id are of too many.
LEAST_CHARS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What was given on the command line. `ids`: only of these; None: of any."""

    names: Sequence[str]
    filter: Filter
    everything: bool = False
    ids: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        names: Sequence[str] | None,
        *,
        peer: str | None,
        states: Sequence[str] | None,
        reasons: Sequence[str] | None,
        text: str | None,
        everything: bool,
    ) -> Chosen:
        """Raises `UsageError` for words that mean nothing, and if nothing was given."""
        from chunkq.api.views import Filter

        given = filter_of(peer=peer, states=states, reasons=reasons, text=text)
        if names and (everything or given != Filter()):
            raise UsageError("give transfers, or a filter, not both")
        if not names and not everything and given == Filter():
            raise UsageError(
                "which transfers?", hint="give ids from `chunkq status`, a filter, or --all"
            )
        return cls(names=tuple(names or ()), filter=given, everything=everything)


def filter_of(
    *,
    peer: str | None,
    states: Sequence[str] | None,
    reasons: Sequence[str] | None,
    text: str | None,
) -> Filter:
    """The filter of these options. Raises `UsageError` for words that mean nothing."""
    from chunkq.api.views import Filter
    from chunkq.protocol.condition import Reason, State

    return Filter(
        peer=peer or "",
        text=text or "",
        states=frozenset(_word(State, each, "state") for each in states or ()),
        reasons=frozenset(_word(Reason, each, "reason") for each in reasons or ()),
    )


def as_shown(chosen: Chosen, settings: Settings) -> Chosen:
    """States and reasons are those that `chunkq status` shows now: which transfers have them?"""
    from chunkq.api.lists import matching
    from chunkq.api.operations import Operations

    if not chosen.filter.states and not chosen.filter.reasons:
        return chosen
    operations = Operations(settings, by="")
    try:
        operations.refresh()
        found = matching(operations.rows(), chosen.filter)
    finally:
        operations.close()
    return replace(chosen, ids=frozenset(row.id for row in found))


def select(
    store: JobStore, chosen: Chosen, sensible: frozenset[JobState]
) -> tuple[list[Job], list[NotFound]]:
    """The transfers, oldest first, and what was named and is not there.

    A filter, and a source, choose only among those in a `sensible` state; of a source that has none
    the newest is meant. Reads the job files; nothing need be running. Raises `UsageError` for the
    beginning of several ids.
    """
    jobs = _read(store)
    if not chosen.names:
        matching = _matching(chosen)
        return [job for job in jobs if job.state in sensible and matching(job)], []
    found: dict[str, Job] = {}
    missing: list[NotFound] = []
    for name in chosen.names:
        named = _named(name, jobs, sensible)
        if not named:
            missing.append(NotFound(f"there is no transfer {name!a}", hint="chunkq status"))
        found.update((job.job_id, job) for job in named)
    return sorted(found.values(), key=lambda job: job.job_id), missing


def _read(store: JobStore) -> list[Job]:
    """All jobs, oldest first."""
    found = sorted(store.scan(), key=lambda each: each[1])
    read = (store.read(state, name) for state, name, _ in found)
    return [job for job in read if job is not None]


def _named(name: str, jobs: Sequence[Job], sensible: frozenset[JobState]) -> list[Job]:
    if ":" in name:
        of_source = [job for job in jobs if name in job.sources]
        return [job for job in of_source if job.state in sensible] or of_source[-1:]
    exact = [job for job in jobs if job.job_id == name]
    if exact or not name:
        return exact
    begun = [
        job
        for job in jobs
        if job.job_id.startswith(name)
        or (len(name) >= LEAST_CHARS and job.job_id.partition("-")[2].startswith(name))
    ]
    if len(begun) > 1:
        ids = ", ".join(job.job_id for job in begun[:3])
        raise UsageError(f"{name!a} is the beginning of {len(begun)} ids: {ids}", hint="give more")
    return begun


def _matching(chosen: Chosen) -> Callable[[Job], bool]:
    """Whether a job is meant by the filter: all that is given must hold."""
    wanted, text = chosen.filter, chosen.filter.text.casefold()

    def matches(job: Job) -> bool:
        told = "\n".join((*job.sources, job.destination)).casefold()
        return (
            (chosen.ids is None or job.job_id in chosen.ids)
            and (not wanted.peer or job.peer == wanted.peer)
            and text in told
        )

    return matches


def _word(kind: type[_Word], given: str, what: str) -> _Word:
    try:
        return kind(given)
    except ValueError:
        known = ", ".join(each.value for each in kind)
        raise UsageError(f"no {what} is called {given!a}", hint=f"known: {known}") from None
