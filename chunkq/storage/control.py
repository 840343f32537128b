"""What people want of running processes: small files in `control/` of the state directory.

    <job id>.pause | .cancel | .priority   a wish about a job that a process has in hand
    peer-<hash>.frozen  link-<hash>.frozen nothing is asked of that peer, or over that link
    <hash>.drain                           that process is to take nothing new and to end

Names come from ids and hashes, never from what was typed; who wanted it is in the file. A wish is
taken by the process that has the job, or by the next that claims it, and so outlives a crash.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import blake2b
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from chunkq.errors import StorageError, UsageError
from chunkq.protocol.limits import KIB
from chunkq.storage import descriptors
from chunkq.storage.closing import close
from chunkq.storage.job import NAME, SUFFIX
from chunkq.storage.journal import Event, Journal, What
from chunkq.storage.mapping import storage_errors

#: A wish is some hundred bytes; a reason that somebody gave may be longer.
MAX_FILE_SIZE_BYTES: Final = 16 * KIB
#: More files than jobs that processes have in hand at once: clutter, and no reason to read it all.
MAX_FILES: Final = 20_000
#: Reasons and names are cut to this: they are shown in tables.
MAX_TEXT_CHARS: Final = 500
#: What a killed process left half written is removed after so long; no writing takes a minute.
_DEBRIS_AGE_S: Final = 3600.0
#: A drain that nobody heeded in this time was meant for a process that is gone.
_DRAIN_AGE_S: Final = 7 * 86400.0
#: At a change within this time of the last look, the directory's time of change may not show it.
_TICK_NS: Final = 100_000_000

Want = Literal["pause", "cancel", "priority"]
Kind = Literal["peer", "link"]
_WANTS: Final[tuple[Want, ...]] = ("cancel", "pause", "priority")
_ID: Final = NAME.pattern.removesuffix(re.escape(SUFFIX))
_WISH: Final = re.compile(rf"({_ID})\.(cancel|pause|priority)")
_FROZEN: Final = re.compile(r"(peer|link)-[0-9a-f]{32}\.frozen")
#: Fields for people alone: they are cut, and made text whatever they were.
_TOLD: Final = frozenset({"by", "why"})
_DRAIN: Final = re.compile(r"[0-9a-f]{32}\.drain")
_TEMPORARY: Final = re.compile(r".*\.[0-9]+\.tmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody wants of a job. `drop`: with a cancellation, remove what has come of it."""

    job_id: str
    want: Want
    priority: str = ""
    drop: bool = False
    by: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Frozen:
    """Who froze a peer or a link, when and why."""

    by: str = ""
    at_ms: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Freeze:
    kind: Kind
    name: str
    by: str = ""
    at_ms: int = 0
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Drain:
    instance: str
    by: str = ""
    at_ms: int = 0


@cache
def _parsers() -> dict[type[Any], TypeAdapter[Any]]:
    """What the files may hold, types and all: anybody may have put something there."""
    return {kind: TypeAdapter(kind) for kind in (Wish, _Freeze, _Drain)}


