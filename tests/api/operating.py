"""A site with jobs and staging on disk and nothing running, for what an operator sees of it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chunkq.api.operations import Operations
from chunkq.api.source import Source
from chunkq.compose import ref_of
from chunkq.protocol.condition import State
from chunkq.protocol.report import Report
from chunkq.settings import Registry, load
from chunkq.storage.destination import Destination
from chunkq.storage.jobs import JobStore
from chunkq.storage.places import Places
from chunkq.storage.staging import Staging
from chunkq.storage.transferid import transfer_id
from tests.storage.samples import a_header, a_state
from tests.support.quick import quick

NOW_MS = 1_700_000_000_000
INCARNATION = "00" * 16


@dataclass(slots=True)
class Operated:
    """The site `alice`, who knows `bob` and `carol`. Its clock stands unless `now_ms` is set."""

    root: Path
    now_ms: int = NOW_MS
    opened: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("alice", "bob", "carol"):
            quick(*self.arguments(name), "init", "--name", name)
        for name in ("bob", "carol"):
            quick(*self.arguments("alice"), "peer", "add", quick(*self.arguments(name), "id"))
        self.settings = load(config_dir=self.config, state_dir=self.state, environ={}).settings
        self.store = JobStore(self.state)
        self.inbox = self.root / "inbox"
        self.inbox.mkdir()
        self.operations = Operations(
            self.settings, by="erin@host", wall_ns=lambda: self.now_ms * 1_000_000
        )
        self.opened += [self.store, self.operations]

    settings: Any = None
    store: Any = None
    operations: Any = None
    inbox: Any = None

    def arguments(self, name: str) -> list[str]:
        place = self.root / name
        return ["--config-dir", str(place / "config"), "--state-dir", str(place / "state")]

    @property
    def config(self) -> Path:
        return self.root / "alice" / "config"

    @property
    def state(self) -> Path:
        return self.root / "alice" / "state"

    def job(self, source: str = "bob:docs/a", destination: str = "a", number: int = 0) -> str:
        """A job that waits."""
        where = str(self.inbox / destination)
        found = self.store.add((source,), where, created_ms=NOW_MS + number)
        return str(found.job_id)

    def stage(
        self,
        source: str = "bob:docs/a",
        destination: str = "a",
        present: Sequence[int] = (),
        phase: int = 2,
    ) -> Staging:
        """What a process that gets it would have on disk; it holds it until `close`."""
        named = Source.parse(source)
        origin = ref_of(Registry(self.settings.directories).peer(named.peer)).first_id
        parts = (destination,)
        place = Destination.for_file(self.inbox / destination)
        Places(self.state).remember(place.path)
        found = Staging(place, transfer_id(origin, named.share, named.path, parts))
        found.begin(a_header(site=named.peer, share=named.share, path=named.path))
        found.state.store(a_state(1, tuple(present), phase=phase))
        self.opened += [found, place]
        return found

    def refresh(self) -> set[str]:
        return set(self.operations.refresh())

    def row(self, job_id: str) -> Any:
        return self.operations.transfer(job_id).row

    def told(self, job_id: str) -> tuple[str, str, str]:
        """State, reason and detail."""
        row = self.row(job_id)
        return str(row.state), str(row.reason or ""), row.detail

    def close(self) -> None:
        for each in reversed(self.opened):
            each.close()


def a_report(role: str = "requester", *, at_ms: int = NOW_MS, **fields: Any) -> Report:
    """What a process of another host says."""
    told: dict[str, Any] = {
        "site": "alice",
        "host": "other",
        "pid": 42,
        "role": role,
        "instance": "requester-1",
        "incarnation": INCARNATION,
        "software": "0.1.0",
        "started_ms": NOW_MS - 60_000,
        "at_ms": at_ms,
    }
    return Report(**{**told, **fields})


def a_transfer(job_id: str, state: State = State.RUNNING, **fields: Any) -> dict[str, Any]:
    """What it says of one transfer."""
    return {"transfer": job_id, "state": state, "source": "bob:docs/a", **fields}


def age(path: Path) -> None:
    """Let everything below have changed long ago."""
    for each in (path, *path.rglob("*")):
        os.utime(each, (NOW_MS / 1000 - 3600,) * 2, follow_symlinks=False)