class Control:
    """The wishes below a state directory, shared by any number of processes.

    Blocks; raises `StorageError`. What cannot be read is left out.
    """

    def __init__(
        self, state_dir: str | os.PathLike[str], *, wall_s: Callable[[], float] = time.time
    ) -> None:
        self.path = os.path.join(os.path.abspath(state_dir), "control")
        self._wall_s = wall_s
        self._journal = Journal(state_dir)
        with storage_errors("mkdir", self.path):
            os.makedirs(self.path, mode=0o700, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        self._seen: tuple[int, dict[str, Any]] = (-1, {})
        self._reading = threading.Lock()

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            close(fd)

    # ------------------------------------------------------------ jobs

    def wish(self, wish: Wish) -> None:
        """Leave it, durably, instead of an earlier one of that kind about that job."""
        name = f"{wish.job_id}.{wish.want}"
        if not _WISH.fullmatch(name):
            raise UsageError(f"{wish.job_id[:80]!a} is no id of a transfer")
        self._write(name, wish)

    def wishes(self) -> list[Wish]:
        """All, a cancellation before a pause, a pause before a priority."""
        found = [
            each
            for name, each in self._look().items()
            if isinstance(each, Wish) and name == f"{each.job_id}.{each.want}"
        ]
        return sorted(found, key=lambda each: (_WANTS.index(each.want), each.at_ms, each.job_id))

    def wishes_of(self, job_id: str) -> list[Wish]:
        """Those about one job, read now."""
        found = (self._read(f"{job_id}.{want}") for want in _WANTS)
        return [each for each in found if isinstance(each, Wish) and each.job_id == job_id]

    def take(self, job_id: str, *wants: Want) -> None:
        """They are fulfilled, or moot: all about that job, or those named."""
        for want in wants or _WANTS:
            name = f"{job_id}.{want}"
            if _WISH.fullmatch(name):
                descriptors.remove_if_there(self._fd, name)

    # ------------------------------------------------------------ peers and links

    def freeze(self, kind: Kind, name: str, by: str, why: str = "") -> None:
        """From now on nothing is asked of that peer, or over that link; durably."""
        freeze = _Freeze(kind=kind, name=name, by=by, at_ms=self._now_ms(), why=why)
        self._write(_frozen_name(kind, name), freeze)
        self._tell("peer_frozen" if kind == "peer" else "link_frozen", name, by, detail=why)

    def thaw(self, kind: Kind, name: str, by: str = "") -> bool:
        """Go on with it; False if it was not frozen."""
        there = isinstance(self._read(_frozen_name(kind, name)), _Freeze)
        descriptors.remove_if_there(self._fd, _frozen_name(kind, name))
        self._sync()
        if there:
            self._tell("peer_thawed" if kind == "peer" else "link_thawed", name, by)
        return there

    def frozen(self) -> dict[tuple[Kind, str], Frozen]:
        """The frozen peers and links."""
        return {
            (each.kind, each.name): Frozen(by=each.by, at_ms=each.at_ms, why=each.why)
            for file, each in self._look().items()
            if isinstance(each, _Freeze) and file == _frozen_name(each.kind, each.name)
        }

    # ------------------------------------------------------------ processes

    def drain(self, instance: str, by: str) -> None:
        """That process is to take nothing new, to finish what it has, and to end."""
        self._write(_drain_name(instance), _Drain(instance=instance, by=by, at_ms=self._now_ms()))
        self._tell("drained", instance, by)

    def draining(self) -> set[str]:
        """The instances of the processes that are to end."""
        return {
            each.instance
            for file, each in self._look().items()
            if isinstance(each, _Drain) and file == _drain_name(each.instance)
        }

    def drained_by(self, instance: str) -> str:
        """Who wants that process to end."""
        found = self._read(_drain_name(instance))
        return found.by if isinstance(found, _Drain) else ""

    def ended(self, instance: str) -> None:
        """The process ended; or another begins under its name, which nobody has drained."""
        descriptors.remove_if_there(self._fd, _drain_name(instance))

    # ------------------------------------------------------------ clutter

    def sweep(self, is_moot: Callable[[str], bool]) -> None:
        """Remove wishes about jobs of which `is_moot(job id)`, and what nobody will take."""
        for name in self._names():
            wish = _WISH.fullmatch(name)
            if wish is not None:
                if is_moot(wish[1]):
                    descriptors.remove_if_there(self._fd, name)
                continue
            limit_s = _DEBRIS_AGE_S if _TEMPORARY.fullmatch(name) else _DRAIN_AGE_S
            if _FROZEN.fullmatch(name) or not (
                _TEMPORARY.fullmatch(name) or _DRAIN.fullmatch(name)
            ):
                continue
            with storage_errors("stat", self.path):
                try:
                    age_s = self._wall_s() - os.stat(name, dir_fd=self._fd).st_mtime
                except FileNotFoundError:
                    continue
            if age_s > limit_s:
                descriptors.remove_if_there(self._fd, name)

    # ------------------------------------------------------------ files

    def _look(self) -> dict[str, Any]:
        """What is in the directory, read again only if that has changed."""
        with self._reading, storage_errors("readdir", self.path):
            changed_ns = os.fstat(self._fd).st_mtime_ns
            known_ns, known = self._seen
            if changed_ns != known_ns:
                names = (name for name in self._names() if _kind_of(name) is not None)
                read = ((name, self._read(name)) for name in names)
                known = {name: each for name, each in read if each is not None}
                # another change in the same tick would leave the same time
                settled = abs(self._wall_s() * 1e9 - changed_ns) > _TICK_NS
                self._seen = (changed_ns if settled else -1, known)
            return known

    def _names(self) -> Iterator[str]:
        with storage_errors("readdir", self.path), os.scandir(self._fd) as entries:
            for _, entry in zip(range(MAX_FILES), entries, strict=False):
                yield entry.name

    def _read(self, name: str) -> Any:
        """What a file says; None if it is not there or says nothing that holds."""
        kind = _kind_of(name)
        if kind is None:
            return None
        path = os.path.join(self.path, name)
        try:
            raw = descriptors.read_file(self._fd, name, path, MAX_FILE_SIZE_BYTES)
            return None if raw is None else _parsers()[kind].validate_json(raw, strict=True)
        except (ValueError, StorageError):
            return None

    def _write(self, name: str, content: Wish | _Freeze | _Drain) -> None:
        fields = asdict(content)
        raw = json.dumps(
            {key: _cut(value) if key in _TOLD else value for key, value in fields.items()}
        ).encode()
        descriptors.replace_file(
            self._fd,
            name,
            os.path.join(self.path, name),
            [raw],
            temporary=f"{name}.{threading.get_native_id()}{descriptors.TEMPORARY_SUFFIX}",
        )

    def _tell(self, what: What, subject: str, by: str, detail: str = "") -> None:
        event = Event(at_ms=self._now_ms(), what=what, subject=subject, by=by, detail=detail)
        self._journal.add(event)

    def _sync(self) -> None:
        with storage_errors("fsync", self.path, sync=True):
            descriptors.sync_directory(self._fd)

    def _now_ms(self) -> int:
        return int(self._wall_s() * 1000)


def _kind_of(name: str) -> type[Any] | None:
    if _WISH.fullmatch(name):
        return Wish
    if _FROZEN.fullmatch(name):
        return _Freeze
    return _Drain if _DRAIN.fullmatch(name) else None


def _hash(name: str) -> str:
    try:
        return blake2b(name.encode(), digest_size=16).hexdigest()
    except UnicodeEncodeError:
        raise UsageError(f"{name[:80]!a} is no name") from None


def _frozen_name(kind: Kind, name: str) -> str:
    return f"{kind}-{_hash(name)}.frozen"


def _drain_name(instance: str) -> str:
    return f"{_hash(instance)}.drain"


def _cut(text: str) -> str:
    return text[:MAX_TEXT_CHARS].encode(errors="replace").decode()
